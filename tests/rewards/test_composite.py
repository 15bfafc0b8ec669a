"""The weighted sum of normalised parts, by hand."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from trivium.model import Scorer
from trivium.records import Task
from trivium.rewards import Answers, Composite, FunctionPart, LengthPart, ModelPart, RewardModel, Tools
from trivium.sandbox import Sandbox
from trivium.tokenizer import Tokenizer

TASK = Task(id="t", prompt="p", entry_point="f", tests=("assert True",))


@pytest.fixture(scope="module")
def tools(make_scorer: Callable[..., Scorer]) -> Iterator[Tools]:
    tokenizer = Tokenizer.train(["def add(a, b):\n    return a + b\n"] * 4, vocab_size=280)
    model = RewardModel(make_scorer(vocab_size=tokenizer.vocab_size), tokenizer, 0.3, 2.5)
    with Sandbox(workers=1, minimum="limited") as sandbox:
        yield Tools(model, sandbox, 0)


def of_lengths(*lengths: int) -> Answers:
    return Answers(
        [TASK], [[1, 5]], [[7] * length for length in lengths], ["x" * n for n in lengths], [0] * len(lengths)
    )


def test_r_alone_is_its_own_normalised_score(tools: Tools) -> None:
    composite, given = Composite([ModelPart()], tools), of_lengths(3, 9)
    scored = composite.score(given)
    expected = tools.model.rewards(given.prompts, given.responses, given.prompt_of)
    assert composite.unmeasured == [] and torch.equal(scored.rewards, expected) and scored.valid.all()


def test_parts_are_centred_divided_weighed_and_added(tools: Tools) -> None:
    parts = [ModelPart(weight=2.0), LengthPart(weight=-0.5, mean=-4.0, std=2.0)]
    given = of_lengths(3, 9)
    scored = Composite(parts, tools).score(given)
    learned = tools.model.rewards(given.prompts, given.responses, given.prompt_of)
    expected = 2.0 * learned - 0.5 * (torch.tensor([-3.0, -9.0]) + 4.0) / 2.0
    torch.testing.assert_close(scored.rewards, expected)
    assert scored.parts["length"].tolist() == [-3.0, -9.0]


def test_statistics_are_measured_once_and_then_frozen(tools: Tools) -> None:
    composite = Composite([LengthPart(), LengthPart(name="shifted", mean=-1.0)], tools)
    assert composite.unmeasured == ["length", "shifted"]
    statistics = composite.measure(of_lengths(2, 4, 6, 8))
    deviation = math.sqrt(5)
    assert statistics["length"] == pytest.approx((-5.0, deviation))
    assert statistics["shifted"] == pytest.approx((-1.0, deviation)), "what the user gives stays"
    rewards = composite.score(of_lengths(5, 10)).rewards
    assert rewards.tolist() == pytest.approx([0 - 4 / deviation, -5 / deviation - 9 / deviation])
    again = Composite(composite.parts, tools)
    again.freeze(statistics)
    assert torch.equal(again.score(of_lengths(5, 10)).rewards, rewards)


def test_a_part_without_spread_is_only_centred(tools: Tools) -> None:
    composite = Composite([LengthPart()], tools)
    composite.measure(of_lengths(3, 3, 3))
    assert composite.score(of_lengths(3, 5)).rewards.tolist() == [0.0, -2.0]


def test_a_missing_part_leaves_the_response_out_and_a_faulty_one_shows(tools: Tools, tmp_path: Path) -> None:
    body = "return [None if len(c) == 2 else 1 for c in completions]"
    (tmp_path / "some.py").write_text(f"def some(completions, **_):\n    {body}\n")
    parts = [FunctionPart(path=f"{tmp_path / 'some.py'}:some", mean=0.0, std=1.0), LengthPart(mean=0.0, std=1.0)]
    composite = Composite(parts, tools)
    scored = composite.score(of_lengths(1, 2, 3))
    assert scored.valid.tolist() == [True, False, True] and scored.rewards.tolist() == [0.0, 0.0, -2.0]
    assert scored.parts["some"].isnan().tolist() == [False, True, False]
    composite.measure(of_lengths(2, 2))  # nothing of `some` could be had
    assert composite.statistics["some"] == (0.0, 1.0)
    faulty = composite.combine({"some": [math.nan, None], "length": [1.0, 1.0]})
    assert faulty.valid.tolist() == [True, False] and faulty.rewards[0].isnan(), "a fault is not a missing part"
