"""Reinforcement learning from a reward: rollouts, the update, and the algorithms behind one interface."""

from trivium.rl import ppo
from trivium.rl.algorithm import Algorithm

ALGORITHMS: dict[str, Algorithm] = {"ppo": ppo.PPO}

__all__ = ["ALGORITHMS", "Algorithm"]
