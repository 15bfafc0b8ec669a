"""Optimisers, parameter groups and schedules."""

from trivium.optim.optimizer import OptimConfig, Optimizer

__all__ = ["OptimConfig", "Optimizer"]
