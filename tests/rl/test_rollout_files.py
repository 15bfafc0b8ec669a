"""Rollouts on disk: figures by token as long as the response, missing parts null."""

import pytest
import torch

from trivium.records import Task
from trivium.rl.rollout import Rollout
from trivium.stages.rollouts import distinct_ngrams, rollout_rows

TASKS = [Task(id=name, prompt="p", entry_point="f", tests=("assert True",)) for name in "ab"]


def test_a_row_holds_what_the_update_was_made_of() -> None:
    rollout = Rollout(
        [[1, 5], [1]], [[7, 2], [8, 9, 9], [2]], [0, 0, 1], torch.tensor([True, False, True]), torch.full((3, 3), -0.5)
    )
    rollout.scores, rollout.valid = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([True, False, True])
    rollout.parts = {"judge": torch.tensor([7.0, float("nan"), 3.0])}
    rollout.advantages = torch.arange(9.0).view(3, 3)
    rollout.version = 17
    first, second, third = rollout_rows(4, rollout, TASKS)
    assert (first["step"], first["prompt_id"], first["sample"], first["ids"]) == (4, "a", 0, [1, 5, 7, 2])
    assert (second["sample"], second["finish"], second["valid"], second["parts"]) == (
        1,
        "length",
        False,
        {"judge": None},
    )
    assert third["prompt_id"] == "b" and third["prompt_len"] == 1 and third["sample"] == 0 and third["score"] == 2.0
    assert [row["advantages"] for row in (first, second, third)] == [[0, 1], [3, 4, 5], [6]]
    assert {row["version"] for row in (first, second, third)} == {17}
    assert first["sampler_logprobs"] == [-0.5, -0.5] and "values" not in first


@pytest.mark.parametrize(
    ("responses", "expected"),
    [([[1, 2, 3, 4, 5]], 1.0), ([[1, 1, 1, 1, 1, 1]], 1 / 3), ([[1, 2, 3, 4], [1, 2, 3, 4]], 0.5), ([[1, 2]], 1.0)],
)
def test_distinct_4_counts_different_4_grams(responses: list[list[int]], expected: float) -> None:
    assert distinct_ngrams(responses) == pytest.approx(expected)
