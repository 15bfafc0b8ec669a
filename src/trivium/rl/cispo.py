"""CISPO (MiniMax-M1, arXiv:2506.13585): the importance weight is clipped, no token's gradient is ever cut."""

from torch import Tensor

from trivium.batch import LossOutput
from trivium.objectives.policy import cispo_loss
from trivium.objectives.tokens import Aggregate
from trivium.rl.group import GroupAlgorithm, GroupConfig


class CISPOConfig(GroupConfig):
    """CISPO's own switches; its weight has no lower clip, so clip_eps counts only where clip_eps_high is unset."""

    aggregate: Aggregate = "token"
    """How tokens are averaged; alpha is rescaled alike."""


class CISPO(GroupAlgorithm):
    """GRPO's advantages under -sg(min(ρ, 1 + ε))·A·log π."""

    kind = "grpo"

    def loss(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, loss_mask: Tensor) -> LossOutput:
        """See `objectives.policy.cispo_loss`."""
        config = self.config
        high = config.clip_eps if config.clip_eps_high is None else config.clip_eps_high
        return cispo_loss(logprobs, old_logprobs, advantages, loss_mask, clip_eps_high=high, aggregate=config.aggregate)
