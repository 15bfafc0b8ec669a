"""The one training loop, its checkpoints and what it logs."""

from trivium.training.checkpoint import Checkpointer
from trivium.training.trainer import Trainer

__all__ = ["Checkpointer", "Trainer"]
