"""The tensor nouns that layers pass to one another."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Rows of token ids for next-token prediction; several documents may share a row."""

    ids: Tensor
    """(B, T) int64."""
    loss_mask: Tensor
    """(B, T) bool: True where the token is a target that carries loss (it is predicted from the one before)."""
    positions: Tensor
    """(B, T) int64: restarts at 0 at each document; a token attends only within its document. Pads have -1."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(self.ids.to(device), self.loss_mask.to(device), self.positions.to(device))


@dataclass(frozen=True)
class LossOutput:
    """A loss as a sum and a count, so that the trainer divides once, by the global count."""

    loss_sum: Tensor
    """() differentiable, fp32."""
    count: Tensor
    """() number of terms in the sum: tokens, pairs or sequences."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars for the log."""

    @property
    def mean(self) -> Tensor:
        """loss_sum / count; zero when nothing carries loss."""
        return self.loss_sum / self.count.clamp(min=1)
