"""The form of a response as a source of rewards."""

import re
from dataclasses import dataclass
from typing import Literal

from trivium.base.errors import ConfigError
from trivium.rewards.source import Answers, RewardPart, Tools
from trivium.tasks.extract import extract_completion, parses, program


class FormatPart(RewardPart):
    """1 for a response of the wanted form, else 0."""

    kind: Literal["format"] = "format"
    pattern: str = ""
    r"""Regular expression that the whole response must match (`.` matches line ends); unset asks that the task's prompt
    with the response parses as Python. Beware of patterns like `(a+)+`, which take forever on some texts."""

    def open(self, tools: Tools) -> "FormatReward":
        """Looks at the text alone; nothing is run."""
        return FormatReward(self.pattern)

    def check(self) -> None:
        """Whether the pattern compiles."""
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f"rl.rewards: the pattern of {self.label!r}, {self.pattern!r}, is no regular expression: {error}."
            ) from None


@dataclass(frozen=True)
class FormatReward:
    """See `FormatPart`."""

    pattern: str = ""

    def score(self, answers: Answers) -> list[float | None]:
        """1 or 0."""
        if self.pattern:
            wanted = re.compile(self.pattern, re.DOTALL)
            return [float(wanted.fullmatch(text) is not None) for text in answers.texts]
        owners = [answers.task(row) for row in range(len(answers))]
        return [
            float(parses(program(task, extract_completion(task.prompt, text))))
            for task, text in zip(owners, answers.texts, strict=True)
        ]
