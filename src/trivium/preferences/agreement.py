"""Do annotators agree, beyond chance, and how sure is that? Pure functions of labels.

A unit is one thing judged (a comparison); labels of a unit come from different annotators and may be missing.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from scipy import optimize, special

from trivium.base.seeding import derive_seed

Level = Literal["nominal", "ordinal", "interval"]
Label = Hashable
MIN_N = 20
"""Below this many units a coefficient is shown with a warning."""


@dataclass(frozen=True)
class Coefficient:
    """A coefficient with its bootstrap interval and the number of units it rests on."""

    value: float | None
    """None where it is undefined: nothing was judged twice, or no two labels differ."""
    bounds: tuple[float, float] | None
    n: int

    @property
    def few(self) -> bool:
        """Whether there are too few units to lean on it."""
        return self.n < MIN_N


def raw_agreement(units: Sequence[Sequence[Label]]) -> float | None:
    """Share of equal labels among all pairs of labels of a unit; every pair of labels weighs the same."""
    equal = every = 0
    for labels, times in _patterns(units).items():
        equal += times * sum(a == b for a, b in combinations(labels, 2))
        every += times * math.comb(len(labels), 2)
    return equal / every if every else None


def cohen_kappa(first: Sequence[Label], second: Sequence[Label]) -> float | None:
    """Agreement of two annotators beyond chance (Cohen 1960): (p_o - p_e)/(1 - p_e), chance from each one's habits.

    Raises:
        ValueError: they labelled unequally many units.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} labels: both must have judged the same units.")
    n = len(first)
    if not n:
        return None
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    ours, theirs = Counter(first), Counter(second)
    chance = sum(ours[label] * theirs[label] for label in ours) / n**2
    return (observed - chance) / (1 - chance) if chance < 1 else None


def fleiss_kappa(units: Sequence[Sequence[Label]]) -> float | None:
    """Agreement beyond chance where every unit has equally many labels, by whomsoever (Fleiss 1971).

    Raises:
        ValueError: units have unequally many labels.
    """
    if not units:
        return None
    raters = len(units[0])
    if any(len(unit) != raters for unit in units):
        raise ValueError("every unit must have equally many labels; krippendorff_alpha allows missing ones.")
    if raters < 2:
        return None
    within, total = 0.0, Counter[Label]()
    for labels, times in _patterns(units).items():
        count = Counter(labels)
        within += times * sum(k * (k - 1) for k in count.values()) / (raters * (raters - 1))
        for label, k in count.items():
            total[label] += times * k
    chance = sum((k / (raters * len(units))) ** 2 for k in total.values())
    return (within / len(units) - chance) / (1 - chance) if chance < 1 else None


def krippendorff_alpha(units: Sequence[Sequence[Label]], level: Level = "nominal") -> float | None:
    """1 - observed over expected disagreement, for any number of annotators and missing labels.

    Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011).

    Args:
        units: the labels each unit was given; numbers for `ordinal` and `interval`. Units with fewer than two labels
            take no part.
        level: which differences count, and how much.
    Returns:
        At most 1; None where no unit has two labels or all labels are equal.
    Raises:
        ValueError: the level is unknown.
    """
    if level not in get_args(Level):
        raise ValueError(f"level is {level!r}, expected one of {', '.join(get_args(Level))}.")
    patterns = {labels: times for labels, times in _patterns(units).items() if len(labels) > 1}
    if not patterns:
        return None
    values = _values(patterns)
    place = {value: index for index, value in enumerate(values)}
    counts = np.zeros((len(patterns), len(place)))  # how often each value was given
    for row, labels in zip(counts, patterns, strict=True):
        for label in labels:
            row[place[label]] += 1
    times = np.array(list(patterns.values()), float)
    return _alpha(counts, times, _distances(values, level, times @ counts))


def _patterns(units: Sequence[Sequence[Label]]) -> Counter[tuple[Label, ...]]:
    """How often the same labels came: thousands of units are few patterns, which keeps a bootstrap quick."""
    return Counter(map(tuple, units))


def _values(patterns: Iterable[tuple[Label, ...]]) -> list[Label]:
    found = {label for labels in patterns for label in labels}
    return sorted(
        found,
        key=lambda label: (not isinstance(label, int | float), label if isinstance(label, int | float) else str(label)),
    )


def _distances(values: list[Label], level: Level, totals: np.ndarray) -> np.ndarray:
    """(values, values) squared difference of each pair."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "interval":
        numbers = np.array(values, float)
        return np.square(numbers[:, None] - numbers[None])
    ranks = np.cumsum(totals) - totals / 2  # the sum between two values, less half of either end
    return np.square(ranks[:, None] - ranks[None])


def _alpha(counts: np.ndarray, times: np.ndarray, distances: np.ndarray) -> float | None:
    sizes, totals = counts.sum(1), times @ counts
    n = totals.sum()
    # A unit's pairs weigh 1/(m - 1), so that each of its m labels counts once.
    observed = times @ (np.einsum("uc,uk,ck->u", counts, counts, distances) / (sizes - 1))
    expected = totals @ distances @ totals / (n - 1)
    return float(1 - observed / expected) if expected > 0 else None


def bootstrap(
    units: Sequence[Sequence[Label]],
    statistic: Callable[[Sequence[Sequence[Label]]], float | None],
    *,
    seed: int = 0,
    draws: int = 1000,
    confidence: float = 0.95,
) -> Coefficient:
    """A statistic of units with its percentile interval over units drawn with replacement.

    Args:
        units: labels of each unit; those with fewer than two are not counted in `n`.
        statistic: undefined draws (None) are left out of the interval.
        seed: of the draws.
        draws: how many.
        confidence: share of draws between the bounds.
    """
    rows = [tuple(unit) for unit in units if len(unit) > 1]
    value = statistic(rows)
    if value is None or len(rows) < 2:
        return Coefficient(value, None, len(rows))
    rng = np.random.default_rng(derive_seed(seed, "bootstrap"))
    drawn = (statistic([rows[i] for i in rng.integers(0, len(rows), len(rows)).tolist()]) for _ in range(draws))
    found = np.array([each for each in drawn if each is not None])
    if not len(found):
        return Coefficient(value, None, len(rows))
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Coefficient(value, (float(low), float(high)), len(rows))


@dataclass(frozen=True)
class Strength:
    """How strong one competitor is, in logits about the mean of all."""

    value: float
    bounds: tuple[float, float]
    n: int
    """Comparisons it took part in."""


def davidson_strengths(
    wins: Mapping[tuple[str, str], int], ties: Mapping[tuple[str, str], int] | None = None, prior: float = 0.1
) -> dict[str, Strength]:
    """Strengths of competitors from paired comparisons with ties (Davidson 1970), and their 95% intervals.

    P(a beats b) : P(b beats a) : P(tie) = e^a : e^b : nu e^((a+b)/2), fitted by maximum likelihood with a weak pull to
    zero, which keeps one who never lost finite.

    Args:
        wins: (winner, loser) -> how often.
        ties: (one, other) -> how often, in either order.
        prior: precision of the pull.
    """
    tied = dict(ties or {})
    names = sorted({name for pair in [*wins, *tied] for name in pair})
    if not names:
        return {}
    place = {name: index for index, name in enumerate(names)}
    rows = [(place[a], place[b], 0, n) for (a, b), n in wins.items()]
    rows += [(place[a], place[b], 1, n) for (a, b), n in tied.items()]
    first, second, drawn, number = (np.array(column) for column in zip(*rows, strict=True))

    def loss(theta: np.ndarray) -> float:
        strengths, log_nu = theta[:-1], theta[-1]
        gap = strengths[first] - strengths[second]
        parts = np.stack([gap / 2, -gap / 2, np.full_like(gap, log_nu) if tied else np.full_like(gap, -np.inf)])
        chosen = np.where(drawn == 1, parts[2], parts[0])
        nll = -(number * (chosen - special.logsumexp(parts, axis=0))).sum()
        return float(nll + prior / 2 * np.square(strengths).sum() + prior / 2 * log_nu**2)

    found = optimize.minimize(loss, np.zeros(len(names) + 1), method="BFGS", options={"gtol": 1e-7})
    strengths = found.x[:-1] - found.x[:-1].mean()
    centre = np.eye(len(names)) - 1 / len(names)
    errors = np.sqrt(np.diag(centre @ found.hess_inv[:-1, :-1] @ centre))
    games = Counter({name: sum(int(n) for a, b, _, n in rows if place[name] in (a, b)) for name in names})
    return {
        name: Strength(float(value), (float(value - 1.96 * error), float(value + 1.96 * error)), games[name])
        for name, value, error in zip(names, strengths, errors, strict=True)
    }
