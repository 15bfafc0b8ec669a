"""Probes against reward models whose answers are known."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from trivium.evaluation.probes import flip_operator, probe_reward_model
from trivium.model import Scorer
from trivium.rewards import RewardModel
from trivium.tokenizer import Tokenizer

TEXTS = ["def f(a, b):\n    return a + b\n", "def g(xs):\n    return [x for x in xs if x > 2]\n"] * 4


@pytest.mark.parametrize(
    ("text", "flipped"),
    [
        ("return a + b", "return a - b"),
        ("return [x for x in xs if x > 2]", "return [x for x in xs if x <= 2]"),
        ("return x not in xs", "return x in xs"),
        ("return a // b % c", "return a * b % c"),
        ("return -x", None),
        ("return sorted(xs)", None),
    ],
)
def test_the_first_operator_is_flipped(text: str, flipped: str | None) -> None:
    assert flip_operator(text) == flipped


class Known(RewardModel):
    """Scores by a rule in place of a network."""

    def __init__(self, tokenizer: Tokenizer, scorer: Scorer, rule: Callable[[list[int], list[int]], float]):
        super().__init__(scorer, tokenizer)
        self.rule = rule

    def raw_scores(self, prompts: Any, responses: Any, prompt_of: Sequence[int]) -> Tensor:
        owners = [list(prompts[index]) for index in prompt_of]
        return torch.tensor([self.rule(p, list(r)) for p, r in zip(owners, responses, strict=True)])


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, vocab_size=300)


def probed(tokenizer: Tokenizer, scorer: Scorer, rule: Callable[[list[int], list[int]], float]) -> dict[str, Any]:
    prompts = [tokenizer.encode(text.splitlines()[0]) for text in TEXTS[:2]]
    answers = [[*tokenizer.encode(text.splitlines()[1]), tokenizer.eos_id] for text in TEXTS[:2]]
    return probe_reward_model(Known(tokenizer, scorer, rule), prompts, answers, seed=0)


def test_a_model_that_knows_the_right_answers_passes_every_probe(
    tokenizer: Tokenizer, make_scorer: Callable[..., Scorer]
) -> None:
    right = {tokenizer.decode(tokenizer.encode(t.splitlines()[0])): t.splitlines()[1] for t in TEXTS}

    def rule(prompt: list[int], answer: list[int]) -> float:
        return float(right[tokenizer.decode(prompt)] == tokenizer.decode(answer[:-1]))

    found = probed(tokenizer, make_scorer(), rule)
    assert set(found) == {"shuffled", "truncated", "empty", "prompt_swapped", "operator_flipped"}
    assert all(each["accuracy"] == 1 and each["n"] == 2 for each in found.values())


def test_a_model_that_likes_short_answers_fails_the_probes_for_it(
    tokenizer: Tokenizer, make_scorer: Callable[..., Scorer]
) -> None:
    found = probed(tokenizer, make_scorer(), lambda prompt, answer: -float(len(answer)))
    assert found["truncated"]["accuracy"] == found["empty"]["accuracy"] == 0
    assert found["shuffled"]["accuracy"] == found["prompt_swapped"]["accuracy"] == 0.5  # it sees no difference


def test_nothing_to_swap_or_flip_leaves_the_probe_out(tokenizer: Tokenizer, make_scorer: Callable[..., Scorer]) -> None:
    model = Known(tokenizer, make_scorer(), lambda prompt, answer: 0.0)
    found = probe_reward_model(model, [[1]], [[*tokenizer.encode("return x"), tokenizer.eos_id]], seed=0)
    assert set(found) == {"shuffled", "truncated", "empty"}
