"""Reinforcement learning from a reward: rollouts, the update, and the algorithms behind one interface."""

from collections.abc import Callable
from typing import Any

from trivium.rl import cispo, dapo, dr_grpo, grpo, gspo, ppo, reinforce, rloo
from trivium.rl.algorithm import Algorithm

ALGORITHMS: dict[str, Callable[[Any], Algorithm]] = {
    "ppo": ppo.PPO,
    "rloo": rloo.RLOO,
    "grpo": grpo.GRPO,
    "dr_grpo": dr_grpo.DrGRPO,
    "dapo": dapo.DAPO,
    "reinforce": reinforce.Reinforce,
    "gspo": gspo.GSPO,
    "cispo": cispo.CISPO,
}
"""By the name of `rl.algorithm`; each takes the section of the recipe that has its name."""

__all__ = ["ALGORITHMS", "Algorithm"]
