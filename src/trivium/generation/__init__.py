"""Sampling from a model: one engine for rollouts, evaluation and use. Token ids only."""

from trivium.generation.engine import Sample, generate

__all__ = ["Sample", "generate"]
