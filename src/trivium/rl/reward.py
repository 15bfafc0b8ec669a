"""What the training reward is made of beside its source."""

from typing import Literal

import torch
from torch import Tensor

MissingEOS = Literal["min", "replace", "subtract", "none"]


def penalise_unfinished(scores: Tensor, finished: Tensor, kind: MissingEOS) -> Tensor:
    """Treat responses that were cut by the cap instead of ending (Huang 2024, arXiv:2403.17031).

    Args:
        scores: (N,) normalised rewards.
        finished: (N,) bool, the end token was sampled.
        kind: at most -1 (`min`), -1 (`replace`), one less (`subtract`), or as they are (`none`).
    """
    if kind == "none":
        return scores
    cut = {"min": scores.clamp(max=-1.0), "replace": torch.full_like(scores, -1.0), "subtract": scores - 1.0}[kind]
    return torch.where(finished, scores, cut)


def length_penalty(lengths: Tensor, per_token: float) -> Tensor:
    """(N,) -per_token · length, to be added to the normalised reward."""
    return -per_token * lengths.float()


def overlong_penalty(lengths: Tensor, cap: int, buffer: int) -> Tensor:
    """DAPO's soft punishment (arXiv:2503.14476): 0 up to cap - buffer tokens, then a line to -1 at the cap.

    Args:
        lengths: (N,) tokens of each response, the end token included.
        cap: most tokens a response may have.
        buffer: tokens over which the punishment grows; 0 is none.
    Returns:
        (N,) to be added to the normalised reward.
    """
    if buffer <= 0:
        return torch.zeros_like(lengths, dtype=torch.float32)
    return -((lengths - (cap - buffer)).clamp(min=0) / buffer).clamp(max=1.0).float()
