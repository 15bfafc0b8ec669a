"""Proximal policy optimisation (Schulman 2017, arXiv:1707.06347) with a separate critic and GAE."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from trivium.base.config import Config
from trivium.batch import LossOutput
from trivium.objectives.policy import gae, policy_loss, value_loss, whiten
from trivium.objectives.tokens import Aggregate
from trivium.rl.algorithm import KLPlace
from trivium.rl.rollout import Rollout


class PPOConfig(Config):
    """PPO's own switches; specs of each in docs/rlhf.md."""

    clip_eps: float = Field(default=0.2, gt=0)
    """The ratio is clipped to 1 - clip_eps below."""
    clip_eps_high: float | None = Field(default=None, gt=0)
    """The ratio is clipped to 1 + this above; unset takes clip_eps."""
    dual_clip: float | None = Field(default=None, gt=1)
    """Bound on the loss of tokens with negative advantage (above 1); unset is off."""
    discount: float = Field(default=1.0, ge=0, le=1)
    """Discount of later rewards."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """Bias against variance in advantages; 1 takes whole returns."""
    whiten: bool = True
    """Scale advantages to mean 0 and variance 1 over the rollout; alpha is rescaled alike."""
    aggregate: Literal["seq_sum", "seq_mean", "token", "const"] = "token"
    """How tokens are averaged; alpha is rescaled alike."""
    value_clip: float | None = Field(default=0.2, gt=0)
    """Half-width of the critic's trust interval about its old value; unset is off."""
    truncation: Literal["terminal", "bootstrap", "mask"] = "terminal"
    """A response cut by the cap ends there (`terminal`), is worth the critic's value of what would have followed
    (`bootstrap`), or is left out of the update (`mask`)."""
    kl: KLPlace = "reward"
    """Where the penalty for leaving M1 sits: in the reward, or in the loss as k1, k2 or k3."""


class PPO:
    """Clipped surrogate on GAE advantages."""

    needs_critic = True

    def __init__(self, config: PPOConfig):
        self.config = config
        self.aggregate: Aggregate = config.aggregate
        self.kl: KLPlace = config.kl

    def advantages(self, rollout: Rollout) -> dict[str, float]:
        """GAE over real actions, whitened once per rollout; returns are taken before whitening."""
        if self.config.truncation == "mask":
            rollout.valid = rollout.valid & rollout.finished
        mask = rollout.loss_mask
        after = None
        if self.config.truncation == "bootstrap":
            after = rollout.end_values.masked_fill(rollout.finished, 0.0)
        advantages, rollout.returns = gae(
            rollout.rewards, rollout.values, mask, self.config.discount, self.config.gae_lambda, after
        )
        _, mean, std = whitened = whiten(advantages, mask)
        rollout.advantages = whitened[0] if self.config.whiten else advantages
        return {
            "sigma": std.item() if self.config.whiten else 1.0,
            "advantage_mean": mean.item(),
            "advantage_std": std.item(),
        }

    def loss(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, loss_mask: Tensor) -> LossOutput:
        """See `objectives.policy.policy_loss`."""
        config = self.config
        return policy_loss(
            logprobs,
            old_logprobs,
            advantages,
            loss_mask,
            clip_eps=config.clip_eps,
            clip_eps_high=config.clip_eps_high,
            dual_clip=config.dual_clip,
            aggregate=config.aggregate,
        )

    def value_loss(self, values: Tensor, old_values: Tensor, returns: Tensor, loss_mask: Tensor) -> LossOutput:
        """See `objectives.policy.value_loss`."""
        return value_loss(values, old_values, returns, loss_mask, self.config.value_clip)
