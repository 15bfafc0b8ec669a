"""Labels against the accuracy of what is learnt from them, asked at random or actively: a simulation.

`python benchmarks/active_labels.py [--quick] [--seeds N] [--plot FILE.svg]`

A world draws answers with eight features and a utility that is linear in them. Three annotators of known bias and noise
(`SimulatedJudge`) judge pairs; an ensemble of linear Bradley-Terry models, fitted to resampled judgements, is the
reward model. It asks for the next judgements by `preferences.acquisition`, the code of the labelling page. Accuracy is
measured against the true utilities on pairs drawn apart, those of different families of tasks as often as they occur.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from trivium.base.seeding import numpy_rng
from trivium.evaluation.intervals import mean_interval
from trivium.preferences.acquisition import coverage, disagreement, uncertainty
from trivium.preferences.judges import SimulatedJudge

FEATURES = 8
FAMILIES = 12
POOL = 800
HELDOUT = 2000
MEMBERS = 5
BATCH = 20
STRATEGIES = ("random", "uncertainty", "disagreement", "family")
ANNOTATORS = (
    SimulatedJudge(annotator="careful"),
    SimulatedJudge(annotator="left", side_bias=0.7, noise=0.05),
    SimulatedJudge(annotator="long", length_bias=0.5, noise=0.15),
)


class World:
    """Pairs of answers with known utilities."""

    def __init__(self, seed: int, sharpness: float) -> None:
        self.rng = numpy_rng(seed, "active-labels")
        self.weights = self.rng.normal(size=FEATURES)
        self.weights *= sharpness / np.linalg.norm(self.weights)
        self.spread = np.exp(self.rng.normal(size=(FAMILIES, FEATURES)))
        share = 1 / np.arange(1, FAMILIES + 1)  # a few families are common, most are rare
        self.share = share / share.sum()

    def pairs(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(number, 2, FEATURES) answers, (number, 2) their lengths, (number,) their families."""
        families = self.rng.choice(FAMILIES, number, p=self.share)
        answers = self.rng.normal(size=(number, 2, FEATURES)) * self.spread[families][:, None]
        return answers, np.exp(self.rng.normal(5, 0.6, size=(number, 2))).astype(int) + 1, families


def fit(gaps: np.ndarray, ridge: float = 0.05, steps: int = 12) -> np.ndarray:
    """(FEATURES,) weights of a Bradley-Terry model of winner minus loser, (n, FEATURES), by Newton's method."""
    theta = np.zeros(gaps.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(gaps @ theta, -30, 30)))
        gradient = gaps.T @ (1 - p) - ridge * theta
        hessian = (gaps * (p * (1 - p))[:, None]).T @ gaps + ridge * np.eye(len(theta))
        theta = theta + np.linalg.solve(hessian, gradient)
    return theta


def learn(strategy: str, seed: int, labels: int, sharpness: float = 1.5) -> list[float]:
    """Held-out accuracy after each batch of judgements."""
    world = World(seed, sharpness)
    answers, lengths, families = world.pairs(POOL)
    held, _, _ = world.pairs(HELDOUT)
    truth = np.sign((held[:, 0] - held[:, 1]) @ world.weights)
    rng = numpy_rng(seed, "active-labels", strategy)
    waiting = [int(at) for at in numpy_rng(seed, "active-labels", "order").permutation(POOL)]
    gaps: list[np.ndarray] = []
    judged: dict[str, int] = {}
    curve = []
    ensemble: list[np.ndarray] = []
    while len(gaps) < labels:
        if strategy == "family":
            found = coverage({str(at): str(families[at]) for at in waiting}, judged, seed)
            waiting.sort(key=lambda at: -found[str(at)])
        elif strategy != "random" and ensemble:
            measure = uncertainty if strategy == "uncertainty" else disagreement
            value = {at: measure([(answers[at] @ theta).tolist() for theta in ensemble]) for at in waiting}
            waiting.sort(key=lambda at: -value[at])
        batch, waiting = waiting[:BATCH], waiting[BATCH:]
        for at in batch:
            judge = ANNOTATORS[len(gaps) % len(ANNOTATORS)]
            told = judge.rank_by((answers[at] @ world.weights).tolist(), lengths[at].tolist(), seed, f"pair {at}")
            better, worse = told[0][0], told[1][0]
            gaps.append(answers[at, better] - answers[at, worse])
            judged[str(families[at])] = judged.get(str(families[at]), 0) + 1
        known = np.array(gaps)
        ensemble = [fit(known[rng.integers(0, len(known), len(known))]) for _ in range(MEMBERS)]
        guess = np.sign((held[:, 0] - held[:, 1]) @ fit(known))
        curve.append(float((guess == truth).mean()))
    return curve


def main() -> None:
    """Run every strategy on every seed; print a table with intervals, and keep figures and plot."""
    parser = argparse.ArgumentParser(description="Labels against accuracy, at random and actively.")
    parser.add_argument("--quick", action="store_true", help="three seeds, 100 labels")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--labels", type=int, default=400)
    parser.add_argument("--plot", type=Path, help="an SVG file")
    parser.add_argument("--json", type=Path, help="all curves")
    options = parser.parse_args()
    seeds, labels = (3, 100) if options.quick else (options.seeds, options.labels)
    curves = {name: np.array([learn(name, seed, labels) for seed in range(seeds)]) for name in STRATEGIES}
    numbers = list(range(BATCH, labels + 1, BATCH))
    print(f"held-out accuracy over {seeds} worlds, 95% intervals; and the gain over random, paired by world")
    for at in sorted({*range(1, len(numbers), 4), len(numbers) - 1}):
        for name, curve in curves.items():
            here, gain = mean_interval(curve[:, at]), mean_interval(curve[:, at] - curves["random"][:, at])
            against = "" if name == "random" else f"   {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
            print(f"{numbers[at]:4} labels  {name:12}  {here.value:.4f} [{here.low:.4f}, {here.high:.4f}]{against}")
    if options.json:
        options.json.write_text(json.dumps({"labels": numbers} | {k: v.tolist() for k, v in curves.items()}))
    if options.plot:
        draw(options.plot, numbers, curves)


def draw(path: Path, numbers: list[int], curves: dict[str, np.ndarray]) -> None:
    """Mean accuracy with the 95% interval as a band."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for (name, curve), style in zip(curves.items(), ("-", "--", "-.", ":"), strict=True):
        found = [mean_interval(column) for column in curve.T]
        axes.plot(numbers, [each.value for each in found], style, label=name)
        axes.fill_between(numbers, [each.low for each in found], [each.high for each in found], alpha=0.15)
    axes.set_xlabel("judgements")
    axes.set_ylabel("held-out accuracy against the true utilities")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    main()
