"""Figures of a reward model from scores that are given, by hand."""

import math
from collections.abc import Callable

import pytest
import torch

from trivium.evaluation.reward_bias import (
    FORMATS,
    JudgedPair,
    agreement,
    format_figures,
    length_figures,
    ordered_pairs,
)
from trivium.evaluation.reward_figures import annotator_figures, comparison_figures, fit_figures, heldout_figures
from trivium.model import Scorer
from trivium.rewards import RewardModel
from trivium.rewards.learning import RankedTokens
from trivium.tokenizer import Tokenizer

NAN = math.nan


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["def add(a, b):\n    return a + b\n"] * 4, vocab_size=280)


def group(tiers: list[int], lengths: list[int], source: str = "human") -> RankedTokens:
    return RankedTokens([1, 5], [[7] * n for n in lengths], tiers, [NAN] * len(tiers), source=source)


GROUPS = [group([0, 1, 1], [3, 5, 3]), group([1, 0, -1], [2, 4, 9]), group([0, 0], [1, 8])]
SCORES = [torch.tensor([1.0, 0.0, 3.0]), torch.tensor([0.5, 0.5, 9.0]), torch.tensor([2.0, 0.0])]
PAIRS = [JudgedPair(0, 0, 1, 1.0), JudgedPair(0, 0, 2, -2.0), JudgedPair(1, 1, 0, 0.0)]


def test_pairs_are_those_that_were_judged_and_equal_scores_count_half() -> None:
    assert ordered_pairs(GROUPS, SCORES) == PAIRS
    assert [pair.right for pair in PAIRS] == [1.0, 0.0, 0.5]
    told = agreement(PAIRS)
    assert (told["accuracy"], told["pairs"]) == (0.5, 3)
    assert told["accuracy_ci"][0] < 0.5 < told["accuracy_ci"][1]


def test_length_by_hand() -> None:
    told = length_figures(GROUPS, SCORES, PAIRS)
    # unequal pairs: 3 against 5 tokens (the shorter is better, R agrees) and 4 against 2 (the longer is; R is torn)
    assert told["longer_wins_accuracy"] == 0.5 and told["longer_preferred"] == (0.0 + 0.5) / 2
    assert {name: (each["accuracy"], each["pairs"]) for name, each in told["by_gap"].items()} == {
        "longer": (0.5, 1),
        "shorter": (1.0, 1),
        "equal": (0.0, 1),
    }
    lengths, scores = torch.tensor([3.0, 5, 3, 2, 4, 9, 1, 8]), torch.cat(SCORES)
    assert told["corr"] == pytest.approx(torch.corrcoef(torch.stack([lengths, scores]))[0, 1].item(), abs=1e-6)


def test_lengths_that_are_all_equal_say_nothing() -> None:
    groups = [group([0, 1], [4, 4])]
    told = length_figures(groups, [torch.tensor([1.0, 0.0])], [JudgedPair(0, 0, 1, 1.0)])
    assert told["longer_wins_accuracy"] is None and told["longer_preferred"] is None and told["corr"] == 0
    assert list(told["by_gap"]) == ["equal"]


SHOWN = {
    "comment": ("x = 1  # one\n", "x = 1\n"),
    "docstring": ('"""Add."""\n', "'Add.'\n"),
    "code_fence": ("```python\nx\n```\n", "x ` y\n"),
    "list": ("- one\n- two\n", "a - b\n"),
    "bold": ("so **very** much", "2 ** 3 ** 2"),
    "blank_line": ("a = 1\n   \nb = 2\n", "a = 1\nb = 2\n"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_marks_of_form_are_seen_where_they_are(name: str, tokenizer: Tokenizer) -> None:
    has, has_not = SHOWN[name]
    texts = [[has, has_not], [has_not, has], [has, has], [has_not, has]]
    groups = [RankedTokens([1], [tokenizer.encode(text) for text in pair], [0, 1], [NAN, NAN]) for pair in texts]
    gaps = [2.0, -1.0, 5.0, 0.0]  # prefers the mark, prefers it against the judgement, both have it, is torn
    pairs = [JudgedPair(index, 0, 1, gap) for index, gap in enumerate(gaps)]
    told = format_figures(groups, pairs, tokenizer)[name]
    assert told["judged"] == pytest.approx(1 / 3) and told["pairs"] == 3
    assert told["preferred"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert told["preferred_ci"][0] <= told["preferred"] <= told["preferred_ci"][1]
    assert format_figures(groups[2:3], pairs[:1], tokenizer) == {}  # nothing sets the two apart


def test_fit_by_hand() -> None:
    told = fit_figures(PAIRS, seed=1)
    gaps = [pair.gap for pair in PAIRS]
    assert told["nll"] == pytest.approx(sum(math.log1p(math.exp(-gap)) for gap in gaps) / 3, abs=1e-6)
    assert told["brier"] == pytest.approx(sum((1 / (1 + math.exp(gap))) ** 2 for gap in gaps) / 3, abs=1e-6)
    assert told["accuracy"] == 0.5 and sum(row["n"] for row in told["calibration"]) == 3
    weighed = sum(row["n"] * abs(row["predicted"] - row["observed"]) for row in told["calibration"]) / 3
    assert told["ece"] == pytest.approx(weighed, abs=1e-6)


def test_each_annotator_and_source_is_held_to_its_own_pairs(
    make_scorer: Callable[..., Scorer], tokenizer: Tokenizer
) -> None:
    model = RewardModel(make_scorer(vocab_size=tokenizer.vocab_size), tokenizer)
    (one, two) = model.raw_scores([[1, 5]], [[7] * 3, [7] * 6], [0, 0]).tolist()
    agreed = group([0, 1] if one > two else [1, 0], [3, 6], "human")
    opposed = group([1, 0] if one > two else [0, 1], [3, 6], "execution")
    told = annotator_figures(model, {"ann": [agreed], "bob": [opposed, agreed], "cy": [group([0, 0], [3, 6])]})
    assert {name: (each["accuracy"], each["pairs"]) for name, each in told.items()} == {
        "ann": (1.0, 1),
        "bob": (0.5, 2),
    }
    figures = heldout_figures(model, [agreed, opposed], seed=0)
    assert {name: each["accuracy"] for name, each in figures["sources"].items()} == {"human": 1.0, "execution": 0.0}
    plain = comparison_figures(model, [agreed, opposed], seed=0)
    assert plain.pop("pairs") == figures["pairs_heldout"] == 2 and plain.items() <= figures.items()
    assert comparison_figures(model, [], 0) == heldout_figures(model, [group([0, 0], [3, 6])], 0) == {}
