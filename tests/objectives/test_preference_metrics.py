import math

import pytest
import torch

from trivium.objectives.preference_metrics import (
    brier_score,
    calibration_error,
    comparison_accuracy,
    correlation,
    ordered_pairs,
    reward_metrics,
)


def test_ordered_pairs_by_hand():
    prompt, better, worse = ordered_pairs(torch.tensor([[1, 0, 1], [0, -1, 2]]))
    assert list(zip(prompt.tolist(), better.tolist(), worse.tolist(), strict=True)) == [(0, 1, 0), (0, 1, 2), (1, 0, 2)]


def test_accuracy_counts_ties_half_and_compares_in_fp32():
    assert comparison_accuracy(torch.tensor([2.0, 1.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 0.5])) == 0.625
    # Apart in fp32, though their difference would vanish in the half precision they came in.
    chosen, rejected = torch.tensor([257.0, 1.0]).bfloat16(), torch.tensor([255.0, 1.0]).bfloat16()
    assert comparison_accuracy(chosen, rejected) == 0.75


def test_brier_and_correlation_by_hand():
    assert brier_score(torch.tensor([0.5, 1.0, 0.2]), torch.tensor([1, 1, 0])).item() == pytest.approx(0.29 / 3)
    assert correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0])).item() == pytest.approx(1.0)
    assert correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 1.0])).item() == pytest.approx(0.0)
    assert correlation(torch.ones(3), torch.arange(3)) == 0


def test_calibration_error_by_hand():
    probs = torch.tensor([0.9, 0.1, 0.6, 0.4])
    outcomes = torch.tensor([1, 0, 0, 1])
    # two bins: {0.1, 0.4} with mean outcome 0.5, {0.6, 0.9} with mean outcome 0.5
    assert calibration_error(probs, outcomes, bins=2).item() == pytest.approx(0.25)
    assert calibration_error(probs, outcomes, bins=1).item() == pytest.approx(0.0)
    assert calibration_error(probs, outcomes, bins=15).item() == pytest.approx((0.1 + 0.6 + 0.6 + 0.1) / 4)


def calibrated_pairs(n: int = 100_000):
    """Chosen and rejected scores whose gap is normal and whose labels follow sigmoid(gap)."""
    generator = torch.Generator().manual_seed(0)
    gap = 1.5 * torch.randn(n, generator=generator, dtype=torch.float64)
    right = torch.rand(n, generator=generator, dtype=torch.float64) < torch.sigmoid(gap)
    gap = torch.where(right, gap, -gap)
    lengths = torch.randint(1, 100, (2, n), generator=generator)
    return gap, torch.zeros_like(gap), lengths[0], lengths[1]


def test_rlhf_14_calibrated_scores_have_no_calibration_error():
    metrics = reward_metrics(*calibrated_pairs(), seed=1)
    assert metrics["ece"] < 0.02
    assert metrics["length_accuracy"] == pytest.approx(0.5, abs=0.01)
    assert metrics["length_correlation"] == pytest.approx(0.0, abs=0.01)
    assert metrics["pairs"] == 100_000


def test_rlhf_14_doubled_scores_have_a_known_one():
    chosen, rejected, *lengths = calibrated_pairs()
    metrics = reward_metrics(2 * chosen, rejected, *lengths, seed=1)
    x = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    density = torch.exp(-((x / 1.5) ** 2) / 2) / (1.5 * math.sqrt(2 * math.pi))
    expected = torch.trapezoid((torch.sigmoid(2 * x) - torch.sigmoid(x)).abs() * density, x)
    assert expected > 0.08
    assert metrics["ece"] == pytest.approx(expected.item(), abs=0.01)


def test_metrics_depend_on_the_seed_alone():
    pairs = calibrated_pairs(500)
    assert reward_metrics(*pairs, seed=3) == reward_metrics(*pairs, seed=3)
    first, second = reward_metrics(*pairs, seed=3), reward_metrics(*pairs, seed=4)
    assert first["ece"] != second["ece"]
    assert first["brier"] == pytest.approx(second["brier"])  # turning a pair round changes neither this nor accuracy
    assert first["accuracy"] == second["accuracy"]


def test_reward_metrics_by_hand():
    metrics = reward_metrics(
        torch.tensor([math.log(3.0), 0.0]), torch.tensor([0.0, 0.0]), torch.tensor([10, 4]), torch.tensor([5, 8])
    )
    assert metrics["nll"] == pytest.approx(-(math.log(3 / 4) + math.log(1 / 2)) / 2)
    assert metrics["accuracy"] == 0.75 and metrics["length_accuracy"] == 0.5
    assert metrics["accuracy_se"] == pytest.approx(math.sqrt(0.75 * 0.25 / 2))
    assert metrics["brier"] == pytest.approx((1 / 16 + 1 / 4) / 2)
