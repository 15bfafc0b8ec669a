import numpy as np
import pytest
from scipy import stats

from trivium.evaluation.intervals import (
    mean_interval,
    paired_difference,
    proportion_interval,
    ratio_interval,
    share_interval,
)


def test_mean_interval_is_students():
    values = [1.0, 2.0, 4.0, 8.0]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.value, found.se, found.n) == (3.75, pytest.approx(stats.sem(values)), 4)
    assert found.bounds == pytest.approx([low, high])


def test_one_value_tells_nothing_about_the_spread():
    found = mean_interval([3.0])
    assert (found.value, found.low, found.high) == (3.0, -np.inf, np.inf)
    assert np.isnan(found.se)
    assert share_interval([0.3]).bounds == [0, 1]


def test_wilson_matches_published_values():
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81/263, 15/148, 0/20 and 1/29.
    for successes, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = proportion_interval(successes, n)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert proportion_interval(20, 20).high == 1


def test_share_interval_is_wilson_for_independent_draws():
    values = [1.0] * 37 + [0.0] * 263
    found, wilson = share_interval(values), proportion_interval(37, 300)
    assert found.bounds == pytest.approx(wilson.bounds, abs=1e-3)
    assert (found.value, found.n) == (37 / 300, 300)
    wide, narrow = share_interval(values, confidence=0.99), share_interval(values, confidence=0.5)
    assert wide.low < found.low < narrow.low < narrow.high < found.high < wide.high


def test_copies_within_a_cluster_add_no_certainty():
    values = [1.0, 0.0, 1.0, 1.0, 0.0]
    once = share_interval(values)
    copied = share_interval(np.repeat(values, 10), np.repeat(np.arange(5), 10).tolist())
    assert (copied.n, copied.value, *copied.bounds) == pytest.approx((5, 0.6, *once.bounds))
    assert share_interval(np.repeat(values, 10)).high - share_interval(np.repeat(values, 10)).low < 0.6 * (
        once.high - once.low
    )


def test_larger_clusters_weigh_more():
    found = share_interval([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert (found.value, found.n) == (0.75, 2)


def test_share_stays_inside_its_bounds_with_doubt_at_the_ends():
    for value in (0.0, 1.0):
        found = share_interval([value] * 50)
        assert 0 <= found.low <= value <= found.high <= 1
        assert 0.05 < found.high - found.low < 0.1
    assert share_interval([0.5] * 50).bounds == pytest.approx([0.36, 0.64], abs=0.01)


@pytest.mark.parametrize(("a", "b"), [(0.02, 2), (0.3, 0.3), (50, 50)])
def test_share_interval_covers_where_students_fails(a, b):
    # 50 tasks of ten samples; at a true share of 1% Student's interval covers only about 67%.
    rng = np.random.default_rng(0)
    truth, covered = a / (a + b), 0
    for _ in range(400):
        found = share_interval(rng.binomial(10, rng.beta(a, b, 50)) / 10)
        covered += found.low <= truth <= found.high
    assert covered / 400 > 0.92


def test_ratio_weighs_by_size_and_matches_the_mean_for_equal_sizes():
    found = ratio_interval([2.0, 9.0], [1.0, 3.0])
    assert found.value == 11 / 4
    # Residuals 2 − 2.75 and 9 − 8.25: se = √(2/1 · 2 · 0.75²)/4.
    assert found.se == pytest.approx((4 * 0.75**2) ** 0.5 / 4)
    assert ratio_interval([2, 4, 9], [2, 2, 2]).bounds == pytest.approx(mean_interval([1, 2, 4.5]).bounds)


def test_pairing_removes_the_difficulty_of_tasks():
    rng = np.random.default_rng(0)
    difficulty = rng.uniform(size=200)
    before, after = difficulty - 0.05, difficulty + rng.normal(0, 0.02, 200)
    found = paired_difference(after, before)
    assert found.low < 0.05 < found.high
    assert found.high - found.low < 0.01 < mean_interval(after).high - mean_interval(after).low
    clustered = paired_difference(after, before, clusters=[index // 2 for index in range(200)])
    assert (clustered.n, clustered.value) == (100, pytest.approx(found.value))


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="no list of units"):
        mean_interval([])
    with pytest.raises(ValueError, match="differ in number"):
        paired_difference([1, 2], [1])
    with pytest.raises(ValueError, match="cluster names"):
        share_interval([1, 0], ["a"])
    with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
        share_interval([1.5, 0])
    with pytest.raises(ValueError, match="no proportion"):
        proportion_interval(3, 2)
    with pytest.raises(ValueError, match="all zero"):
        ratio_interval([1.0], [0.0])
    for confidence in (0, 1, 95):
        with pytest.raises(ValueError, match="confidence"):
            mean_interval([1, 2], confidence)
