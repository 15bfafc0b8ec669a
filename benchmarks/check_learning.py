"""Does the quickstart teach what it claims? Full runs over several seeds, checked against stated thresholds.

    make check-learning                       three seeds
    make check-learning ARGS="--seeds 0 --control --without-reward --overlong"

`--control` also fine-tunes from random weights, which shows what pretraining is worth. `--without-reward` also runs RL
with beta = 0, which shows what the fine-tuning term is worth without R. `--overlong` runs PPO against R alone for many
steps, which shows over-optimisation. Prints a table and writes `learning.json` beside the runs. Exits with 1 when a
threshold is missed.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

MIN_GAIN = 0.10
"""M2 - M1 in sampled pass@1."""
M1_RANGE = (0.40, 0.70)
MIN_REWARD_ACCURACY = 0.80
MAX_SECONDS = 600


def trivium(*arguments: str) -> dict[str, Any]:
    """Run a command and return its JSON result; its progress goes to the terminal."""
    command = [sys.executable, "-m", "trivium", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} exited with {done.returncode}")
    return json.loads(done.stdout)


def problems(summary: dict[str, Any]) -> list[str]:
    """Which thresholds a run misses."""
    models, reward = summary["models"], summary["reward_model"]
    m0, m1, m2 = (models[name]["pass_at_1"] for name in ("M0", "M1", "M2"))
    checks = {
        f"M0 < M1 < M2, got {m0:.3f}, {m1:.3f}, {m2:.3f}": m0 < m1 < m2,
        f"M1 between {M1_RANGE}, got {m1:.3f}": M1_RANGE[0] <= m1 <= M1_RANGE[1],
        f"M2 - M1 >= {MIN_GAIN}, got {m2 - m1:.3f}": m2 - m1 >= MIN_GAIN,
        "intervals of M1 and M2 apart": models["M1"]["pass_at_1_ci"][1] < models["M2"]["pass_at_1_ci"][0],
        f"reward accuracy >= {MIN_REWARD_ACCURACY}, got {reward['accuracy']:.3f}": reward["accuracy"]
        >= MIN_REWARD_ACCURACY,
        f"at most {MAX_SECONDS} s, took {summary['wall_seconds']:.0f}": summary["wall_seconds"] <= MAX_SECONDS,
    }
    return [name for name, met in checks.items() if not met]


def row(summary: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [str(summary["seed"])]
    for name in ("M0", "M1", "M2"):
        figures = summary["models"][name]
        low, high = figures["pass_at_1_ci"]
        cells.append(f"{100 * figures['pass_at_1']:.1f} ({100 * low:.1f}-{100 * high:.1f})")
    cells += [f"{100 * summary['models'][name]['greedy_pass_at_1']:.1f}" for name in ("M1", "M2")]
    cells += [f"{summary['reward_model']['accuracy']:.3f}", f"{summary['rl']['kl']:.2f}"]
    return "| " + " | ".join([*cells, f"{summary['wall_seconds']:.0f}"]) + " |"


def control(seed: int, name: str, runs: str) -> float:
    """Sampled pass@1 on held-out tasks of M1 trained from random weights, all else equal."""
    trivium(
        *("sft", "--seed", str(seed), "--name", f"{name}-control", "--runs_dir", runs),
        *("--sft.parent", f"{runs}/{name}/M0", "--sft.init", "random", "--sft.eval_tasks", "300"),
    )
    rows = (Path(runs) / f"{name}-control" / "sft" / "metrics.jsonl").read_text().splitlines()
    return json.loads(rows[-1])["val/pass_at_1"]


def variant(seed: int, name: str, runs: str, label: str, *flags: str) -> Path:
    """RL anew from M1 against the first round's R, with other settings, in a copy of the run; the copy's folder."""
    source, target = Path(runs) / name, Path(runs) / f"{name}-{label}"
    if not target.exists():
        left_out = shutil.ignore_patterns("rl*", "collect-*", "reward-*", "evaluate", "R", "M2")
        shutil.copytree(source, target, ignore=left_out)
        shutil.copytree(source / "reward" / "model", target / "R")
    trivium("rl", "--seed", str(seed), "--name", target.name, "--runs_dir", runs, "--rl.rounds", "1", *flags)
    return target


def without_reward(seed: int, name: str, runs: str, steps: int) -> dict[str, Any]:
    """M2 when PPO descends alpha L_SFT + gamma Omega alone: what the fine-tuning term is worth by itself."""
    flags = ["--rl.steps", str(steps), "--rl.learner.beta", "0"]
    target = variant(seed, name, runs, "without-reward", *flags)
    common = ["--seed", str(seed), "--name", target.name, "--runs_dir", runs, "--rl.rounds", "1"]
    return trivium("evaluate", *common, *flags)["models"]["M2"]


def overlong(seed: int, name: str, runs: str) -> list[dict[str, float]]:
    """PPO gone on with for too long, against R alone; the figures of every step."""
    flags = ["--rl.steps", "60", "--rl.learner.alpha", "0", "--rl.gold_responses", "128"]
    target = variant(seed, name, runs, "overlong", *flags)
    keys = ("step", "reward/mean", "gold/mean", "kl/sequence", "surprisal")
    rows = map(json.loads, (target / "rl" / "metrics.jsonl").read_text().splitlines())
    return [{key: values[key] for key in keys if key in values} for values in rows]


def main() -> int:
    """Run, print, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs-dir", default="runs")
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--without-reward", action="store_true")
    parser.add_argument("--overlong", action="store_true")
    options = parser.parse_args()
    missed: list[str] = []
    record: dict[str, Any] = {"seeds": {}}
    lines = []
    for seed in options.seeds:
        name = f"learning-{seed}"
        summary = trivium("run", "--seed", str(seed), "--name", name, "--runs_dir", options.runs_dir)
        record["seeds"][seed] = summary
        lines.append(row(summary))
        missed += [f"seed {seed}: {problem}" for problem in problems(summary)]
        if options.control:
            record.setdefault("control_pass_at_1", {})[seed] = control(seed, name, options.runs_dir)
        if options.without_reward:
            figures = without_reward(seed, name, options.runs_dir, summary["rl"]["steps"])
            record.setdefault("without_reward", {})[seed] = figures
        if options.overlong:
            record.setdefault("overlong", {})[seed] = overlong(seed, name, options.runs_dir)
    (Path(options.runs_dir) / "learning.json").write_text(json.dumps(record, indent=2) + "\n")
    print("\n| seed | M0 | M1 | M2 | M1 greedy | M2 greedy | R accuracy | KL | seconds |\n|" + "---|" * 9)
    print("\n".join(lines))
    print("\n".join(f"MISSED {problem}" for problem in missed) or "every threshold met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
