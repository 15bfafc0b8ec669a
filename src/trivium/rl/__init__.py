"""Reinforcement learning from a reward: rollouts, the update, and the algorithms behind one interface."""

from collections.abc import Callable

from trivium.rl import ppo
from trivium.rl.algorithm import Algorithm

ALGORITHMS: dict[str, Callable[[ppo.PPOConfig], Algorithm]] = {"ppo": ppo.PPO}

__all__ = ["ALGORITHMS", "Algorithm"]
