"""A response's length as a source of rewards."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from trivium.rewards.source import Answers, RewardPart, Tools


class LengthPart(RewardPart):
    """Nearness to a length: minus the tokens between a response, its end token included, and the target."""

    kind: Literal["length"] = "length"
    target: int = Field(default=0, ge=0)
    """Tokens that a response should have; 0 rewards the shortest."""

    def open(self, tools: Tools) -> "LengthReward":
        """Counts tokens."""
        return LengthReward(self.target)


@dataclass(frozen=True)
class LengthReward:
    """See `LengthPart`."""

    target: int = 0

    def score(self, answers: Answers) -> list[float | None]:
        """-|tokens - target|."""
        return [-float(abs(len(response) - self.target)) for response in answers.responses]
