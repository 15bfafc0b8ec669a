"""DAPO's parts (Yu 2025, arXiv:2503.14476): a higher upper clip, the mean over tokens, groups that differ.

Its penalty on overlong responses is `rl.learner.overlong_buffer`.
"""

from pydantic import Field

from trivium.objectives.tokens import Aggregate
from trivium.rl.group import GroupAlgorithm, GroupConfig


class DAPOConfig(GroupConfig):
    """DAPO's own switches."""

    clip_eps_high: float | None = Field(default=0.28, gt=0)
    """The ratio is clipped to 1 + this above; unset takes clip_eps."""
    aggregate: Aggregate = "token"
    """How tokens are averaged; alpha is rescaled alike."""
    filter_groups: bool = True
    """Leave prompts whose responses all earned the same out of the update; how many is logged."""


class DAPO(GroupAlgorithm):
    """GRPO's advantages under DAPO's defaults."""

    kind = "grpo"
