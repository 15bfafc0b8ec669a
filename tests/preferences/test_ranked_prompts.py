from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.base.errors import DataError
from trivium.preferences.judgement import Judgement, Sample
from trivium.preferences.pairs import (
    RankedPrompt,
    deduplicate,
    limit,
    ranked_from_records,
    ranked_from_store,
    ranked_prompts,
)
from trivium.preferences.store import PreferenceStore
from trivium.records import Preference


def pair(chosen, rejected, prompt="p", **fields):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **fields}


def judgement(texts, ranking, prompt="p", passed=None, **fields):
    completions = tuple(Sample(text=text, passed=None if passed is None else passed[i]) for i, text in enumerate(texts))
    return Judgement(prompt=prompt, completions=completions, ranking=ranking, **fields)


def texts(group):
    return [sample.text for sample in group.completions]


def test_ranking_becomes_one_group():
    (group,) = ranked_prompts([judgement("abcd", ((2,), (0, 3), (1,)), source="s", id="r", margin=0.5)])
    assert (texts(group), group.tiers) == (["a", "b", "c", "d"], (1, 2, 0, 1))
    assert (group.prompt, group.source, group.id, group.margin, group.weight) == ("p", "s", "r", 0.5, 1.0)
    assert group.pairs == ((0, 1), (2, 0), (2, 1), (2, 3), (3, 1))


def test_pairs_that_make_a_ranking_become_one_group():
    (group,) = ranked_from_records([pair("a", "b"), pair("b", "c"), pair("a", "c"), pair("b", "d", tie=True)][:3])
    assert (texts(group), group.tiers) == (["a", "b", "c"], (0, 1, 2))
    records = [pair("a", "b"), pair("a", "c"), pair("b", "c", tie=True)]
    (group,) = ranked_from_records(records)
    assert group.tiers == (0, 1, 1)


@pytest.mark.parametrize(
    "records",
    [
        [pair("a", "b"), pair("b", "c")],  # a and c were never compared
        [pair("a", "b"), pair("b", "c"), pair("c", "a")],  # a cycle
        [pair("a", "b"), pair("b", "a")],  # a contradiction
        [pair("a", "b", tie=True), pair("b", "c", tie=True), pair("a", "c")],  # ties that are not transitive
    ],
)
def test_judgements_that_make_no_ranking_stay_apart_and_share_one_weight(records):
    groups = ranked_from_records(records, keep_ties=True)
    assert [tuple(texts(group)) for group in groups] == [(record["chosen"], record["rejected"]) for record in records]
    assert sum(group.weight for group in groups) == pytest.approx(1)


def test_answers_without_a_link_are_groups_of_full_weight():
    groups = ranked_from_records([pair("a", "b"), pair("c", "d")])
    assert [(texts(group), group.weight) for group in groups] == [(["a", "b"], 1.0), (["c", "d"], 1.0)]


def test_prompts_sources_and_margins_are_kept_apart():
    records = [pair("a", "b"), pair("a", "b", "q"), pair("a", "b", source="s"), pair("a", "b", margin=1)]
    assert len(ranked_from_records(records)) == 4
    assert len(ranked_from_records([pair("a", "b", annotator="x"), pair("a", "b", annotator="y")])) == 1


def test_equal_and_empty_answers_go_and_are_counted():
    counts = Counter()
    groups = ranked_prompts(
        [
            judgement(["a", "a", "b", " "], ((0, 1), (2,), (3,))),
            judgement(["a", "a"], ((0,), (1,)), "q"),
            judgement(["x", "y"], ((0, 1),), "r"),
        ],
        counts=counts,
    )
    assert [(texts(group), group.tiers) for group in groups] == [(["a", "b"], (0, 1))]
    assert counts == {"equal": 3, "empty": 1, "unordered": 1}


def test_equal_answers_in_different_tiers_teach_nothing():
    (group,) = ranked_prompts([judgement(["a", "b", "a", "c"], ((0,), (1,), (2,), (3,)))])
    assert (texts(group), group.tiers) == (["b", "c"], (0, 1))


def test_answers_equal_after_truncation_are_told_by_the_key():
    counts = Counter()
    group = RankedPrompt("p", tuple(Sample(text=text) for text in ("abc", "abd", "x")), (0, 0, 1))
    short = deduplicate(group, lambda sample: sample.text[:2], counts)
    assert short is not None
    assert (texts(short), counts["equal"]) == (["abc", "x"], 1)
    assert deduplicate(group, lambda sample: 0) is None


def test_labels_are_outcomes_or_sides():
    (group,) = ranked_prompts([judgement("abc", ((0,), (1,), (2,)))])
    assert group.labels == (True, None, False)
    (group,) = ranked_prompts([judgement("abc", ((0,), (1,), (2,)), passed=[True, True, None])])
    assert (group.passed, group.labels) == ((True, True, None), (True, True, False))
    (group,) = ranked_prompts([judgement("ab", ((0, 1),))], keep_ties=True)
    assert group.labels == (None, None)


def test_limit_balances_passing_and_failing():
    outcomes = [True] * 7 + [False] * 3
    group = judgement("abcdefghij", (tuple(range(7)), (7, 8, 9)), passed=outcomes)
    (limited,) = ranked_prompts([group], max_completions=4)
    assert sorted(map(bool, limited.passed)) == [False, False, True, True]
    assert limited.tiers == tuple(0 if passed else 1 for passed in limited.passed)
    (same,) = ranked_prompts([group], max_completions=4)
    others = {tuple(texts(ranked_prompts([group], max_completions=4, seed=seed)[0])) for seed in range(5)}
    assert limited == same
    assert len(others) > 1
    (scarce,) = ranked_prompts(
        [judgement("abcde", ((0, 1, 2, 3), (4,)), passed=[True] * 4 + [False])], max_completions=4
    )
    assert scarce.passed == (True, True, True, False)
    assert limit(limited, None, 0) is limited


def test_store_gives_groups_with_outcomes_and_ids():
    samples = (Sample(text="a", ids=(1, 2), passed=False), Sample(text="b", ids=(3,), passed=True, finish="length"))
    with PreferenceStore(":memory:") as store:
        store.add_judgement(Judgement(prompt="p", completions=samples, ranking=((1,), (0,)), source="execution"))
        (group,) = ranked_from_store(store, split=store.prompts()[0].split, source="execution", round=0)
        assert group.completions == samples
        assert (group.tiers, group.passed) == ((1, 0), (False, True))
        assert ranked_from_store(store, round=1) == []


def test_front_door_takes_dicts_and_records_and_names_the_bad_one():
    groups = ranked_from_records(
        [
            pair("a", "b", "1"),
            Preference(prompt="2", chosen="c", rejected="d", rejected_passed=False),
            judgement("ef", ((0,), (1,)), "3"),
        ]
    )
    assert [texts(group) for group in groups] == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert groups[1].passed == (None, False)
    with pytest.raises(DataError, match="^preference 2: rejected: should be a valid string, is 3"):
        ranked_from_records([pair("a", "b"), pair("a", 3)])
    with pytest.raises(DataError, match="^preference 1 is a int"):
        ranked_from_records([3])  # pyright: ignore[reportArgumentType]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_all_pairs_of_a_ranking_rebuild_it(tiers, random):
    records = []
    for i in range(len(tiers)):
        for j in range(i):
            better, worse = (i, j) if tiers[i] <= tiers[j] else (j, i)
            records.append(pair(f"answer {better}", f"answer {worse}", tie=tiers[i] == tiers[j]))
    random.shuffle(records)
    (group,) = ranked_from_records(records, keep_ties=True)
    found = dict(zip(texts(group), group.tiers, strict=True))
    dense = sorted(set(tiers))
    assert found == {f"answer {index}": dense.index(tier) for index, tier in enumerate(tiers)}
