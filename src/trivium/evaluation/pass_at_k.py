"""pass@k: the chance that at least one of k samples passes, estimated without bias from n >= k samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trivium.evaluation.intervals import Interval, paired_difference, share_interval


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 − C(n−c, k)/C(n, k): the share of k-subsets of n samples that hold one of the c passing ones.

    A running product instead of factorials: no overflow, and never falling in k, rounding included, for each factor
    falls in k. Source: Chen et al. 2021 (arXiv:2107.03374).

    Args:
        n: samples of the task.
        c: samples that pass.
        k: samples that a user would try; at most n.
    Raises:
        ValueError: not 0 <= c <= n, or not 1 <= k <= n.
    """
    if not 0 <= c <= n:
        raise ValueError(f"{c} of {n} samples pass: expected between 0 and {n}")
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} cannot be estimated from {n} samples: sample at least {k}")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


@dataclass(frozen=True)
class TaskCounts:
    """How many samples of one task were checked and passed."""

    task: str
    n: int
    c: int


def pass_rates(counts: Sequence[TaskCounts], k: int = 1) -> np.ndarray:
    """pass@k per task, (tasks,).

    Raises:
        ValueError: a task has fewer than k samples.
    """
    return np.array([pass_at_k(task.n, task.c, k) for task in counts])


def estimate_pass_at_k(counts: Sequence[TaskCounts], k: int = 1, confidence: float = 0.95) -> Interval:
    """Mean pass@k over tasks with an interval for the mean over all tasks of the kind.

    Tasks are the unit: samples of one task are alike, so more of them sharpen that task's value, not the number of
    tasks. The interval is `share_interval`'s; for one sample per task, Wilson's.

    Raises:
        ValueError: no tasks, or a task has fewer than k samples.
    """
    return share_interval(pass_rates(counts, k), confidence=confidence)


def pass_at_k_difference(
    after: Sequence[TaskCounts], before: Sequence[TaskCounts], k: int = 1, confidence: float = 0.95
) -> Interval:
    """Mean difference in pass@k of two models on the same tasks, paired by task.

    Raises:
        ValueError: the tasks differ, one occurs twice, or a task has fewer than k samples.
    """
    earlier = {task.task: task for task in before}
    if len(earlier) != len(before) or sorted(earlier) != sorted(task.task for task in after):
        raise ValueError(f"paired evaluation needs the same tasks: {len(after)} and {len(before)} were given")
    matched = [earlier[task.task] for task in after]
    return paired_difference(pass_rates(after, k), pass_rates(matched, k), confidence=confidence)
