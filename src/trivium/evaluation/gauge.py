"""The gauge of over-optimisation: what the policy gains against how far it has moved from M1.

Gain is fitted as d·(a − b·ln d) with d = √KL (Gao et al. 2022, arXiv:2210.10760). A round raises the alarm when
the tests' pass rate has fallen from an earlier part of it while R's score has risen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trivium.runs.metrics import number

SMALLEST_FIT = 6
"""Points below which three coefficients say nothing."""
STANDARD_ERRORS = 2.0
"""Fall of the pass rate that counts. Where nothing changes, about one round of twenty shows one by chance."""


@dataclass(frozen=True)
class Fit:
    """start + d·(a − b·ln d)."""

    start: float
    a: float
    b: float

    def at(self, distance: float) -> float:
        """The fitted value at d = √KL."""
        return self.start + (distance * (self.a - self.b * math.log(distance)) if distance > 0 else 0.0)

    @property
    def peak(self) -> float | None:
        """The d of the highest fitted value, exp(a/b − 1); None where the fit only rises or has no peak."""
        if self.b <= 0 or not -50 < self.a / self.b < 50:
            return None
        return math.exp(self.a / self.b - 1)


def fit_gain(distance: Sequence[float], values: Sequence[float]) -> Fit | None:
    """Least squares over the points where both are finite; None where they are too few or all at one distance."""
    d, y = np.array(distance, float), np.array(values, float)
    known = np.isfinite(d) & np.isfinite(y) & (d >= 0)
    d, y = d[known], y[known]
    if len(d) < SMALLEST_FIT:
        return None
    bend = -d * np.log(d, out=np.zeros_like(d), where=d > 0)
    design = np.stack([np.ones_like(d), d, bend], axis=1)
    found, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    return Fit(*map(float, found)) if rank == 3 and np.isfinite(found).all() else None


@dataclass(frozen=True)
class Part:
    """Means over some steps of a round."""

    first_step: int
    last_step: int
    proxy: float | None
    """Mean reward that is maximised."""
    gold: float | None
    """Share of answers that pass, and of how many."""
    answers: float


@dataclass(frozen=True)
class Alarm:
    """The pass rate fell from one part of a round to its last part while the proxy rose."""

    before: Part
    after: Part
    fall: float
    error: float
    """Standard error of the fall."""


def parts_of_round(metrics: Sequence[dict[str, Any]]) -> list[Part]:
    """A round's steps in four parts (fewer where it is shorter), counted from its end so that the last is whole."""
    width = max(1, len(metrics) // 4)
    ends = range(len(metrics), width - 1, -width)
    return [_part(metrics[end - width : end]) for end in reversed(ends)]


def find_alarm(metrics: Sequence[dict[str, Any]]) -> Alarm | None:
    """Over-optimisation at the end of a round, told by its own metrics; None where there is none or no telling."""
    parts = [part for part in parts_of_round(metrics) if part.gold is not None and part.proxy is not None]
    if len(parts) < 2 or parts[-1].answers <= 0:
        return None
    last = parts[-1]
    best = max(parts[:-1], key=lambda part: part.gold or 0.0)
    assert best.gold is not None and last.gold is not None and best.proxy is not None and last.proxy is not None
    error = math.sqrt(_variance(best) + _variance(last))
    fall = best.gold - last.gold
    if best.answers > 0 and last.proxy > best.proxy and fall > 0 and fall >= STANDARD_ERRORS * error:
        return Alarm(best, last, fall, error)
    return None


def _part(rows: Sequence[dict[str, Any]]) -> Part:
    steps = [int(step) for row in rows if (step := number(row.get("step"))) is not None]
    proxies = [value for row in rows if (value := number(row.get("reward/mean"))) is not None]
    passed = answers = 0.0
    for row in rows:
        share, count = number(row.get("gold/mean")), number(row.get("gold/n"))
        if share is not None and count is not None and 0 <= share <= 1 and count > 0:
            passed, answers = passed + share * count, answers + count
    return Part(
        min(steps, default=0),
        max(steps, default=0),
        sum(proxies) / len(proxies) if proxies else None,
        passed / answers if answers else None,
        answers,
    )


def _variance(part: Part) -> float:
    assert part.gold is not None
    return part.gold * (1 - part.gold) / part.answers
