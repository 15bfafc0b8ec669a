"""Sampling from a model: one engine of token ids for rollouts, evaluation and use; `completer` adds the text."""

from trivium.generation.engine import Sample, generate

__all__ = ["Sample", "generate"]
