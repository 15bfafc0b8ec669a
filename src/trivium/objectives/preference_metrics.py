"""How good a reward model is on comparisons it has not seen: accuracy, calibration, and the pull of length."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.base.seeding import derive_seed
from trivium.objectives.tokens import upcast


def ordered_pairs(tiers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every comparison that a batch of rankings implies.

    Args:
        tiers: (B, K) integer ranks, 0 best, equal tied, negative absent.
    Returns:
        prompt, better, worse: (n,) int64 each; ties are left out. `scores[prompt, better]` are the chosen scores.
    """
    present = tiers >= 0
    both = present.unsqueeze(2) & present.unsqueeze(1)
    prompt, better, worse = torch.nonzero(both & (tiers.unsqueeze(2) < tiers.unsqueeze(1)), as_tuple=True)
    return prompt, better, worse


@torch.no_grad()
def comparison_accuracy(chosen: Tensor, rejected: Tensor) -> Tensor:
    """() fraction of pairs with chosen > rejected, equality counting half; (n,) each, compared in fp32 or wider."""
    gap = upcast(chosen) - upcast(rejected)
    return ((gap > 0).to(gap.dtype) + 0.5 * (gap == 0).to(gap.dtype)).mean()


@torch.no_grad()
def calibration_error(probs: Tensor, outcomes: Tensor, bins: int = 15) -> Tensor:
    """Expected calibration error over bins of equal mass: sum_b n_b/n |mean prob - mean outcome|.

    Source: Naeini 2015, with equal-mass bins (Nguyen and O'Connor 2015), which leave no bin nearly empty.

    Args:
        probs: (n,) predicted probabilities.
        outcomes: (n,) 0 or 1.
        bins: number of bins; sizes differ by at most one.
    Returns:
        () in [0, 1].
    """
    order = upcast(probs).argsort(stable=True)
    gaps = (upcast(probs) - outcomes.to(upcast(probs).dtype))[order]
    return torch.stack([part.sum().abs() for part in gaps.tensor_split(bins)]).sum() / gaps.numel()


@torch.no_grad()
def brier_score(probs: Tensor, outcomes: Tensor) -> Tensor:
    """() mean squared error of predicted probabilities (n,) against outcomes (n,) of 0 or 1 (Brier 1950)."""
    return (upcast(probs) - outcomes.to(upcast(probs).dtype)).square().mean()


@torch.no_grad()
def correlation(x: Tensor, y: Tensor) -> Tensor:
    """() Pearson correlation of two (n,) samples; 0 when either is constant."""
    x, y = upcast(x) - upcast(x).mean(), upcast(y) - upcast(y).mean()
    scale = (x.square().sum() * y.square().sum()).sqrt()
    return torch.where(scale > 0, (x * y).sum() / scale, 0.0)


@torch.no_grad()
def reward_metrics(
    chosen: Tensor,
    rejected: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    seed: int = 0,
    bins: int = 15,
) -> dict[str, float]:
    """The held-out report of a reward model; every pair weighs the same.

    A pair's label says only that the first is better, so calibration is measured after half of the pairs, drawn by
    `seed`, are turned round; otherwise every outcome would be 1.

    Args:
        chosen, rejected: (n,) scores, n >= 1.
        chosen_lengths, rejected_lengths: (n,) response lengths in tokens.
        seed: fixes which pairs are turned round.
        bins: of the calibration error.
    Returns:
        pairs; nll (nats); accuracy and its standard error accuracy_se; ece; brier; length_accuracy (of "the longer
        wins"); length_correlation (of score with length, over all responses).
    """
    chosen, rejected = upcast(chosen), upcast(rejected)
    generator = torch.Generator().manual_seed(derive_seed(seed, "pair-order"))
    turned = torch.rand(chosen.numel(), generator=generator).to(chosen.device) < 0.5
    gap = chosen - rejected
    probs, outcomes = torch.sigmoid(torch.where(turned, -gap, gap)), (~turned).to(gap.dtype)
    accuracy = comparison_accuracy(chosen, rejected).item()
    scores, lengths = torch.cat([chosen, rejected]), torch.cat([chosen_lengths, rejected_lengths])
    return {
        "pairs": float(gap.numel()),
        "nll": -F.logsigmoid(gap).mean().item(),
        "accuracy": accuracy,
        "accuracy_se": (max(accuracy * (1 - accuracy), 0.0) / gap.numel()) ** 0.5,
        "ece": calibration_error(probs, outcomes, bins).item(),
        "brier": brier_score(probs, outcomes).item(),
        "length_accuracy": comparison_accuracy(chosen_lengths, rejected_lengths).item(),
        "length_correlation": correlation(scores, lengths).item(),
    }
