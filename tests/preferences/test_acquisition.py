"""What is asked next: the measures by hand, and the order in which the page then asks."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from trivium.base.errors import DataError
from trivium.preferences.acquisition import coverage, disagreement, prioritise, uncertainty, win_probabilities
from trivium.preferences.audit import read_settings, trail
from trivium.preferences.comparisons import Comparison, fill
from trivium.preferences.desk import LabellingDesk
from trivium.preferences.people import add_person
from trivium.preferences.store import PreferenceStore
from trivium.preferences.votes import Vote


def test_uncertainty_is_the_entropy_of_who_wins() -> None:
    assert win_probabilities([math.log(3), 0.0]) == pytest.approx([0.75])
    by_hand = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert uncertainty([[math.log(3), 0.0]]) == pytest.approx(by_hand)
    assert uncertainty([[0.0, 0.0]]) == pytest.approx(math.log(2))
    assert uncertainty([[900.0, -900.0]]) == pytest.approx(0, abs=1e-9)


def test_disagreement_ignores_what_all_models_hold_for_equal() -> None:
    opposed = [[math.log(3), 0.0], [0.0, math.log(3)]]
    known = uncertainty([opposed[0]])
    assert uncertainty(opposed) == pytest.approx(math.log(2))
    assert disagreement(opposed) == pytest.approx(math.log(2) - known)
    assert disagreement([[1.0, 1.0], [5.0, 5.0]]) == pytest.approx(0)
    with pytest.raises(ValueError, match="two reward models"):
        disagreement([[1.0, 0.0]])


def test_coverage_brings_families_level() -> None:
    families = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "b2": "b"}
    found = coverage(families, {"a": 2}, seed=0)
    order = sorted(found, key=lambda name: -found[name])
    assert {*order[:2]} == {"b1", "b2"} and sorted(found.values()) == [-4.0, -3.0, -2.0, -1.0, 0.0]


def by_prompt(scale: float) -> Callable[[Sequence[Comparison]], list[list[float]]]:
    """A reward model whose certainty grows with the number in the prompt, `def f0007(x):`."""

    def scores(comparisons: Sequence[Comparison]) -> list[list[float]]:
        return [
            [scale * int(str(each.prompt)[5:9]) * (sample.sample == 0) for sample in each.samples]
            for each in comparisons
        ]

    return scores


def asked(store: PreferenceStore, number: int) -> list[int]:
    desk, found = LabellingDesk(store), []
    for _ in range(number):
        held = desk.next("ada")
        assert held is not None
        found.append(int(str(held.comparison.prompt)[5:9]))
        desk.vote("ada", held.id, Vote(choice="A"), f"request-{held.id}")
    return found


def test_the_page_asks_in_the_order_of_the_strategy(store: PreferenceStore, with_answers: Any) -> None:
    with_answers(store, 8)
    add_person(store, "ada", "owner", "")
    fill(store)
    assert prioritise(store, "uncertainty", [by_prompt(1.0)], by="ada") == 8
    assert asked(store, 3) == [0, 1, 2], "what R is least certain of comes first"
    assert prioritise(store, "disagreement", [by_prompt(1.0), by_prompt(-1.0)], by="ada") == 5
    assert asked(store, 2) == [7, 6], "what the models differ about most comes first"
    families = {f"task-{at}": "even" if at % 2 == 0 else "odd" for at in range(8)}
    prioritise(store, "family", families=families, by="ada")
    assert sum(each % 2 for each in asked(store, 2)) == 1
    assert read_settings(store).order == "priority"
    prioritise(store, "random", by="ada")
    assert read_settings(store).order == "random"
    assert [row["subject"] for row in trail(store) if row["action"] == "prioritise"][-1] == "uncertainty"


def test_a_strategy_without_what_it_needs_is_refused(store: PreferenceStore) -> None:
    with pytest.raises(DataError, match="needs a reward model"):
        prioritise(store, "uncertainty")
    with pytest.raises(DataError, match="tasks with families"):
        prioritise(store, "family")
