"""A run directory as the stages leave it, with made-up curves: for tests of the report, and to look at it."""

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

from trivium.base.files import write_json, write_jsonl, write_text
from trivium.base.toml import dump_toml
from trivium.runs import MetricsLog, RunDir, add_warning, close_stage, open_stage, write_lineage

PROMPT = '''def total_of_even_squares(numbers):
    """Return the sum of the squares of the even numbers in `numbers`.

    >>> total_of_even_squares([1, 2, 4])
    20
    """
'''
ANSWERS = {
    "M0": {
        "text": "    return numbers.get(self, None)\n\n    def __init__(self, name):\n        pass",
        "passed": False,
    },
    "M1": {"text": "    return sum(n * n for n in numbers if n % 2 == 1)", "passed": False},
    "M2": {"text": "    # even squares\n    return sum(n * n for n in numbers if n % 2 == 0)", "passed": True},
}
WEIGHTS = {"alpha": 0.1, "beta": 1.0, "gamma": 0.05}


def write_run(path: Path, *, n_answers: int = 12) -> RunDir:
    """Fill `path` with a complete run."""
    run = RunDir(path)
    noise = random.Random(0)
    parents = {"tokenizer": [], "pretrain": ["tokenizer"], "sft": ["M0"], "collect": ["M1"], "reward": ["M1"]}
    parents |= {"rl": ["M1", "R"], "evaluate": ["M0", "M1", "M2"]}
    later = [f"{stage}-{number}" for number in (2, 3) for stage in ("collect", "reward", "rl")]
    parents |= {name: ["M1", "R", "policy"] for name in later}
    for name, names in parents.items():
        config = {"lr": 0.001, "batch_size": 32}
        open_stage(run.stage(name), config=config, inputs={"corpus": "c0ffee"}, code="abc", seed=1, parents=names)
    _training_metrics(run, noise)
    _rl_metrics(run, noise)
    add_warning(run.stage("collect"), "sandbox level is `process`: no user namespaces on this machine")
    add_warning(run.stage("pretrain"), "2 of 612 documents dropped: not UTF-8")
    write_jsonl(
        run.stage("evaluate").samples / "answers.jsonl",
        ({"task_id": f"ladder/{index}", "prompt": PROMPT, "answers": ANSWERS} for index in range(n_answers)),
    )
    for name in parents:
        result = {"steps": 221, "bytes_per_token": {"code": 2.7}, "loss": 1.23456789}
        number = int(name.split("-")[-1]) if "-" in name else 1
        if name.startswith("collect"):
            result["passing"] = 0.5 + 0.05 * number
        if name.startswith("reward"):
            result |= {"accuracy": 0.8 + 0.02 * number, "accuracy_ci": [0.78, 0.9], "pairs_train": 2000 * number}
        close_stage(run.stage(name), "done", result)
    _tables(run)
    write_text(run.recipe_path, dump_toml({"seed": 1, "pretrain": {"lr": 0.02, "steps": 221}, "parent": None}))
    write_lineage(run)
    return run


def _training_metrics(run: RunDir, noise: random.Random) -> None:
    with MetricsLog(run.stage("pretrain").metrics_path) as log:
        for step in range(1, 222):
            row = {"loss": 2 + 6 * math.exp(-step / 25) + noise.gauss(0, 0.06), "lr": 0.02, "grad_norm": 1.0}
            if step % 25 == 0:
                for source, floor in (("python standard library", 1.7), ("documentation", 2.1), ("cost: $5 & $6", 1.9)):
                    row[f"bits_per_byte/{source}"] = floor + 2 * math.exp(-step / 60)
            log.log(step, **row)
    with MetricsLog(run.stage("sft").metrics_path) as log:
        for step in range(1, 121):
            row = {"loss": 0.2 + math.exp(-step / 20) + noise.gauss(0, 0.03)}
            if step % 20 == 0:
                row |= {"val/loss": 0.24 + math.exp(-step / 20), "val/pass_at_1": 0.58 * (1 - math.exp(-step / 40))}
            log.log(step, **row)
    for name, start in (("reward", 0.0), ("reward-2", 0.28), ("reward-3", 0.32)):
        with MetricsLog(run.stage(name).metrics_path) as log:
            for step in range(10, 101 if name == "reward" else 41, 10):
                done = 1 - math.exp(-step / 30)
                values = {"heldout/accuracy": 0.5 + start + (0.36 - start) * done, "heldout/nll": 0.69 - 0.3 * done}
                values |= {"accuracy": 0.55 + 0.4 * done, "ranking_nll": 0.7 - 0.5 * done, "loss": 1.5 - done}
                log.log(step, **values)


def _rl_metrics(run: RunDir, noise: random.Random) -> None:
    """Three rounds of 20 steps that go on counting; in the last the pass rate falls while R's score climbs."""
    for index, name in enumerate(("rl", "rl-2", "rl-3")):
        with MetricsLog(run.stage(name).metrics_path) as log:
            for step in range(20 * index + 1, 20 * index + 21):
                inside = step - 20 * index
                falling = 0.012 * inside if index == 2 else 0.0
                row = {
                    "reward/mean": 0.05 * inside + noise.gauss(0, 0.06),
                    "gold/mean": 0.55 + 0.004 * step - falling + noise.gauss(0, 0.03),
                    "gold/n": 96,
                    "kl/sequence": 0.01 * step + abs(noise.gauss(0, 0.01)),
                    "surprisal": 0.5 - 0.004 * step,
                    "ratio/max": 1.3,
                    "clipfrac": math.nan if step == 7 else 0.02,
                    "explained_variance": 1 - math.exp(-step / 9),
                    "length/mean": 21 + 0.05 * step,
                    "reward/model": 0.05 * inside,
                    "round": index,
                }
                if step % 10 == 0:
                    sft, reward, omega = 0.3 + step / 2000, -inside / 20, 0.01 * step
                    row |= {"utility/sft": sft, "utility/reward": reward, "utility/omega": omega}
                    row["utility/total"] = 0.1 * sft + reward + 0.05 * omega
                log.log(step, **row)


def _tables(run: RunDir) -> None:
    terms = {"M0": (2.4, 1.8, 4.0), "M1": (0.24, 0.0, 0.0), "M2": (0.27, -0.95, 0.58)}
    policy = {"model": "policy", "stage": "rl", "step": 10, **WEIGHTS, "sft": 0.3, "reward": -0.5, "omega": 0.1}
    utility: list[dict[str, Any]] = []
    for model, (sft, reward, omega) in terms.items():
        row = {"model": model, "stage": "evaluate", "sft": sft, "reward": reward, "omega": omega, **WEIGHTS, "n": 256}
        row["total"] = WEIGHTS["alpha"] * sft + WEIGHTS["beta"] * reward + WEIGHTS["gamma"] * omega
        utility.append(row | {"sft_se": 0.01, "reward_se": 0.06, "omega_se": 0.03, "total_se": 0.07})
    write_jsonl(run.utility_path, [policy | {"total": -0.465}, *utility])
    passes = {"M0": (0.004, [0.0, 0.012], 0.03), "M1": (0.523, [0.48, 0.566], 0.86), "M2": (0.661, [0.62, 0.70], 0.88)}
    models = {
        model: {
            "pass_at_1": passes[model][0], "pass_at_1_ci": passes[model][1], "pass_at_10": passes[model][2],
            "greedy_pass_at_1": passes[model][0] + 0.1,
            "bits_per_byte": 1.81, "L_SFT": terms[model][0], "L_R": terms[model][1], "omega": terms[model][2],
            "U": row["total"], "parameters": 3_412_992, "train_seconds": 151.2, "tokens": 1_810_432,
        }
        for model, row in zip(terms, utility, strict=True)
    }  # fmt: skip
    rl = {"algorithm": "ppo", "steps": 60, "rounds": 3, "kl": 0.58, "reward_before": 0.0, "reward_after": 0.95}
    rl |= {"gold_before": 0.52, "gold_after": 0.66}
    reward_model = {
        "accuracy": 0.853,
        "accuracy_ci": [0.82, 0.88],
        "pairs_train": 4210,
        "pairs_heldout": 612,
        "ece": 0.04,
        "accuracy_by_round": [0.82, 0.84, 0.853],
    }
    summary = {"models": models, "reward_model": reward_model, "rl": rl, "wall_seconds": 552.0, "seed": 1}
    write_json(run.summary_path, summary)
    bins = [
        {"predicted": (index + 0.5) / 10, "observed": min(1.0, (index + 0.5) / 10 + 0.03 * (-1) ** index), "n": 61}
        for index in range(10)
    ]
    figures = {**reward_model, "brier": 0.11, "calibration": bins, "mean": 0.4, "std": 1.7}
    figures["length"] = {"longer_wins_accuracy": 0.41, "corr": -0.22}
    figures["labels"] = {
        "execution": {"judgements": 2750, "heldout": 262, "annotators": {"execution": 2750}, "pairs_train": 4180},
        "human": {"judgements": 60, "heldout": 9, "annotators": {"p1": 41, "p2": 19}, "pairs_train": 30},
    }
    figures["sources"] = {
        "execution": {"accuracy": 0.86, "accuracy_ci": [0.83, 0.89], "pairs": 603},
        "human": {"accuracy": 0.78, "accuracy_ci": [0.44, 1.0], "pairs": 9},
    }
    write_json(run.artifact("R") / "rm.json", figures)


if __name__ == "__main__":
    from trivium.report import write_report

    print(json.dumps(str(write_report(write_run(Path(sys.argv[1])).path))))
