"""Confidence intervals for means, shares and ratios, with clusters where draws are not independent."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float
    se: float
    """Standard error; nan where it cannot be told from the data."""
    n: int
    """Independent units: tasks, prompts, documents."""

    @property
    def bounds(self) -> list[float]:
        """`[low, high]`, as summaries write it."""
        return [self.low, self.high]


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's interval for the mean of independent values.

    Raises:
        ValueError: no values, or a confidence outside (0, 1).
    """
    data = np.asarray(values, float)
    return ratio_interval(data, np.ones_like(data), confidence)


def ratio_interval(totals: ArrayLike, sizes: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's interval for Σ totals / Σ sizes over independent units, e.g. nats and bytes per document.

    The standard error is the delta method's with the factor n/(n−1): for equal sizes, that of the mean.

    Args:
        totals: (n,) one per unit.
        sizes: (n,) non-negative, not all zero.
        confidence: share of samples whose interval covers the truth.
    Raises:
        ValueError: no units, unequal lengths, a negative size, all sizes zero, or a confidence outside (0, 1).
    """
    totals, sizes = np.asarray(totals, float), np.asarray(sizes, float)
    _check(totals, sizes, confidence)
    value, se = _ratio(totals, sizes)
    n = len(totals)
    if n < 2:
        return Interval(value, -np.inf, np.inf, nan, n)
    reach = float(stdtrit(n - 1, 0.5 + confidence / 2)) * se
    return Interval(value, value - reach, value + reach, se, n)


def proportion_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a share of independent yes/no draws.

    Source: E. B. Wilson, JASA 22 (1927); keeps its coverage near 0 and 1, where p ± z·se collapses.

    Raises:
        ValueError: not 0 <= successes <= n with n >= 1, or a confidence outside (0, 1).
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n} draws is no proportion")
    _check_confidence(confidence)
    value = successes / n
    low, high = _wilson(value, n, float(ndtri(0.5 + confidence / 2)))
    return Interval(value, low, high, sqrt(value * (1 - value) / n), n)


def share_interval(values: ArrayLike, clusters: Sequence[Hashable] | None = None, confidence: float = 0.95) -> Interval:
    """Interval for the mean of values in [0, 1] that come in clusters: pairs of prompts, samples of tasks.

    Wilson's interval at the effective sample size, the n for which p(1−p)/n is the cluster-robust variance, with
    Student's quantile for the number of clusters (after Korn & Graubard, Survey Methodology 24, 1998, and Dean &
    Pagano, JSSAM 3, 2015). For one yes/no draw per cluster it is Wilson's interval, but for the quantile; at 0 and 1,
    where no variance shows, every cluster counts once. Values are weighted equally, so large clusters weigh more.

    Args:
        values: (n,) in [0, 1]; several may belong to one cluster.
        clusters: (n,) names; None: each value is its own.
        confidence: share of samples whose interval covers the truth.
    Raises:
        ValueError: no values, a value outside [0, 1], unequal lengths, or a confidence outside (0, 1).
    """
    data = np.asarray(values, float)
    totals, sizes = _by_cluster(data, clusters)
    _check(totals, sizes, confidence)
    if data.min() < 0 or data.max() > 1:
        raise ValueError(f"a share lies in [0, 1], but the values span {data.min():.3g} to {data.max():.3g}")
    value, se = _ratio(totals, sizes)
    n = len(totals)
    if n < 2:
        return Interval(value, 0.0, 1.0, nan, n)
    # The variance around the mean is n/(n−1) times the population's; undo it so that one draw each gives n back.
    variance = se**2 * (n - 1) / n
    effective = n if variance < 1e-12 else value * (1 - value) / variance
    low, high = _wilson(value, effective, float(stdtrit(n - 1, 0.5 + confidence / 2)))
    return Interval(value, low, high, se, n)


def paired_difference(
    after: ArrayLike,
    before: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Student's interval for mean(after − before) on the same units, e.g. the pass rates of M2 and M1 per task.

    Pairing removes the units' own difficulty from the variance. Two intervals that do not overlap show a difference
    at the same confidence; overlapping ones may hide a difference that this shows.

    Args:
        after, before: (n,) in the same order of units.
        clusters: (n,) names of units that belong together; None: all are independent.
        confidence: share of samples whose interval covers the truth.
    Raises:
        ValueError: no values, unequal lengths, or a confidence outside (0, 1).
    """
    after, before = np.asarray(after, float), np.asarray(before, float)
    if after.shape != before.shape:
        raise ValueError(f"paired values differ in number: {after.shape} and {before.shape}")
    return ratio_interval(*_by_cluster(after - before, clusters), confidence)


def _by_cluster(values: np.ndarray, clusters: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each cluster, in the order of first occurrence."""
    if clusters is None:
        return values, np.ones_like(values)
    if values.shape != (len(clusters),):
        raise ValueError(f"{len(clusters)} cluster names for values of shape {values.shape}")
    number: dict[Hashable, int] = {}
    index = np.array([number.setdefault(name, len(number)) for name in clusters], int)
    return np.bincount(index, values, len(number)), np.bincount(index, minlength=len(number)).astype(float)


def _ratio(totals: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """Σ totals / Σ sizes and its standard error over units (nan for one unit)."""
    n, size = len(totals), sizes.sum()
    value = float(totals.sum() / size)
    if n < 2:
        return value, nan
    residuals = totals - value * sizes
    return value, float(np.sqrt(n / (n - 1) * np.sum(residuals**2)) / size)


def _wilson(value: float, n: float, quantile: float) -> tuple[float, float]:
    spread = quantile**2 / n
    middle = (value + spread / 2) / (1 + spread)
    reach = quantile / (1 + spread) * sqrt(value * (1 - value) / n + spread / (4 * n))
    # At 0 and 1 the formula's ends are exact; rounding must not push them past the value.
    return min(max(middle - reach, 0.0), value), max(min(middle + reach, 1.0), value)


def _check(totals: np.ndarray, sizes: np.ndarray, confidence: float) -> None:
    if totals.ndim != 1 or totals.shape != sizes.shape or not len(totals):
        raise ValueError(f"values of shapes {totals.shape} and {sizes.shape} are no list of units")
    if sizes.min() < 0 or sizes.sum() <= 0:
        raise ValueError("sizes of units are negative or all zero")
    _check_confidence(confidence)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a share between 0 and 1")
