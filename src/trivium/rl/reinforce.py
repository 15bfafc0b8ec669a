"""REINFORCE++ (Hu 2025, arXiv:2501.03262): rewards-to-go, whitened over the whole rollout."""

import torch

from trivium.objectives.advantages import gae, whiten
from trivium.objectives.tokens import Aggregate
from trivium.rl.group import GroupAlgorithm, GroupConfig, group_size, response_rewards
from trivium.rl.rollout import Rollout


class ReinforceConfig(GroupConfig):
    """REINFORCE++'s own switches."""

    aggregate: Aggregate = "token"
    """How tokens are averaged; alpha is rescaled alike."""
    baseline: bool = False
    """Subtract the mean reward of the prompt's group first (REINFORCE++-baseline); otherwise groups play no part."""


class Reinforce(GroupAlgorithm):
    """Σ of the rewards from each token on, KL penalty included, then mean 0 and variance 1."""

    config: ReinforceConfig

    def advantages(self, rollout: Rollout) -> dict[str, float]:
        """Rewards-to-go over real actions, less the group's mean where configured; whitened once per rollout."""
        if self.config.baseline or self.config.filter_groups:
            self.leave_out(rollout)
        mask = rollout.loss_mask
        to_go, _ = gae(rollout.rewards, torch.zeros_like(rollout.rewards), mask, 1.0, 1.0)
        if self.config.baseline:
            size = group_size(rollout)
            kept = rollout.valid.view(-1, size)
            scores = response_rewards(rollout).view(-1, size).masked_fill(~kept, 0.0)
            mean = scores.sum(1) / kept.sum(1).clamp(min=1)
            to_go = to_go - mean.repeat_interleave(size)[:, None]
        rollout.advantages, mean, std = whiten(to_go, mask)
        return {"sigma": std.item(), "advantage_mean": mean.item(), "advantage_std": std.item()}
