"""Between the records of preference data and the rows of a preference database; names are hashes of content."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trivium.base.errors import DataError
from trivium.preferences.database import Row
from trivium.preferences.judgement import Judgement, Prompt, Sample, content_id, prompt_split, prompt_text
from trivium.records import Message


@dataclass(frozen=True)
class StoredPrompt:
    """A prompt with its name in the store."""

    id: str
    prompt: Prompt
    task: str
    split: str

    @property
    def text(self) -> str:
        """The text a model continues."""
        return prompt_text(self.prompt)


@dataclass(frozen=True)
class StoredSample:
    """A completion with its name in the store."""

    id: str
    prompt_id: str
    sample: Sample


@dataclass(frozen=True)
class StoredJudgement:
    """A judgement with its name in the store and the time it was added."""

    key: str
    prompt_id: str
    judgement: Judgement
    created: str


def prompt_id(prompt: Prompt) -> str:
    """The name of a prompt in every store."""
    return content_id("prompt", prompt if isinstance(prompt, str) else [each.model_dump() for each in prompt])


def prompt_row(prompt: Prompt, task: str, split: str, heldout_fraction: float) -> tuple[Any, ...]:
    """The row of a prompt; an empty split is decided by the hash."""
    if split not in ("", "train", "heldout"):
        raise DataError(f"split is {split!r}; it must be 'train' or 'heldout'.")
    messages = None if isinstance(prompt, str) else compact_json([message.model_dump() for message in prompt])
    return prompt_id(prompt), prompt_text(prompt), messages, task, split or prompt_split(prompt, heldout_fraction)


def sample_row(prompt: str, sample: Sample) -> tuple[Any, ...]:
    """The row of a completion; its name covers what was sampled, the outcome of its tests stays outside."""
    ids = list(sample.ids)
    name = content_id("sample", prompt, sample.text, ids, sample.finish, sample.model, sample.round, sample.sample)
    return (
        *(name, prompt, sample.text, compact_json(ids), sample.finish, sample.model, sample.round, sample.sample),
        *(_flag(sample.passed), sample.tests_passed, sample.tests_total, sample.verdict),
    )


def judgement_content(prompt: str, judgement: Judgement, samples: list[str]) -> str:
    """The name of what is judged and how; the time and what it supersedes stay outside."""
    return content_id(
        *("judgement", prompt, samples, list(judgement.tiers), judgement.id, judgement.annotator, judgement.source),
        *(judgement.margin, judgement.agreement, judgement.comment, judgement.details),
    )


def prompt_of(row: Row) -> Prompt:
    """The prompt as it was given: text, or the messages of a conversation."""
    if row["messages"] is None:
        return row["text"]
    return tuple(Message(**message) for message in json.loads(row["messages"]))


def sample_of(row: Row) -> Sample:
    """The completion of a row."""
    names = ("text", "finish", "model", "round", "sample", "tests_passed", "tests_total", "verdict")
    passed = None if row["passed"] is None else bool(row["passed"])
    return Sample(ids=tuple(json.loads(row["ids"])), passed=passed, **{name: row[name] for name in names})


def where_clause(also: str = "", **columns: Any) -> tuple[str, list[Any]]:
    """A WHERE clause over the columns that have a value, and those values."""
    given = {name: value for name, value in columns.items() if value is not None}
    clauses = [*(f"{name} = ?" for name in given), *([also] if also else [])]
    return ("WHERE " + " AND ".join(clauses) if clauses else ""), list(given.values())


def stored_judgement(row: Row, ranked: Sequence[Row]) -> StoredJudgement:
    """A judgement from its row, joined with its prompt, and its rankings in order, joined with the completions."""
    tiers: dict[int, list[int]] = {}
    for index, each in enumerate(ranked):
        if each["tier"] is not None:
            tiers.setdefault(each["tier"], []).append(index)
    judgement = Judgement(
        prompt=prompt_of(row),
        completions=tuple(sample_of(each) for each in ranked),
        ranking=tuple(tuple(tiers[tier]) for tier in sorted(tiers)),
        id=row["record"],
        details=json.loads(row["details"]),
        supersedes=row["supersedes"] or "",
        **{name: row[name] for name in ("annotator", "source", "split", "margin", "agreement", "comment")},
    )
    return StoredJudgement(row["id"], row["prompt"], judgement, row["created"])


def compact_json(value: Any) -> str:
    """JSON without spaces, as it stands in the columns."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _flag(value: bool | None) -> int | None:
    return None if value is None else int(value)
