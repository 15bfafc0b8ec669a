"""Where tasks and examples come from: the built-in ladder, or the user's files."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from trivium.base.config import MOST, Config
from trivium.base.log import warn
from trivium.base.seeding import derive_seed, python_rng
from trivium.records import Task
from trivium.tasks.formats import load_tasks
from trivium.tasks.ladder import FAMILIES, Split, generate_tasks


class TaskConfig(Config):
    """A set of tasks."""

    path: str = ""
    """File of tasks (HumanEval, MBPP or Trivium's own format); empty takes the built-in ladder."""
    count: int = Field(default=1000, ge=1, le=MOST)
    """How many; of a file, at most so many, drawn by the seed."""
    families: tuple[str, ...] = ()
    """Only these families of the ladder; empty takes all."""
    on_error: Literal["stop", "skip"] = "stop"
    """At a bad record of the file: stop, or say so and leave it out; a solution that fails its tests is told alone."""

    @field_validator("families")
    @classmethod
    def _are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in FAMILIES:
                raise ValueError(f"the ladder has no family {name!r}. Known: {', '.join(FAMILIES)}")
        return value

    def load(self, seed: int, purpose: str, split: Split) -> list[Task]:
        """The tasks for one purpose; train and held-out tasks of the ladder share no composition.

        Raises:
            DataError: the file is missing, broken or empty.
        """
        if not self.path:
            families = list(self.families) or None
            return generate_tasks(self.count, derive_seed(seed, purpose), split, families=families)
        skipped: list[str] = []
        tasks = load_tasks(Path(self.path), on_error=self.on_error, skipped=skipped)
        if skipped:
            warn(f"{len(skipped)} bad tasks of {self.path} are left out, the first: {skipped[0]}")
        order = python_rng(seed, purpose).sample(range(len(tasks)), min(self.count, len(tasks)))
        return [tasks[index] for index in sorted(order)]

    @property
    def inputs(self) -> dict[str, Path | str]:
        """What a stage's fingerprint must know beside this config."""
        return {"tasks": Path(self.path)} if self.path else {}


def collected_tasks(tasks: TaskConfig, later_tasks: int, seed: int, round: int) -> list[Task]:
    """The tasks of one collection round, later rounds having a number of their own."""
    wanted = tasks if round == 0 else tasks.model_copy(update={"count": later_tasks})
    return wanted.load(seed, f"collect-{round}", "train")
