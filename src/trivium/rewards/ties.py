"""Ties as evidence: a scorer with Davidson's nu, which says how often answers of equal worth are judged equal."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trivium.model import ModelConfig, Scorer

NU = "log_nu"
"""Name of the parameter, for its learning rate."""


class TieScorer(Scorer):
    """A scorer in training that learns log nu beside its weights; `plain` is what is left of it afterwards."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.log_nu = nn.Parameter(torch.zeros(1))  # one element, not none: what is spread over ranks has a dimension

    @classmethod
    def of(cls, scorer: Scorer, nu: float) -> "TieScorer":
        """The same scorer, on the same device, with `nu` to begin with."""
        tying = cls.from_decoder(scorer, torch.Generator())
        assert isinstance(tying, cls)
        with torch.no_grad():
            tying.log_nu.fill_(math.log(nu))
        tying.recompute = scorer.recompute
        return tying.to(scorer.device)

    def plain(self) -> Scorer:
        """The scorer without nu."""
        scorer = Scorer.from_decoder(self, torch.Generator())
        scorer.recompute = self.recompute
        return scorer.to(self.device)

    @property
    def nu(self) -> float:
        return math.exp(self.log_nu.item())


def first_nu(shares: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """The likeliest nu while all scores are equal: P(tie) is then nu / (nu + 2).

    Args:
        shares: per prompt, the share of its compared pairs that tie.
        weights: per prompt, how much it counts; all alike without.
    Returns:
        A positive number also where all pairs tie or none does: half a prompt is added on both sides.
    """
    weights = [1.0] * len(shares) if weights is None else weights
    tied = sum(share * weight for share, weight in zip(shares, weights, strict=True)) + 0.5
    return 2 * tied / (sum(weights) + 1 - tied)


def tied_share(tiers: Sequence[int]) -> float | None:
    """Share of the pairs of ranked completions that tie; None with fewer than two. Negative tiers are unranked."""
    ranked = [tier for tier in tiers if tier >= 0]
    pairs = [a == b for place, a in enumerate(ranked) for b in ranked[:place]]
    return sum(pairs) / len(pairs) if pairs else None


def tie_probability(gap: Tensor, nu: float) -> Tensor:
    """Davidson's chance of a tie at score differences of any shape: nu / (nu + e^(gap/2) + e^(-gap/2))."""
    return nu / (nu + 2 * torch.cosh(gap.float().clamp(-80, 80) / 2))
