"""Tables (to standard output) and figures of a study's rows, as `benchmarks/study_rlhf.py` writes them.

python scripts/study_page.py docs/studies/rlhf.jsonl docs/studies
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy import stats

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "trivium", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
matplotlib.rcParams |= {"axes.spines.right": False, "figure.figsize": (6.5, 3.2), "figure.constrained_layout.use": True}
from matplotlib import pyplot as plt  # noqa: E402

Row = dict[str, Any]
INK = ["#1f5fa8", "#c2571a", "#4b8b3b", "#7a4fa0"]


def percent(value: float) -> str:
    """0.5312 -> 53.1."""
    return f"{100 * value:.1f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]) + "\n"


def mean_over_runs(values: Sequence[float]) -> str:
    """Mean with a t interval over runs; the value alone where there is one."""
    if len(values) < 2:
        return percent(values[0])
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{percent(float(np.mean(values)))} ± {percent(float(half))}"


def algorithms(rows: list[Row], folder: Path) -> str:
    """Every algorithm's gain and U, by run and over runs."""
    chosen = [row for row in rows if row["part"] in ("algorithms", "other-algorithms")]
    names = list(dict.fromkeys(row["label"] for row in chosen))
    lines = []
    for name in names:
        own = [row for row in chosen if row["label"] == name]
        each = ", ".join(
            f"{percent(row['gain'])} ({percent(row['gain_ci'][0])} to {percent(row['gain_ci'][1])})" for row in own
        )
        figures = [np.mean([row[key] for row in own]) for key in ("total", "sft", "reward", "omega")]
        lines.append(
            [f"`{name}`", each, mean_over_runs([row["gain"] for row in own]), *(f"{value:.3f}" for value in figures)]
        )
    axes = plt.subplots()[1]
    for place, name in enumerate(names):
        for shift, row in enumerate(row for row in chosen if row["label"] == name):
            low, high = row["gain_ci"]
            axes.plot([place + 0.15 * shift] * 2, [100 * low, 100 * high], color=INK[shift])
            axes.plot(place + 0.15 * shift, 100 * row["gain"], "o", color=INK[shift], markersize=4)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("gain in pass@1, points")
    axes.set_ylim(bottom=0)
    save(folder / "algorithms.svg")
    return table(["algorithm", "gain by seed, points (95%)", "mean over seeds", "U", "L_SFT", "L_R", "Ω"], lines)


def pairs(rows: list[Row], folder: Path) -> str:
    """Comparisons against R's accuracy, and R's accuracy against the gain."""
    chosen = [row for row in rows if row["part"] == "pairs"]
    lines = []
    for row in chosen:
        low, high = row["reward_accuracy_ci"]
        accuracy = f"{row['reward_accuracy']:.3f} ({low:.3f} to {high:.3f})"
        gain = f"{percent(row['gain'])} ({percent(row['gain_ci'][0])} to {percent(row['gain_ci'][1])})"
        lines.append([row["label"], str(row["train_pairs"]), accuracy, gain, f"{row['omega']:.2f}"])
    left, right = plt.subplots(1, 2)[1]
    accuracy = np.array([row["reward_accuracy"] for row in chosen])
    spread = np.abs(np.array([row["reward_accuracy_ci"] for row in chosen]).T - accuracy)
    left.errorbar([row["train_pairs"] for row in chosen], accuracy, yerr=spread, fmt="o-", color=INK[0])
    left.set_xscale("log")
    left.set_xlabel("comparisons for R")
    left.set_ylabel("R's accuracy, held out")
    gain = 100 * np.array([row["gain"] for row in chosen])
    spread = np.abs(100 * np.array([row["gain_ci"] for row in chosen]).T - gain)
    right.errorbar(accuracy, gain, yerr=spread, fmt="o-", color=INK[1])
    right.set_xlabel("R's accuracy, held out")
    right.set_ylabel("gain in pass@1, points")
    save(folder / "pairs.svg")
    return table(["prompts", "comparisons", "R held out (95%)", "gain, points (95%)", "Ω"], lines)


def weights(rows: list[Row], folder: Path) -> str:
    """The gain and U over the grid of alpha, beta, gamma."""
    chosen = {tuple(json.loads(row["label"]).values()): row for row in rows if row["part"] == "weights"}
    if not chosen:
        return ""
    values = [sorted({key[place] for key in chosen}) for place in range(3)]
    lines = []
    for alpha, beta in [(a, b) for a in values[0] for b in values[1]]:
        cells = [chosen.get((alpha, beta, gamma)) for gamma in values[2]]
        told = [f"{percent(row['gain'])} / {row['omega']:.2f} / {row['sft']:.3f}" if row else "" for row in cells]
        lines.append([f"{alpha:g}", f"{beta:g}", *told])
    panels = plt.subplots(1, len(values[0]), sharey=True)[1]
    for panel, alpha in zip(panels, values[0], strict=True):
        for ink, beta in zip(INK, values[1], strict=False):
            line = [(gamma, chosen[alpha, beta, gamma]) for gamma in values[2] if (alpha, beta, gamma) in chosen]
            gain = 100 * np.array([row["gain"] for _, row in line])
            spread = np.abs(100 * np.array([row["gain_ci"] for _, row in line]).T - gain)
            places = [gamma * (1 + 0.08 * (values[1].index(beta) - 1)) for gamma, _ in line]
            panel.errorbar(places, gain, yerr=spread, fmt="o-", color=ink, label=f"β = {beta:g}")
        panel.set_xscale("log")
        panel.set_xticks(values[2], [f"{gamma:g}" for gamma in values[2]])
        panel.set_xticks([], minor=True)
        panel.set_title(f"α = {alpha:g}")
        panel.set_xlabel("γ")
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("gain in pass@1, points")
    panels[0].legend(frameon=False, loc="lower left")
    save(folder / "weights.svg")
    return table(["α", "β", *(f"γ = {gamma:g}" for gamma in values[2])], lines)


def pretraining(rows: list[Row], folder: Path) -> str:
    """M1 from M0 and from random weights, by the number of examples."""
    chosen = {tuple(row["label"].split()): row for row in rows if row["part"] == "pretraining"}
    counts = sorted({int(count) for count, _ in chosen})
    lines = []
    for count in counts:
        cells = []
        for init in ("parent", "random"):
            row = chosen[str(count), init]
            low, high = row["pass_at_1_ci"]
            cells += [f"{percent(row['pass_at_1'])} ({percent(low)} to {percent(high)})", f"{row['sft']:.3f}"]
        lines.append([f"{count:,}", *cells])
    left, right = plt.subplots(1, 2)[1]
    for ink, init, told in ((INK[0], "parent", "from M0"), (INK[1], "random", "from random weights")):
        own = [chosen[str(count), init] for count in counts]
        rate = 100 * np.array([row["pass_at_1"] for row in own])
        spread = np.abs(100 * np.array([row["pass_at_1_ci"] for row in own]).T - rate)
        left.errorbar(counts, rate, yerr=spread, fmt="o-", color=ink, label=told)
        right.plot(counts, [row["sft"] for row in own], "o-", color=ink)
    left.legend(frameon=False)
    left.set_ylabel("M1's pass@1, held out, %")
    right.set_ylabel("held-out loss, nats a token")
    right.set_yscale("log")
    for axes in (left, right):
        axes.set_xlabel("examples")
    save(folder / "pretraining.svg")
    head = ["examples", "M1 from M0: pass@1, % (95%)", "loss", "from random weights: pass@1, % (95%)", "loss"]
    return table(head, lines)


def overlong(path: Path, folder: Path) -> str:
    """R's score and the tests' verdict when PPO against R alone does not stop."""
    if not path.exists():
        return ""
    rows = json.loads(path.read_text())
    size = max(1, len(rows) // 12)
    groups = [rows[at : at + size] for at in range(0, len(rows), size)]

    def mean(key: str) -> list[float]:
        return [float(np.mean([row[key] for row in group])) for group in groups]

    last = [group[-1]["step"] for group in groups]
    reward, gold, kl = mean("reward/mean"), mean("gold/mean"), mean("kl/sequence")
    axes = plt.subplots()[1]
    axes.plot(last, gold, "o-", color=INK[2], label="tests pass")
    axes.plot(last, reward, "o-", color=INK[1], label="R's score")
    axes.plot(last, kl, "--", color="#777777", label="KL to M1, nats")
    axes.set_xlabel("step")
    axes.legend(frameon=False)
    save(folder / "overlong.svg")
    cells = zip(last, reward, gold, kl, strict=True)
    return table(
        ["to step", "R's score", "tests pass, %", "KL, nats"],
        [[str(s), f"{r:.2f}", percent(g), f"{k:.2f}"] for s, r, g, k in cells],
    )


def save(path: Path) -> None:
    """One figure."""
    plt.savefig(path, metadata={"Date": None})
    plt.close()


def main() -> None:
    """Tables and figures of all parts that there are rows of."""
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    parts: dict[str, Callable[[list[Row], Path], str]] = {
        "pretraining": pretraining,
        "algorithms": algorithms,
        "pairs": pairs,
        "weights": weights,
    }
    for name, make in parts.items():
        print(f"{name}\n\n{make(rows, folder)}")
    print(f"overlong\n\n{overlong(source.with_name('overlong.json'), folder)}")


if __name__ == "__main__":
    main()
