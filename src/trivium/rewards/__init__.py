"""Where rewards come from: a learned model of preferences, the tests, rules, a user's function, a chat model."""

from typing import Annotated

from pydantic import Field

from trivium.rewards.composite import Composite, Scored
from trivium.rewards.execution import ExecutionPart
from trivium.rewards.format import FormatPart
from trivium.rewards.function import FunctionPart
from trivium.rewards.judge import JudgePart
from trivium.rewards.learned import ModelPart
from trivium.rewards.length import LengthPart
from trivium.rewards.model import RewardModel
from trivium.rewards.source import Answers, RewardPart, RewardSource, Tools

AnyReward = Annotated[
    ModelPart | ExecutionPart | LengthPart | FormatPart | FunctionPart | JudgePart, Field(discriminator="kind")
]
"""One item of `rl.rewards`: another kind of reward is another member."""

__all__ = [
    "Answers",
    "AnyReward",
    "Composite",
    "RewardModel",
    "RewardPart",
    "RewardSource",
    "Scored",
    "Tools",
]
