"""The training reward: a weighted sum of sources, each normalised by statistics that are frozen before training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from trivium.base.ranks import shared
from trivium.rewards.source import Answers, RewardPart, RewardSource, Tools

Statistics = dict[str, tuple[float, float]]
"""Label of a part -> mean and deviation of its raw numbers on M1's own responses."""

Raw = dict[str, list[float | None]]
"""Label of a part -> one number a response, None where it could not be had."""


@dataclass(frozen=True)
class Scored:
    """What N responses earned."""

    rewards: Tensor
    """(N,) sum over parts of weight · (raw - mean) / std; 0 where it could not be had."""
    parts: dict[str, Tensor]
    """Label -> (N,) raw numbers, NaN where they could not be had."""
    valid: Tensor
    """(N,) bool: every part could be had. A missing part is never 0: the response is left out."""


class Composite:
    """The training reward before penalties, R̄ = Σ_k w_k (r_k - μ_k) / s_k, from one source or several.

    Args:
        parts: their labels differ.
        tools: what the sources work with.
    """

    def __init__(self, parts: Sequence[RewardPart], tools: Tools):
        self.parts, self.tools = list(parts), tools
        self.sources: dict[str, RewardSource] = {part.label: part.open(tools) for part in parts}
        self.statistics: Statistics = {
            part.label: (0.0 if part.mean is None else part.mean, 1.0 if part.std is None else part.std)
            for part in parts
        }

    @property
    def unmeasured(self) -> list[str]:
        """Labels of the parts whose statistics neither the source nor the user gives in full."""
        return [part.label for part in self.parts if not part.frozen and (part.mean is None or part.std is None)]

    def raw(self, answers: Answers, together: bool = False) -> Raw:
        """What every source says of every response.

        Args:
            together: every rank calls this with the same answers and scores its share.
        """

        def score(source: RewardSource, rows: list[int]) -> list[float | None]:
            return source.score(answers.take(rows)) if rows else []

        count = len(answers)
        return {
            label: shared(count, partial(score, source)) if together else score(source, list(range(count)))
            for label, source in self.sources.items()
        }

    def measure(self, answers: Answers) -> Statistics:
        """Take the missing means and deviations from M1's responses, before any penalty. All ranks call it.

        A part on which all responses agree, or that could not be had, keeps the deviation 1.
        """
        raw = self.raw(answers, together=True)
        for part in self.parts:
            if part.label not in self.unmeasured:
                continue
            values = torch.tensor([value for value in raw[part.label] if value is not None], dtype=torch.float64)
            mean, std = (values.mean().item(), values.std(unbiased=False).item()) if len(values) else (0.0, 0.0)
            self.statistics[part.label] = (
                mean if part.mean is None else part.mean,
                (std if std > 1e-6 else 1.0) if part.std is None else part.std,
            )
        return self.statistics

    def freeze(self, statistics: Mapping[str, Sequence[float]]) -> None:
        """Take statistics that were measured before."""
        for label in self.unmeasured:
            mean, std = statistics[label]
            self.statistics[label] = (float(mean), float(std))

    def combine(self, raw: Raw) -> Scored:
        """The sum of given raw parts. A number that is not finite stays one: it is a fault, and not a missing part."""
        missing = torch.tensor([any(value is None for value in row) for row in zip(*raw.values(), strict=True)])
        parts = {
            label: torch.tensor([math.nan if value is None else value for value in values])
            for label, values in raw.items()
        }
        total = torch.zeros(len(missing))
        for part in self.parts:
            mean, std = self.statistics[part.label]
            total = total + part.weight * (parts[part.label] - mean) / std
        return Scored(total.masked_fill(missing, 0.0), parts, ~missing)

    def score(self, answers: Answers, together: bool = False) -> Scored:
        """Run all sources and combine what they say; see `raw`."""
        return self.combine(self.raw(answers, together))
