from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.data.mixture import BLOCK, Mixture, RowOrder, digest, is_held_out


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_rows_are_numbered_without_gaps_in_each_source(weights):
    mixture = Mixture(weights)
    seen = Counter()
    for row in range(BLOCK * 2 + 50):
        source, index = mixture.locate(row)
        assert index == seen[source]
        seen[source] += 1
    assert set(seen) == set(range(len(weights)))


def test_weights_are_met_in_every_stretch():
    mixture = Mixture([3, 1, 4])
    for start in (0, 800, BLOCK - 40):
        counts = Counter(mixture.locate(row)[0] for row in range(start, start + 80))
        assert [counts[source] for source in range(3)] == [pytest.approx(n, abs=2) for n in (30, 10, 40)]


def test_a_tiny_weight_is_never_forgotten():
    mixture = Mixture([1, 1e-9])
    assert sum(mixture.locate(row)[0] for row in range(BLOCK)) == 1


def test_an_epoch_covers_every_token():
    order = RowOrder(tokens=103, seq_len=10, seed=1, name="a")
    for epoch in range(3):
        rows = [order.first_token(epoch * order.rows + row) for row in range(order.rows)]
        covered = Counter((first + place) % 103 for first in rows for place in range(10))
        assert set(covered) == set(range(103))
        assert sum(covered.values()) - 103 < 10


def test_order_is_a_function_of_seed_source_and_epoch():
    def epoch(seed, name, number):
        order = RowOrder(1000, 10, seed, name)
        return [order.first_token(number * 100 + row) for row in range(100)]

    assert epoch(0, "a", 0) == epoch(0, "a", 0)
    different = [epoch(0, "a", 0), epoch(0, "a", 1), epoch(1, "a", 0), epoch(0, "b", 0)]
    assert len({tuple(rows) for rows in different}) == 4
    # Jumping about gives what reading in order gives.
    order = RowOrder(1000, 10, 0, "a")
    assert [order.first_token(index) for index in (350, 20, 250, 120, 20)] == [
        RowOrder(1000, 10, 0, "a").first_token(index) for index in (350, 20, 250, 120, 20)
    ]


def test_the_held_out_share_is_met_and_grows_with_the_fraction():
    keys = [digest(f"document {number}") for number in range(4000)]
    small = {key for key in keys if is_held_out(key, 0.05)}
    large = {key for key in keys if is_held_out(key, 0.2)}
    assert 0.04 < len(small) / 4000 < 0.06
    assert 0.18 < len(large) / 4000 < 0.22
    assert small < large
    assert not any(is_held_out(key, 0) for key in keys)
