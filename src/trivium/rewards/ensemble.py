"""Several reward models as one: how their scores are combined, how far they differ, and the mean of their weights."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from trivium.model import Scorer

Aggregate = Literal["mean", "min", "mean_minus_sd", "weight_average"]


def aggregate_scores(scores: Tensor, kind: Aggregate, sd_coef: float = 1.0) -> Tensor:
    """One score a response from those of several models.

    `min` and `mean_minus_sd` are pessimistic where the models differ, so that a policy gains little from what only
    some of them believe. Source: Coste et al. 2023 (arXiv:2310.02743), who subtract the variance; the standard
    deviation keeps the unit of the scores. The mean of weights has scores of its own and takes no part here.

    Args:
        scores: (n, N) of n models, from a common zero.
        kind: mean, min or mean_minus_sd.
        sd_coef: how many deviations (population, over the models) `mean_minus_sd` subtracts.
    Returns:
        (N,)
    Raises:
        ValueError: the kind does not combine scores.
    """
    if kind == "mean":
        return scores.mean(0)
    if kind == "min":
        return scores.min(0).values
    if kind == "mean_minus_sd":
        return scores.mean(0) - sd_coef * score_deviation(scores)
    raise ValueError(f"kind is {kind!r}, expected one of {', '.join(get_args(Aggregate)[:3])}.")


def score_deviation(scores: Tensor) -> Tensor:
    """(N,) population standard deviation over the models of scores (n, N): how far they differ on each response."""
    return scores.std(0, unbiased=False)


@torch.no_grad()
def average_weights(scorers: Sequence[Scorer]) -> Scorer:
    """One scorer whose every weight is the mean of the scorers' (WARM, Ramé et al. 2024, arXiv:2401.12187).

    They must have begun as one model, head included; else their weights mean different things.
    """
    first = scorers[0]
    average = Scorer.from_decoder(first, torch.Generator())
    states = [scorer.state_dict() for scorer in scorers]
    average.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]})
    average.recompute = first.recompute
    return average.to(first.device)
