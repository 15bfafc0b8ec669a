from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.evaluation.intervals import proportion_interval
from trivium.evaluation.pass_at_k import TaskCounts, estimate_pass_at_k, pass_at_k, pass_at_k_difference


def test_is_the_share_of_subsets_with_a_passing_sample():
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(combinations([True] * c + [False] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_is_unbiased():
    # E over c ~ Binomial(n, p) is the chance that one of k fresh samples passes.
    for p, n, k in ((0.3, 10, 4), (0.05, 20, 10), (0.9, 6, 6)):
        mean = sum(comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1))
        assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


@given(st.data())
def test_never_falls_as_k_or_c_grows(data):
    n = data.draw(st.integers(1, 300))
    c = data.draw(st.integers(0, n))
    values = [pass_at_k(n, c, k) for k in range(1, n + 1)]
    assert values == sorted(values)
    assert values[0] >= 0 and values[-1] <= 1
    assert values[0] == pytest.approx(c / n)
    k = data.draw(st.integers(1, n))
    assert pass_at_k(n, min(c + 1, n), k) >= pass_at_k(n, c, k)


def test_large_counts_neither_overflow_nor_round_off():
    exact = 1 - comb(9_990, 1_000) / comb(10_000, 1_000)
    assert pass_at_k(10_000, 10, 1_000) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 2, 0), (5, 2, 6), (0, 0, 1)])
def test_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="samples"):
        pass_at_k(n, c, k)


def test_estimate_is_the_mean_over_tasks():
    counts = [TaskCounts("a", 4, 4), TaskCounts("b", 4, 0), TaskCounts("c", 2, 1)]
    found = estimate_pass_at_k(counts)
    assert (found.value, found.n) == (0.5, 3)
    assert found.low < 0.5 < found.high
    assert estimate_pass_at_k(counts, 2).value == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="sample at least 3"):
        estimate_pass_at_k(counts, 3)


def test_single_samples_have_wilson_interval():
    counts = [TaskCounts(str(task), 1, int(task < 130)) for task in range(200)]
    found, wilson = estimate_pass_at_k(counts), proportion_interval(130, 200)
    assert found.bounds == pytest.approx(wilson.bounds, abs=1e-3)  # Student's quantile for Gauss'


def test_no_pass_at_all_still_leaves_doubt():
    found = estimate_pass_at_k([TaskCounts(str(task), 10, 0) for task in range(200)])
    assert found.low == found.value == 0
    assert 0.01 < found.high < 0.025


def test_difference_is_paired_by_task_name():
    before = [TaskCounts("a", 10, 2), TaskCounts("b", 10, 8), TaskCounts("c", 10, 5)]
    after = [TaskCounts("c", 10, 6), TaskCounts("a", 10, 3), TaskCounts("b", 10, 9)]
    found = pass_at_k_difference(after, before)
    assert found.value == pytest.approx(0.1)
    assert found.se == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="same tasks"):
        pass_at_k_difference(after, before[:2])
    with pytest.raises(ValueError, match="same tasks"):
        pass_at_k_difference([*after, after[0]], before)
