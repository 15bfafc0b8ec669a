"""REINFORCE with a leave-one-out baseline (Ahmadian 2024, arXiv:2402.14740): unbiased, and no critic."""

from trivium.rl.group import GroupAlgorithm, GroupConfig


class RLOOConfig(GroupConfig):
    """RLOO's own switches."""


class RLOO(GroupAlgorithm):
    """Each response against the mean of the others: (K·R̃ - ΣR̃)/(K - 1)."""

    kind = "rloo"
