"""What every source of rewards is given, offers and is configured by."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from pydantic import Field

from trivium.base.config import Config
from trivium.records import Task
from trivium.rewards.model import RewardModel
from trivium.sandbox import Sandbox


@dataclass(frozen=True)
class Answers:
    """N responses to P prompts: as token ids for a model, as text for everything else."""

    tasks: Sequence[Task]
    """P of them."""
    prompts: Sequence[Sequence[int]]
    """Token ids of each task's prompt."""
    responses: Sequence[Sequence[int]]
    """Token ids as sampled, the end token included."""
    texts: Sequence[str]
    """The responses decoded, without the end token."""
    prompt_of: Sequence[int]
    """Index of each response's task."""

    def __len__(self) -> int:
        return len(self.responses)

    def take(self, rows: Sequence[int]) -> "Answers":
        """Some of the responses, with all tasks."""
        return Answers(
            self.tasks,
            self.prompts,
            [self.responses[row] for row in rows],
            [self.texts[row] for row in rows],
            [self.prompt_of[row] for row in rows],
        )

    def task(self, row: int) -> Task:
        """The task that a response answers."""
        return self.tasks[self.prompt_of[row]]


@dataclass(frozen=True)
class Tools:
    """What sources may work with."""

    model: RewardModel
    sandbox: Sandbox
    seed: int


class RewardSource(Protocol):
    """A way to reward responses."""

    def score(self, answers: Answers) -> list[float | None]:
        """One number a response; None where it could not be had, which is no fault of the response.

        Raises:
            StageFailed: the source itself is broken.
        """
        ...


class RewardPart(Config):
    """One source of the training reward, and what it counts."""

    kind: str
    name: str = ""
    """Name in metrics; unset takes the kind."""
    weight: float = 1.0
    """Factor of the normalised part in the training reward; negative to punish."""
    mean: float | None = None
    """What the part is centred on; unset measures it on M1's own responses before the first step."""
    std: float | None = Field(default=None, gt=0)
    """What the part is divided by; unset measures it on the same responses."""

    frozen: ClassVar[bool] = False
    """Whether the source's numbers are normalised by statistics of its own."""

    @property
    def label(self) -> str:
        """Name in metrics."""
        return self.name or self.kind

    @property
    def inputs(self) -> dict[str, Path]:
        """Files that the rewards depend on."""
        return {}

    def open(self, tools: Tools) -> RewardSource:
        """The source at work.

        Raises:
            ConfigError: a setting is wrong.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Tell a wrong setting before anything is trained.

        Raises:
            ConfigError: which, and what to do.
        """
