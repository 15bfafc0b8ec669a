"""Agreement coefficients against published tables and brute force."""

import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.preferences.agreement import (
    bootstrap,
    cohen_kappa,
    davidson_strengths,
    fleiss_kappa,
    krippendorff_alpha,
    raw_agreement,
)
from trivium.preferences.judgement import Judgement, Sample
from trivium.preferences.statistics import agreement_stats, criteria_coefficients, model_strengths, preference_stats
from trivium.preferences.store import PreferenceStore

# Krippendorff (2011): four coders, twelve units, 0 for a missing label.
TABLE = """
1 2 3 3 2 1 4 1 2 0 0 0
1 2 3 3 2 2 4 1 2 5 0 3
0 3 3 3 2 3 4 2 2 5 1 0
1 2 3 3 2 4 4 1 2 5 1 0
"""
CODERS = [[int(cell) for cell in line.split()] for line in TABLE.split("\n") if line]
UNITS = [[label for label in unit if label] for unit in zip(*CODERS, strict=True)]
# Fleiss (1971), as often reprinted: ten subjects, fourteen raters, five categories.
FLEISS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip
LABELS = st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=8)


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_table(level: Any, alpha: float) -> None:
    assert krippendorff_alpha(UNITS, level) == pytest.approx(alpha, abs=5e-4)


def slow_alpha(units: list[list[int]], distance: Any) -> float | None:
    """By its words: mean disagreement within units over that among all labels that could be paired."""
    rows = [unit for unit in units if len(unit) > 1]
    labels = [label for unit in rows for label in unit]
    within = sum(distance(a, b) / (len(unit) - 1) for unit in rows for a, b in permutations(unit, 2))
    among = sum(distance(a, b) for a, b in permutations(labels, 2)) / max(1, len(labels) - 1)
    return 1 - within / among if among else None


@given(LABELS)
def test_alpha_by_brute_force(units: list[list[int]]) -> None:
    for level, distance in (("nominal", lambda a, b: a != b), ("interval", lambda a, b: (a - b) ** 2)):
        expected = slow_alpha(units, distance)
        assert krippendorff_alpha(units, level) == (None if expected is None else pytest.approx(expected))  # type: ignore[arg-type]


@given(LABELS)
def test_ordinal_alpha_knows_the_order_alone(units: list[list[int]]) -> None:
    stretched = [[math.exp(3 * label) for label in unit] for unit in units]
    expected = krippendorff_alpha(units, "ordinal")
    assert krippendorff_alpha(stretched, "ordinal") == (None if expected is None else pytest.approx(expected))


def test_alpha_at_its_ends() -> None:
    assert krippendorff_alpha([[1, 1], [2, 2]]) == 1
    assert krippendorff_alpha([[1, 2], [2, 1]]) == pytest.approx(-0.5)
    assert krippendorff_alpha([[1, 1], [1, 1]]) is None and krippendorff_alpha([[1], [2]]) is None
    with pytest.raises(ValueError, match="level is 'ratio'"):
        krippendorff_alpha(UNITS, "ratio")  # type: ignore[arg-type]


def test_kappas_of_the_published_tables() -> None:
    units = [[category for category, count in enumerate(row) for _ in range(count)] for row in FLEISS]
    assert fleiss_kappa(units) == pytest.approx(0.210, abs=5e-4)
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa(["a", "a"], ["a", "a"]) is None and fleiss_kappa([]) is None and cohen_kappa([], []) is None
    with pytest.raises(ValueError, match="equally many labels"):
        fleiss_kappa([["a", "b"], ["a"]])
    with pytest.raises(ValueError, match="same units"):
        cohen_kappa(["a"], [])


def test_raw_agreement_counts_pairs_of_labels() -> None:
    assert raw_agreement([["a", "a", "b"], ["a"], ["b", "b"]]) == 0.5
    assert raw_agreement([["a"], []]) is None


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(60):  # each pair of labels is equal with probability 0.8, whatever the unit
        same = rng.random(80) < 0.8
        units = [["a", "a"] if each else ["a", "b"] for each in same]
        found = bootstrap(units, raw_agreement, seed=trial, draws=200)
        assert found.bounds is not None and found.n == 80 and not found.few
        covered += found.bounds[0] <= 0.8 <= found.bounds[1]
    assert 51 <= covered <= 60
    assert bootstrap([["a", "b"]], raw_agreement).bounds is None and bootstrap([["a", "b"]], raw_agreement).few


def test_strengths_are_recovered() -> None:
    true, nu = {"M0": -1.0, "M1": 0.2, "M2": 0.8}, 0.5
    rng = np.random.default_rng(1)
    wins: dict[tuple[str, str], int] = {}
    ties: dict[tuple[str, str], int] = {}
    for a, b in (("M0", "M1"), ("M0", "M2"), ("M1", "M2")):
        weights = np.array([math.exp(true[a]), math.exp(true[b]), nu * math.exp((true[a] + true[b]) / 2)])
        first, second, level = rng.multinomial(4000, weights / weights.sum())
        wins |= {(a, b): int(first), (b, a): int(second)}
        ties[a, b] = int(level)
    found = davidson_strengths(wins, ties)
    for name, value in true.items():
        assert found[name].value == pytest.approx(value, abs=0.08)
        assert found[name].bounds[0] < value < found[name].bounds[1] and found[name].n == 8000


def test_one_who_never_lost_stays_finite() -> None:
    found = davidson_strengths({("a", "b"): 9})
    assert found["a"].value == -found["b"].value and 1 < found["a"].value < 10
    assert found["a"].bounds[0] < found["a"].value < found["a"].bounds[1]
    assert davidson_strengths({}) == {}


def test_a_store_tells_how_far_its_annotators_agree() -> None:
    """Two people on 30 pairs, the order of the answers as each saw it: they differ on every third."""
    with PreferenceStore(":memory:") as store:
        for number in range(30):
            texts = [f"return {number}", f"return {number} + 1"]
            said = {"ann": number % 2, "bob": (number + (number % 3 == 0)) % 2}
            for annotator, best in said.items():
                shown = texts if annotator == "ann" else texts[::-1]
                samples = tuple(Sample(text=text) for text in shown)
                winner = shown.index(texts[best])
                store.add_judgement(
                    Judgement(
                        prompt=f"task {number}", completions=samples, ranking=((winner,), (1 - winner,)),
                        annotator=annotator, source="human",
                    )
                )  # fmt: skip
        found = agreement_stats(store)
    first = [number % 2 for number in range(30)]
    second = [(number + (number % 3 == 0)) % 2 for number in range(30)]
    assert found["raw"]["value"] == pytest.approx(2 / 3) and found["raw"]["n"] == 30 and not found["raw"]["few"]
    assert found["raw"]["bounds"][0] < 2 / 3 < found["raw"]["bounds"][1]
    assert found["cohen_kappa"]["value"] == pytest.approx(cohen_kappa(first, second))
    units = [list(pair) for pair in zip(first, second, strict=True)]
    assert found["krippendorff_alpha"]["value"] == pytest.approx(krippendorff_alpha(units))


def test_criteria_of_swapped_sides_point_the_same_way() -> None:
    """Two people give equal steps in the answers' own order; one sees them swapped and so with the opposite sign."""
    with PreferenceStore(":memory:") as store:
        for number in range(25):
            step = number % 5 - 2
            for annotator, order in (("ann", [0, 1]), ("bob", [1, 0])):
                store.add_judgement(
                    Judgement(
                        prompt=f"task {number}", completions=(Sample(text="a"), Sample(text="b")), ranking=((0,), (1,)),
                        id=f"comparison {number}", annotator=annotator, source="human",
                        details={"order": order, "criteria": {"correct": step if order[0] == 0 else -step}},
                    )
                )  # fmt: skip
        found = criteria_coefficients(store, "human")["correct"]
    assert (found.value, found.n, found.few) == (1.0, 25, False)


def test_strengths_of_models_count_every_pair_whose_models_differ() -> None:
    samples = [Sample(text=text, model=model) for text, model in (("a", "f" * 32), ("b", "e" * 32), ("c", "f" * 32))]
    played = [
        sample.model_copy(update={"model": f"play:{sample.model}", "text": sample.text * 2}) for sample in samples
    ]
    with PreferenceStore(":memory:") as store:
        for at, ranking in enumerate((((0,), (1, 2)), ((2,), (0,), (1,)), ((0, 1, 2),))):
            store.add_judgement(
                Judgement(prompt=f"p{at}", completions=tuple(samples), ranking=ranking, source="human", annotator="ada")
            )
        names = {"play": {"models": ["M1", "M2"]}}
        store.add_judgement(
            Judgement(prompt="q", completions=tuple(played[:2]), ranking=((1,), (0,)), source="play", details=names)
        )
        store.add_judgement(
            Judgement(prompt="q", completions=tuple(samples[:2]), ranking=((1,), (0,)), source="human-check")
        )
        found = model_strengths(store, ("human", "play"))
        one, two = "M1 ffffffffffff", "M2 eeeeeeeeeeee"
        expected = davidson_strengths({(one, two): 3, (two, one): 1}, {(one, two): 3})
        assert found.keys() == expected.keys() and found[one].n == found[two].n == 7
        assert found[one].value == pytest.approx(expected[one].value, rel=1e-5) and found[one].value > 0.5
        assert preference_stats(store)["strengths"].keys() == {one, two}
        assert model_strengths(store, ("nobody",)) == {}
