"""Where rewards come from: a learned model of preferences, or the tests themselves."""

from trivium.rewards.model import RewardModel

__all__ = ["RewardModel"]
