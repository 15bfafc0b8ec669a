import pytest
import torch

from trivium.rl.learner import LearnerConfig
from trivium.rl.reward import MissingEOS, length_penalty, overlong_penalty, penalise_unfinished


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("min", [0.5, -1.0, -2.0, -3.0]),
        ("replace", [0.5, -1.0, -1.0, -3.0]),
        ("subtract", [0.5, 1.0, -3.0, -3.0]),
        ("none", [0.5, 2.0, -2.0, -3.0]),
    ],
)
def test_responses_cut_by_the_cap(kind: MissingEOS, expected: list[float]) -> None:
    scores, finished = torch.tensor([0.5, 2.0, -2.0, -3.0]), torch.tensor([True, False, False, True])
    assert penalise_unfinished(scores, finished, kind).tolist() == expected
    assert scores.tolist() == [0.5, 2.0, -2.0, -3.0]


def test_overlong_responses_lose_up_to_one() -> None:
    lengths = torch.tensor([1, 60, 70, 80, 90, 100])
    assert overlong_penalty(lengths, cap=100, buffer=40).tolist() == pytest.approx([0, 0, -0.25, -0.5, -0.75, -1])
    assert overlong_penalty(lengths, cap=100, buffer=0).tolist() == [0] * 6


def test_length_costs_the_same_for_every_token() -> None:
    assert length_penalty(torch.tensor([1, 10]), 0.1).tolist() == pytest.approx([-0.1, -1.0])


def test_the_full_reward_is_the_sum_of_its_parts() -> None:
    raw, finished, lengths = torch.tensor([0.5, 2.0]), torch.tensor([True, False]), torch.tensor([4, 10])
    config = LearnerConfig(missing_eos="subtract", overlong_buffer=5, length_penalty=0.1)
    assert config.full_reward(raw, finished, lengths, 10).tolist() == pytest.approx([0.1, -1.0])
    assert LearnerConfig().full_reward(raw, finished, lengths, 10).tolist() == [0.5, -1.0]
