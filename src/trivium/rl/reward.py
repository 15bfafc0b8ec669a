"""What the training reward is made of beside its source."""

from typing import Literal

import torch
from torch import Tensor

MissingEOS = Literal["min", "replace", "none"]


def penalise_unfinished(scores: Tensor, finished: Tensor, kind: MissingEOS) -> Tensor:
    """Treat responses that were cut by the cap instead of ending (Huang 2024, arXiv:2403.17031).

    Args:
        scores: (N,) normalised rewards.
        finished: (N,) bool, the end token was sampled.
        kind: at most -1 (`min`), -1 (`replace`), or as they are (`none`).
    """
    if kind == "none":
        return scores
    cut = scores.clamp(max=-1.0) if kind == "min" else torch.full_like(scores, -1.0)
    return torch.where(finished, scores, cut)
