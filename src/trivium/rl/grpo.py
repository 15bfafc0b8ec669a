"""Group-relative policy optimisation (Shao 2024, arXiv:2402.03300), as TRL and verl compute it."""

from trivium.objectives.tokens import Aggregate
from trivium.rl.algorithm import KLPlace
from trivium.rl.group import GroupAlgorithm, GroupConfig


class GRPOConfig(GroupConfig):
    """GRPO's own switches."""

    aggregate: Aggregate = "seq_mean"
    """How tokens are averaged; alpha is rescaled alike."""
    kl: KLPlace = "k3"
    """Where the penalty for leaving M1 sits: in the reward, or in the loss as k1, k2 or k3."""


class GRPO(GroupAlgorithm):
    """(R - mean)/(sd + 1e-4) of the group. Both divisors, by sd and by length, bias the gradient."""

    kind = "grpo"
