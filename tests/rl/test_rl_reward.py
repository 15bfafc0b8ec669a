import pytest
import torch

from trivium.rl.reward import MissingEOS, penalise_unfinished


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("min", [0.5, -1.0, -2.0, -3.0]), ("replace", [0.5, -1.0, -1.0, -3.0]), ("none", [0.5, 2.0, -2.0, -3.0])],
)
def test_responses_cut_by_the_cap(kind: MissingEOS, expected: list[float]) -> None:
    scores, finished = torch.tensor([0.5, 2.0, -2.0, -3.0]), torch.tensor([True, False, False, True])
    assert penalise_unfinished(scores, finished, kind).tolist() == expected
    assert scores.tolist() == [0.5, 2.0, -2.0, -3.0]
