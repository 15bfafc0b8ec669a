"""The one loop of steps, the training on top of it, checkpoints and faults."""

from trivium.training.checkpoint import Checkpointer
from trivium.training.loop import Loop, LoopConfig
from trivium.training.trainer import TrainConfig, Trainer

__all__ = ["Checkpointer", "Loop", "LoopConfig", "TrainConfig", "Trainer"]
