"""A user's own Python function as a source of rewards."""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trivium.base.errors import ConfigError, StageFailed
from trivium.rewards.source import Answers, RewardPart, Tools


class FunctionPart(RewardPart):
    """A function of prompts and completions in a Python file, called as TRL calls its reward functions."""

    kind: Literal["function"] = "function"
    path: str = ""
    """`file.py:function`. It is called with keyword arguments: `prompts` and `completions`, lists of text; `tasks`, a
    list of dicts; `completion_ids`, lists of token ids. It returns one number a completion, None to leave one out. It
    is your code: it runs in this process, not in the sandbox."""

    @property
    def label(self) -> str:
        """The given name, or the function's."""
        return self.name or self.path.rpartition(":")[2] or self.kind

    @property
    def inputs(self) -> dict[str, Path]:
        """The file: another content is another reward."""
        return {f"reward {self.label}": Path(self.path.rpartition(":")[0])}

    def open(self, tools: Tools) -> "FunctionReward":
        """The function, loaded."""
        return FunctionReward(self.label, load_function(self.path))

    def check(self) -> None:
        """Whether the file holds the function."""
        load_function(self.path)


@dataclass(frozen=True)
class FunctionReward:
    """See `FunctionPart`."""

    label: str
    function: Callable[..., Any]

    def score(self, answers: Answers) -> list[float | None]:
        """What the function returns, checked."""
        owners = [answers.task(row) for row in range(len(answers))]
        try:
            found = self.function(
                prompts=[task.prompt for task in owners],
                completions=list(answers.texts),
                tasks=[task.model_dump() for task in owners],
                completion_ids=[list(ids) for ids in answers.responses],
            )
            values = [None if value is None else float(value) for value in found]
        except Exception as error:
            raise StageFailed(
                f"the reward function {self.label!r} raised {type(error).__name__}: {error}. Correct it."
            ) from error
        if len(values) != len(answers):
            raise StageFailed(
                f"the reward function {self.label!r} returned {len(values)} numbers for {len(answers)} completions. "
                "Return one a completion, None to leave one out."
            )
        if wrong := [value for value in values if value is not None and not math.isfinite(value)]:
            raise StageFailed(
                f"the reward function {self.label!r} returned {wrong[0]}. Return finite numbers, or None to leave a "
                "completion out."
            )
        return values


def load_function(path: str) -> Callable[..., Any]:
    """The function named by `file.py:function`.

    Raises:
        ConfigError: the file is missing or raises, or holds no such function.
    """
    file, _, name = path.rpartition(":")
    if not file or not name:
        raise ConfigError(f"rl.rewards: path is {path!r}; it must be file.py:function.")
    if not Path(file).is_file():
        raise ConfigError(f"rl.rewards: there is no file {file}. Check the path.")
    spec = importlib.util.spec_from_file_location(f"trivium_reward_{Path(file).stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"rl.rewards: {file} is no Python file. Name it file.py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"rl.rewards: {file} cannot be loaded: {type(error).__name__}: {error}.") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"rl.rewards: {file} holds no function {name!r}.")
    return function
