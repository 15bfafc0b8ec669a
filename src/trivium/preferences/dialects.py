"""The record forms of preference files: each turns one JSON object into judgements. See docs/preferences.md."""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from trivium.preferences.annotation_tools import read_argilla, read_label_studio
from trivium.preferences.fields import FieldError, Parsed, shown, text_field
from trivium.preferences.judgement import Judgement, Prompt, Sample
from trivium.records import Message

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Dialect:
    """One record form."""

    required: tuple[str, ...]
    """Fields that tell the form apart, all of them needed."""
    read: Callable[[dict[str, Any]], Parsed]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_name(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_answer(value: Any) -> Any:
    value = {"text": value} if isinstance(value, str) else value
    if not isinstance(value, dict) or not ("text" in value or "ids" in value):
        raise ValueError("should be a text, or an object with text or ids")
    return value


Name = Annotated[str, BeforeValidator(_as_name)]
"""A string; numbers are taken as their digits."""
Count = Annotated[int, Field(ge=0, lt=2**31)]


class _Turn(_Strict):
    role: str
    content: str


class _Answer(_Strict):
    text: str = ""
    ids: Annotated[tuple[Count, ...], BeforeValidator(_as_tuple)] = ()
    finish: Literal["stop", "length", "error"] = "stop"
    passed: bool | None = None
    tests_passed: Count | None = None
    tests_total: Count | None = None
    verdict: str = ""
    model: str = ""
    round: Count = 0
    sample: Count = 0


class _Common(_Strict):
    prompt: str | Annotated[list[_Turn], Field(min_length=1)]
    id: Name = ""
    annotator: Name = ""
    source: str = ""
    split: Literal["", "train", "heldout"] = ""
    margin: float | None = Field(None, ge=0)
    agreement: float | None = Field(None, ge=0, le=1)
    comment: str = ""
    details: dict[str, Any] = {}

    def judgement(self, samples: list[Sample], ranking: tuple[tuple[int, ...], ...]) -> Judgement:
        """The judgement that this record makes of `samples`."""
        turns = self.prompt
        prompt: Prompt = turns if isinstance(turns, str) else tuple(Message(**turn.model_dump()) for turn in turns)
        shared = {name: getattr(self, name) for name in set(_Common.model_fields) - {"prompt"}}
        try:
            return Judgement(prompt=prompt, completions=tuple(samples), ranking=ranking, **shared)
        except ValidationError as error:
            raise _field_error(error) from None


class _Pair(_Common):
    chosen: str
    rejected: str
    tie: bool = False
    chosen_passed: bool | None = None
    rejected_passed: bool | None = None


class _Ranking(_Common):
    completions: list[Annotated[_Answer, BeforeValidator(_as_answer)]] = Field(min_length=2)
    ranking: list[list[int]] = Field(min_length=1)


def _read_pair(value: dict[str, Any]) -> Parsed:
    """`{"prompt", "chosen", "rejected"}` with optional tie, margin, agreement, annotator, source, ..."""
    pair = _validate(_Pair, value)
    samples = [
        Sample(text=pair.chosen, passed=pair.chosen_passed),
        Sample(text=pair.rejected, passed=pair.rejected_passed),
    ]
    return Parsed([pair.judgement(samples, ((0, 1),) if pair.tie else ((0,), (1,)))], _unknown(_Pair, value))


def _read_ranking(value: dict[str, Any]) -> Parsed:
    """`{"prompt", "completions", "ranking"}`: indices of completions in tiers, best first."""
    record = _validate(_Ranking, value)
    samples = [Sample(**answer.model_dump()) for answer in record.completions]
    ranking = tuple(tuple(tier) for tier in record.ranking)
    return Parsed([record.judgement(samples, ranking)], _unknown(_Ranking, value))


def _read_pandalm(value: dict[str, Any]) -> Parsed:
    """PandaLM's test set: two responses and, per annotator, which is better (1 or 2; 0 is a tie)."""
    texts = [text_field(value, name) for name in ("instruction", "input", "response1", "response2")]
    votes = {name: vote for name, vote in value.items() if re.fullmatch(r"annotator\d+", name)}
    if not votes:
        raise FieldError("annotator1", "is missing")
    name = "-".join(str(value[part]) for part in ("idx", "cmp_key") if part in value)
    samples = (Sample(text=texts[2]), Sample(text=texts[3]))
    judgements = []
    for annotator, vote in votes.items():
        if vote not in (0, 1, 2) or isinstance(vote, bool):
            raise FieldError(annotator, f"should be 0, 1 or 2, is {shown(vote)}")
        judgements.append(
            Judgement(
                prompt="\n\n".join(text for text in texts[:2] if text),
                completions=samples,
                ranking=(((0, 1),), ((0,), (1,)), ((1,), (0,)))[vote],
                id=name,
                annotator=annotator,
                source="PandaLM",
            )
        )
    used = {"idx", "cmp_key", "instruction", "input", "response1", "response2", *votes}
    return Parsed(judgements, set(value) - used)


def _read_oasst(value: dict[str, Any]) -> Parsed:
    """An Open Assistant conversation tree: siblings with a `rank`, 0 best, are ranked replies."""
    judgements: list[Judgement] = []
    pending: list[tuple[Any, tuple[Message, ...]]] = [(value["prompt"], ())]
    while pending:
        node, before = pending.pop()
        replies = (node.get("replies") or []) if isinstance(node, dict) else None
        if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
            raise FieldError("prompt" if not before else "replies", f"should hold messages, is {shown(node)}")
        role = {"prompter": "user", "assistant": "assistant"}.get(str(node.get("role")))
        if role is None:
            raise FieldError("role", f"should be 'prompter' or 'assistant', is {shown(node.get('role'))}")
        turns = (*before, Message(role=role, content=text_field(node, "text")))
        standing = [reply for reply in replies if not reply.get("deleted")]
        ranked = [reply for reply in standing if isinstance(reply.get("rank"), int)]
        if role == "user" and len(ranked) > 1:
            judgements.append(_judge_siblings(turns, ranked, str(node.get("message_id", ""))))
        pending.extend((reply, turns) for reply in reversed(standing))
    return Parsed(judgements, set())


def _judge_siblings(turns: tuple[Message, ...], replies: list[dict[str, Any]], name: str) -> Judgement:
    tiers: dict[int, list[int]] = {}
    for index, reply in enumerate(replies):
        tiers.setdefault(reply["rank"], []).append(index)
    return Judgement(
        prompt=turns[0].content if len(turns) == 1 else turns,
        completions=tuple(Sample(text=text_field(reply, "text")) for reply in replies),
        ranking=tuple(tuple(tiers[rank]) for rank in sorted(tiers)),
        id=name,
        source="OASST",
    )


DIALECTS: Mapping[str, Dialect] = {
    "pair": Dialect(("prompt", "chosen", "rejected"), _read_pair),
    "ranking": Dialect(("prompt", "completions", "ranking"), _read_ranking),
    "pandalm": Dialect(("instruction", "input", "response1", "response2"), _read_pandalm),
    "oasst": Dialect(("message_tree_id", "prompt"), _read_oasst),
    "argilla": Dialect(("fields", "responses"), read_argilla),
    "label studio": Dialect(("data", "annotations"), read_label_studio),
}


def parse_record(value: Any) -> Parsed:
    """The judgements of one record, its form told from its fields.

    Raises:
        FieldError: no form fits, or a field has a value that cannot be used.
    """
    if not isinstance(value, dict):
        raise FieldError("", f"should be an object with prompt, chosen and rejected, is {shown(value)}")
    for dialect in DIALECTS.values():
        if all(name in value for name in dialect.required):
            return dialect.read(value)
    name, dialect = max(DIALECTS.items(), key=lambda item: sum(field in value for field in item[1].required))
    missing = next(field for field in dialect.required if field not in value)
    near = difflib.get_close_matches(missing, set(value) - set(dialect.required), n=1, cutoff=0.7)
    found = f"is it the one named {near[0]!r}?" if near else f"the record has {', '.join(value) or 'no fields'}"
    raise FieldError(missing, f"is missing from the {name} form ({', '.join(dialect.required)}); {found}")


def _validate(model: type[Model], value: dict[str, Any]) -> Model:
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    given = {name: each for name, each in value.items() if each is not None or name in required}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _field_error(error) from None


def _field_error(error: ValidationError) -> FieldError:
    """The first complaint of pydantic as one field and one reason."""
    every = error.errors(include_url=False)
    # A prompt may be text or turns; of a list of turns, that it is no string is not the point.
    pointed = [each for each in every if not (each["loc"] == ("prompt", "str") and isinstance(each["input"], list))]
    first = (pointed or every)[0]
    names = [part for part in first["loc"] if not (isinstance(part, str) and part.startswith(("list[", "function-")))]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in names if part != "str")
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    reason = re.sub(r" or instance of \w+", "", reason)
    found = f", is {shown(first['input'])}" if names else ""
    return FieldError(place.lstrip("."), reason[:1].lower() + reason[1:] + found)


def _unknown(model: type[BaseModel], value: dict[str, Any]) -> set[str]:
    return set(value) - set(model.model_fields)
