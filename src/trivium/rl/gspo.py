"""Group sequence policy optimisation (Zheng 2025, arXiv:2507.18071): one ratio a response."""

from pydantic import Field
from torch import Tensor

from trivium.batch import LossOutput
from trivium.objectives.policy import policy_loss
from trivium.objectives.tokens import Aggregate
from trivium.rl.group import GroupAlgorithm, GroupConfig


class GSPOConfig(GroupConfig):
    """GSPO's own switches."""

    clip_eps: float = Field(default=3e-4, gt=0)
    """The ratio, a geometric mean over tokens, is clipped to 1 - clip_eps below."""
    clip_eps_high: float | None = Field(default=4e-4, gt=0)
    """It is clipped to 1 + this above; unset takes clip_eps."""
    aggregate: Aggregate = "seq_mean"
    """How tokens are averaged; alpha is rescaled alike."""


class GSPO(GroupAlgorithm):
    """GRPO's advantages with the ratio exp(mean over tokens of log new - log old)."""

    kind = "grpo"

    def loss(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, loss_mask: Tensor) -> LossOutput:
        """See `objectives.policy.policy_loss` with one ratio a sequence."""
        config = self.config
        return policy_loss(
            logprobs,
            old_logprobs,
            advantages,
            loss_mask,
            clip_eps=config.clip_eps,
            clip_eps_high=config.clip_eps_high,
            aggregate=config.aggregate,
            ratio="sequence",
        )
