"""What could pass for judgement in a reward model: a taste for long answers, or for marks that answers often carry."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trivium.evaluation.intervals import share_interval
from trivium.objectives.preference import correlation
from trivium.rewards.learning import RankedTokens
from trivium.tokenizer import Tokenizer

FORMATS = {
    "comment": re.compile(r"(^|[ \t])#", re.MULTILINE),
    "docstring": re.compile(r"\"\"\"|'''"),
    "code_fence": re.compile(r"^```", re.MULTILINE),
    "list": re.compile(r"^\s*([-*\u2022]|\d+\.) ", re.MULTILINE),
    "bold": re.compile(r"\*\*\S.*?\S\*\*"),
    "blank_line": re.compile(r"\n[ \t]*\n"),
}
"""Marks of form that an answer has or has not."""


@dataclass(frozen=True)
class JudgedPair:
    """One answer judged better than another to the same prompt, and what the model makes of them."""

    group: int
    """Index of the prompt's group."""
    better: int
    worse: int
    """Indices of the answers in the group."""
    gap: float
    """Score of the better less that of the worse."""

    @property
    def right(self) -> float:
        """Whether the model agrees; equal scores count half."""
        return 1.0 if self.gap > 0 else 0.5 * (self.gap == 0)


def ordered_pairs(groups: Sequence[RankedTokens], scores: Sequence[Tensor]) -> list[JudgedPair]:
    """Every pair of a better and a worse answer; ties and unranked answers give none.

    Args:
        scores: of every group's completions.
    """
    return [
        JudgedPair(index, i, j, (values[i] - values[j]).item())
        for index, (group, values) in enumerate(zip(groups, scores, strict=True))
        for i, tier in enumerate(group.tiers)
        for j, other in enumerate(group.tiers)
        if 0 <= tier < other
    ]


def agreement(pairs: Sequence[JudgedPair]) -> dict[str, Any]:
    """`accuracy` with its 95% interval `accuracy_ci`, clustered by prompt, and the number of `pairs`; one at least."""
    interval = share_interval([pair.right for pair in pairs], [pair.group for pair in pairs])
    return {"accuracy": interval.value, "accuracy_ci": interval.bounds, "pairs": len(pairs)}


def length_figures(
    groups: Sequence[RankedTokens], scores: Sequence[Tensor], pairs: Sequence[JudgedPair]
) -> dict[str, Any]:
    """How far length could stand in for judgement.

    Returns:
        Of the pairs of unequal length, how often the longer answer is judged better (`longer_wins_accuracy`) and how
        often the model prefers it (`longer_preferred`), None where there are no such pairs; `corr` of score and
        length over all answers; `by_gap`: the model's agreement on pairs whose better answer is `longer`, `shorter`
        or `equal`, those there are.
    """
    kinds: dict[str, list[JudgedPair]] = {"longer": [], "shorter": [], "equal": []}
    for pair in pairs:
        better, worse = (len(groups[pair.group].completions[each]) for each in (pair.better, pair.worse))
        kinds["longer" if better > worse else "shorter" if better < worse else "equal"].append(pair)
    longer, shorter = kinds["longer"], kinds["shorter"]
    preferred = [pair.right for pair in longer] + [1 - pair.right for pair in shorter]
    lengths = torch.tensor([float(len(ids)) for group in groups for ids in group.completions])
    return {
        "longer_wins_accuracy": len(longer) / len(preferred) if preferred else None,
        "longer_preferred": sum(preferred) / len(preferred) if preferred else None,
        "corr": correlation(torch.cat(list(scores)), lengths).item(),
        "by_gap": {name: agreement(own) for name, own in kinds.items() if own},
    }


def format_figures(
    groups: Sequence[RankedTokens], pairs: Sequence[JudgedPair], tokenizer: Tokenizer
) -> dict[str, dict[str, Any]]:
    """For each mark of `FORMATS`, over the pairs of which one answer has it and the other has not.

    Returns:
        `judged`, how often the one that has it is judged better; `preferred`, how often the model prefers it, with a
        95% interval `preferred_ci`, clustered by prompt; and `pairs`. Marks that set no pair apart are left out.
    """
    marks = [[_marks(tokenizer.decode(list(ids))) for ids in group.completions] for group in groups]
    figures = {}
    for name in FORMATS:
        apart = [
            (pair, name in marks[pair.group][pair.better])
            for pair in pairs
            if (name in marks[pair.group][pair.better]) != (name in marks[pair.group][pair.worse])
        ]
        if apart:
            preferred = [pair.right if has else 1 - pair.right for pair, has in apart]
            interval = share_interval(preferred, [pair.group for pair, _ in apart])
            figures[name] = {
                "judged": sum(has for _, has in apart) / len(apart),
                "preferred": interval.value,
                "preferred_ci": interval.bounds,
                "pairs": len(apart),
            }
    return figures


def _marks(text: str) -> set[str]:
    return {name for name, pattern in FORMATS.items() if pattern.search(text)}
