"""R as a source of rewards."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from trivium.rewards.model import RewardModel
from trivium.rewards.source import Answers, RewardPart, Tools


class ModelPart(RewardPart):
    """R: its score of the exact token ids, normalised by the statistics that were frozen when R was trained."""

    kind: Literal["model"] = "model"

    frozen: ClassVar[bool] = True

    def open(self, tools: Tools) -> "ModelReward":
        """The reward model of the run."""
        return ModelReward(tools.model)


@dataclass(frozen=True)
class ModelReward:
    """See `ModelPart`."""

    model: RewardModel

    def score(self, answers: Answers) -> list[float | None]:
        """Normalised rewards."""
        return [*self.model.rewards(answers.prompts, answers.responses, answers.prompt_of).tolist()]
