"""GRPO without its two biases (Liu 2025, arXiv:2503.20783): no division by the deviation, none by the length."""

from trivium.objectives.tokens import Aggregate
from trivium.rl.group import GroupAlgorithm, GroupConfig


class DrGRPOConfig(GroupConfig):
    """Dr. GRPO's own switches."""

    aggregate: Aggregate = "const"
    """How tokens are averaged; alpha is rescaled alike."""


class DrGRPO(GroupAlgorithm):
    """R̃ - mean of the group: (K - 1)/K of RLOO's advantages."""

    kind = "dr_grpo"
