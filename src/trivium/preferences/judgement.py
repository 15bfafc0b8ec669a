"""The nouns of preference data: a sampled answer and a judgement that ranks answers to one prompt."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from trivium.records import Completion, Message, Preference, Record

HELDOUT_FRACTION = 0.1

CHECK_SOURCE = "human-check"
"""Source of judgements that check people (repeats, gold): they train nothing unless this source is asked for."""

PLAY_SOURCE = "play"
"""Source of votes on the playground's pairs. Their answers' `model` is `play:` and the fingerprint: no collection takes
them for its own, and nobody is given them to label."""

Prompt = str | tuple[Message, ...]


class Sample(Completion):
    """A completion with where it came from and how its tests went."""

    tests_passed: int | None = Field(default=None, ge=0, lt=2**31)
    tests_total: int | None = Field(default=None, ge=0, lt=2**31)
    verdict: str = ""
    """Outcome in a word, as the checker named it: `passed`, `failed`, `timeout`, ..."""
    model: str = ""
    """Fingerprint of the weights that were sampled; empty for imported text."""
    round: int = Field(default=0, ge=0, lt=2**31)
    """Collection round: 0 samples M1, later rounds the policy of that time."""
    sample: int = Field(default=0, ge=0, lt=2**31)
    """Index among the samples of one prompt, model and round."""

    @property
    def content(self) -> str | tuple[int, ...]:
        """What two answers are compared by: the text, or the ids where only those were given."""
        return self.text or self.ids

    @property
    def empty(self) -> bool:
        """Whether there is nothing to judge: no ids, or a text of whitespace."""
        return not self.text.strip() if self.text else not self.ids


class Judgement(Record):
    """One annotator's ranking of completions of one prompt."""

    prompt: Prompt
    completions: tuple[Sample, ...] = Field(min_length=2)
    ranking: tuple[tuple[int, ...], ...]
    """Indices of completions, best tier first; those of one tier are ties. Empty: nothing is said (a retraction)."""
    id: str = ""
    """The record's own name in the file it came from."""
    annotator: str = ""
    source: str = ""
    """Who judged: `execution`, `simulated`, `human`, a file's own source name, ..."""
    split: str = ""
    """`train` or `heldout`; empty: decided by the prompt's hash."""
    margin: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """How much better the upper tier is, in units of reward."""
    agreement: float | None = Field(default=None, ge=0, le=1)
    """Share of annotators that agree."""
    comment: str = ""
    details: dict[str, Any] = Field(default_factory=dict)
    """What else was recorded: criteria, order shown, seconds, ..."""
    supersedes: str = ""
    """Key in the store of the judgement that this one replaces."""

    @model_validator(mode="after")
    def _ranking_fits(self) -> "Judgement":
        ranked = [index for tier in self.ranking for index in tier]
        for index in ranked:
            if not 0 <= index < len(self.completions):
                raise ValueError(f"ranking names completion {index}, but there are {len(self.completions)} (0 first)")
        if twice := [index for index, times in Counter(ranked).items() if times > 1]:
            raise ValueError(f"ranking names completion {twice[0]} twice")
        if any(not tier for tier in self.ranking):
            raise ValueError("ranking has an empty tier")
        return self

    @property
    def tiers(self) -> tuple[int | None, ...]:
        """Per completion its tier, 0 best; None where the ranking leaves it out."""
        found = {index: tier for tier, indices in enumerate(self.ranking) for index in indices}
        return tuple(found.get(index) for index in range(len(self.completions)))

    @property
    def round(self) -> int:
        """The latest collection round among the completions."""
        return max(sample.round for sample in self.completions)


def prompt_text(prompt: Prompt) -> str:
    """The prompt as the text a model continues.

    A single user message is its content; a conversation is written as paragraphs that open with `Human:`,
    `Assistant:` or `System:`, the last of them the answer's to fill, as public preference sets do.
    """
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0].role == "user":
        return prompt[0].content
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    turns = [f"{names.get(message.role, message.role)}: {message.content}" for message in prompt]
    return "\n\n".join([*turns, "Assistant:"])


def content_id(*parts: Any) -> str:
    """A name for content: equal parts give equal names on every machine."""
    text = json.dumps(parts, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def prompt_split(prompt: Prompt, heldout_fraction: float = HELDOUT_FRACTION) -> str:
    """`heldout` for a fixed share of all prompts, else `train`: a function of the prompt's text alone."""
    position = int(content_id("split", prompt_text(prompt))[:13], 16) / 16**13
    return "heldout" if position < heldout_fraction else "train"


def judged_pairs(judgement: Judgement, counts: Counter[str] | None = None) -> Iterator[Preference]:
    """Every pair that the ranking speaks about, the better answer first; ties are marked.

    Pairs of equal answers and pairs with an empty one teach nothing about the prompt, and answers of which only ids
    are known have no text to give: such pairs are left out and counted in `counts` under `equal`, `empty` and
    `ids_only`; those given are counted under `pairs` or `ties`.
    """
    counts = Counter() if counts is None else counts
    ranked = [(tier, index) for tier, indices in enumerate(judgement.ranking) for index in sorted(indices)]
    single = len(ranked) == 2
    for position, (tier, better) in enumerate(ranked):
        for other_tier, worse in ranked[position + 1 :]:
            chosen, rejected = judgement.completions[better], judgement.completions[worse]
            kind = _pair_kind(chosen, rejected, tie=tier == other_tier)
            counts[kind] += 1
            if kind not in ("pairs", "ties"):
                continue
            yield Preference(
                prompt=prompt_text(judgement.prompt),
                chosen=chosen.text,
                rejected=rejected.text,
                id=judgement.id if single else f"{judgement.id}#{better}>{worse}",
                tie=kind == "ties",
                margin=judgement.margin,
                agreement=judgement.agreement,
                annotator=judgement.annotator,
                source=judgement.source,
                chosen_passed=chosen.passed,
                rejected_passed=rejected.passed,
            )


def _pair_kind(chosen: Sample, rejected: Sample, tie: bool) -> str:
    if chosen.empty or rejected.empty:
        return "empty"
    if chosen.content == rejected.content:
        return "equal"
    if not (chosen.text and rejected.text):
        return "ids_only"
    return "ties" if tie else "pairs"
