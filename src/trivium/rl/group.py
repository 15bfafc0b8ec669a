"""What the algorithms without a critic share: the responses to one prompt are each other's baseline."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trivium.base.config import Config
from trivium.batch import LossOutput
from trivium.objectives.advantages import GroupKind, group_advantages, usable_rows
from trivium.objectives.policy import policy_loss
from trivium.objectives.tokens import Aggregate
from trivium.rl.algorithm import KLPlace
from trivium.rl.rollout import Rollout


class GroupConfig(Config):
    """Switches of the algorithms that compare the responses to one prompt; each has its own defaults."""

    clip_eps: float = Field(default=0.2, gt=0)
    """The ratio is clipped to 1 - clip_eps below."""
    clip_eps_high: float | None = Field(default=None, gt=0)
    """The ratio is clipped to 1 + this above; unset takes clip_eps."""
    aggregate: Aggregate = "seq_sum"
    """How tokens are averaged; alpha is rescaled alike."""
    kl: KLPlace = "reward"
    """Where the penalty for leaving M1 sits: in the reward, or in the loss as k1, k2 or k3."""
    filter_groups: bool = False
    """Leave prompts whose responses all earned the same out of the update; how many is logged."""


class GroupAlgorithm:
    """Clipped surrogate on one advantage a response; subclasses name the baseline and what else differs."""

    needs_critic = False
    kind: ClassVar[GroupKind] = "rloo"

    def __init__(self, config: GroupConfig):
        self.config = config
        self.aggregate: Aggregate = config.aggregate
        self.kl: KLPlace = config.kl

    def advantages(self, rollout: Rollout) -> dict[str, float]:
        """Compare each response's whole reward, a KL penalty in the reward included, with those of its group."""
        self.leave_out(rollout)
        size, scores = group_size(rollout), response_rewards(rollout)
        found = group_advantages(scores, size, self.kind, rollout.valid)
        rollout.advantages = found[:, None] * rollout.loss_mask
        return {"sigma": self._sigma(scores, found, size, rollout.valid)} | spread(rollout)

    def leave_out(self, rollout: Rollout) -> None:
        """Mark rows without a baseline as invalid, and, if so configured, those whose group has but one reward."""
        size = group_size(rollout)
        rollout.valid = usable_rows(rollout.valid, size)
        if self.config.filter_groups:
            rollout.valid = rollout.valid & ~level_groups(rollout)[0].repeat_interleave(size)

    def _sigma(self, scores: Tensor, found: Tensor, size: int, valid: Tensor) -> float:
        if self.kind != "grpo":
            return 1.0
        plain = group_advantages(scores, size, "dr_grpo", valid)
        ratio = plain.square().sum().sqrt() / found.square().sum().sqrt()
        return ratio.item() if ratio.isfinite() and ratio > 0 else 1.0

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
            aggregate=config.aggregate,
        )


def group_size(rollout: Rollout) -> int:
    """Responses a prompt; the rollout has them contiguous and equally many.

    Raises:
        ValueError: it has not.
    """
    prompts, size = len(rollout.prompts), len(rollout.responses) // max(1, len(rollout.prompts))
    if size < 1 or rollout.prompt_of != [index for index in range(prompts) for _ in range(size)]:
        raise ValueError("a rollout's responses must be contiguous by prompt and equally many for each.")
    return size


def response_rewards(rollout: Rollout) -> Tensor:
    """(N,) reward of each whole response: the sum of its token rewards."""
    return rollout.rewards.masked_fill(~rollout.loss_mask, 0.0).sum(1)


def level_groups(rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Which prompts teach nothing without a critic, their valid responses having one score.

    Returns:
        (prompts,) bool: all valid scores are equal; (prompts,) bool: there are two of them or more.
    """
    rows = torch.tensor(rollout.prompt_of)[rollout.valid]
    scores, prompts = rollout.scores[rollout.valid], len(rollout.prompts)
    high = scores.new_full((prompts,), -torch.inf).scatter_reduce(0, rows, scores, "amax")
    low = scores.new_full((prompts,), torch.inf).scatter_reduce(0, rows, scores, "amin")
    return high <= low, torch.bincount(rows, minlength=prompts) > 1


def spread(rollout: Rollout) -> dict[str, float]:
    """Mean and standard deviation of the advantages over real tokens, for the log."""
    real = rollout.advantages[rollout.loss_mask]
    if not len(real):
        return {"advantage_mean": 0.0, "advantage_std": 0.0}
    return {"advantage_mean": real.mean().item(), "advantage_std": real.std(unbiased=False).item()}
