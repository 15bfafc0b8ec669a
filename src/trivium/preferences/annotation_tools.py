"""The exports of annotation tools, Argilla and Label Studio, as judgements; see docs/preferences.md.

Neither says which of its fields is the prompt and which are the answers, so both go by names. What a judgement has no
place for (metadata, times, answers to other questions) is kept in its `details`, under the tool's name.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from trivium.preferences.fields import FieldError, Parsed, shown, text_field
from trivium.preferences.judgement import Judgement, Prompt, Sample
from trivium.preferences.judges import Ranking
from trivium.records import Message

PROMPTS = ("prompt", "instruction", "question", "query", "messages", "conversation", "chat", "context", "input")
"""Names of the field that holds the prompt; the first that there is counts."""
SIDES = (("a", "1", "left", "first"), ("b", "2", "right", "second"))
"""How a choice between two answers names them by place."""
TIES = ("tie", "equal", "equallygood", "same", "0")
BOTH_BAD = ("bothbad", "neither", "none", "equallybad")


class _Choice(NamedTuple):
    """What one person said of the answers."""

    ranking: Ranking
    both_bad: bool = False


def read_argilla(value: dict[str, Any]) -> Parsed:
    """An Argilla record: `fields`, and `responses` by question (2.x) or by person (1.x).

    The fields that are texts, but for the prompt, are the answers. The question that ranks them by name, or that
    chooses one of two, is the judgement; its others are kept in `details`.
    """
    fields = _object(value, "fields")
    name, prompt = _prompt(fields, "fields")
    texts = {key: text for key, text in fields.items() if key != name and isinstance(text, str)}
    if len(texts) < 2:
        raise FieldError("fields", f"should hold two answers beside {name}, has {', '.join(texts) or 'none'}")
    rest = {key: value[key] for key in ("metadata", "suggestions", "_server_id", "external_id") if value.get(key)}
    rest |= {"fields": other} if (other := {k: v for k, v in fields.items() if k != name and k not in texts}) else {}
    judgements, ignored = [], set(value) - {"id", "fields", "responses", "vectors", "status", *rest, *_empty(value)}
    for user, status, answers in _argilla_responses(value["responses"]):
        if status not in (None, "submitted"):
            ignored.add(f"responses that are {status}")
            continue
        choices = {asked: choice for asked, said in answers.items() if (choice := _choice(said, list(texts)))}
        if len(choices) > 1:
            raise FieldError("responses", f"{', '.join(choices)} all rank the answers; leave one of these questions")
        if not choices:
            ignored.add("responses that rank no answers")
            continue
        ((asked, choice),) = choices.items()
        others = {key: said for key, said in answers.items() if key != asked}
        kept = {"question": asked, **({"responses": others} if others else {}), **rest}
        record = _named(value, "id", "external_id")
        judgements.append(_judgement(prompt, texts.values(), choice, record, user, "argilla", kept))
    return Parsed(judgements, ignored)


def read_label_studio(value: dict[str, Any]) -> Parsed:
    """A task of Label Studio's JSON export: `data`, and `annotations` with a `pairwise`, `ranker` or `choices` result.

    A ranker's items are the answers; otherwise the two texts that the result names, or that stand beside the prompt.
    """
    data = _object(value, "data")
    name, prompt = _prompt(data, "data")
    judgements = []
    ignored = set(value) - {"id", "data", "annotations", "predictions", *_LABEL_STUDIO_OWN, *_empty(value)}
    for at, annotation in enumerate(_objects(value["annotations"], "annotations")):
        results = _objects(annotation.get("result") or [], f"annotations[{at}].result")
        if annotation.get("was_cancelled"):
            ignored.add("annotations that were cancelled")
            continue
        found = [(one, *read) for one in results if (read := _label_studio_choice(one, data, name))]
        if len(found) > 1:
            raise FieldError(
                f"annotations[{at}].result", f"has {len(found)} results that rank the answers, one is needed"
            )
        if not found:
            ignored.add("annotations that rank no answers")
            continue
        ((result, texts, choice),) = found
        comments = [one for one in results if one.get("type") == "textarea" and one is not result]
        others = [one for one in results if one is not result and one not in comments]
        kept = {key: annotation[key] for key in _ANNOTATION_KEPT if annotation.get(key) not in (None, False)}
        more = {key: each for key, each in data.items() if key != name and not _is_answer(each, texts)}
        kept |= {"results": others} if others else {}
        kept |= {"data": more} if more else {}
        judgements.append(
            _judgement(
                prompt,
                texts,
                choice,
                _named(value, "id"),
                _person(annotation.get("completed_by")),
                "label-studio",
                kept,
                comment="\n".join(map(_typed, comments)),
            )
        )
    return Parsed(judgements, ignored)


_LABEL_STUDIO_OWN = (
    *("meta", "created_at", "updated_at", "project", "inner_id", "total_annotations", "cancelled_annotations"),
    *("total_predictions", "comment_count", "unresolved_comment_count", "last_comment_updated_at", "updated_by"),
    *("comment_authors", "file_upload", "drafts", "allow_skip"),
)
"""What the tool counts of its own tasks: says nothing about the answers."""
_ANNOTATION_KEPT = ("id", "ground_truth", "lead_time", "created_at", "updated_at", "unique_id")


def _judgement(
    prompt: Prompt,
    texts: Any,
    choice: _Choice,
    record: str,
    annotator: str,
    source: str,
    kept: dict[str, Any],
    comment: str = "",
) -> Judgement:
    details: dict[str, Any] = {source.replace("-", "_"): kept} if kept else {}
    if choice.both_bad:
        details["choice"] = "both_bad"
    return Judgement(
        prompt=prompt,
        completions=tuple(Sample(text=text) for text in texts),
        ranking=choice.ranking,
        id=record,
        annotator=annotator,
        source=source,
        comment=comment,
        details=details,
    )


def _prompt(fields: Mapping[str, Any], where: str) -> tuple[str, Prompt]:
    """Name and value of the field that holds the prompt: a text, or a conversation."""
    name = next((name for name in PROMPTS if name in fields), None)
    if name is None:
        raise FieldError(
            where, f"has no prompt: it is one of {', '.join(PROMPTS)}; there are {', '.join(fields) or 'none'}"
        )
    value = fields[name]
    if isinstance(value, str):
        return name, value
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        raise FieldError(f"{where}.{name}", f"should be a text or a list of messages, is {shown(value)}")
    return name, tuple(Message(role=text_field(turn, "role"), content=text_field(turn, "content")) for turn in value)


def _choice(said: Any, names: Sequence[str]) -> _Choice | None:
    """What an answer to a question says of the answers called `names`; None if it is no word on them."""
    if isinstance(said, list):
        return _ranking(said, names)
    if len(names) != 2 or isinstance(said, bool) or not isinstance(said, str | int):
        return None
    word, plain = _plain(said), [_plain(name) for name in names]
    if word in TIES or word in BOTH_BAD:
        return _Choice(((0, 1),), both_bad=word in BOTH_BAD)
    for side in range(2):
        if word == plain[side] or word in SIDES[side]:
            return _Choice(((side,), (1 - side,)))
    return None


def _ranking(said: list[Any], names: Sequence[str]) -> _Choice | None:
    """A list of names, best first, or of objects with `value` and `rank`: equal ranks tie, other names do not count."""
    tiers: dict[int, list[int]] = {}
    for at, each in enumerate(said):
        name, rank = (each.get("value"), each.get("rank")) if isinstance(each, dict) else (each, None)
        if name in names:
            tiers.setdefault(rank if isinstance(rank, int) else at, []).append(names.index(name))
    found = [index for tier in tiers.values() for index in tier]
    if len(found) < 2:
        return None
    if len(set(found)) < len(found):
        raise FieldError("responses", f"a ranking names an answer twice, {shown(said)}")
    return _Choice(tuple(tuple(tiers[rank]) for rank in sorted(tiers)))


def _plain(word: Any) -> str:
    return re.sub(r"[^a-z0-9]", "", str(word).lower())


def _argilla_responses(value: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Person, status and what they said to each question."""
    if isinstance(value, list):
        for each in _objects(value, "responses"):
            values = each.get("values") or {}
            if not isinstance(values, dict):
                raise FieldError("responses", f"should hold values by question, is {shown(values)}")
            said = {name: part.get("value") if isinstance(part, dict) else part for name, part in values.items()}
            yield _person(each.get("user_id")), each.get("status"), said
        return
    if not isinstance(value, dict):
        raise FieldError("responses", f"should be an object or a list, is {shown(value)}")
    by_person: dict[tuple[str, Any], dict[str, Any]] = {}
    for question, responses in value.items():
        for each in _objects(responses or [], f"responses.{question}"):
            person = (_person(each.get("user_id")), each.get("status"))
            by_person.setdefault(person, {})[question] = each.get("value")
    for (user, status), said in by_person.items():
        yield user, status, said


def _label_studio_choice(
    result: Mapping[str, Any], data: Mapping[str, Any], prompt: str
) -> tuple[list[str], _Choice] | None:
    """The answers and what a result says of them; None for results of another kind."""
    kind, value = result.get("type"), result.get("value")
    if kind not in ("pairwise", "ranker", "choices") or not isinstance(value, dict):
        return None
    if kind == "ranker":
        return _ranked_items(value.get("ranker"), data)
    said = value.get("selected") if kind == "pairwise" else value.get("choices")
    word = said[0] if isinstance(said, list) and len(said) == 1 else said
    targets = [part.strip() for part in str(result.get("to_name", "")).split(",")] if kind == "pairwise" else []
    if len(targets) != 2 or not all(isinstance(data.get(part), str) for part in targets):
        targets = [name for name, each in data.items() if name != prompt and isinstance(each, str)]
    choice = _choice(word, targets) if not isinstance(word, list) else None
    if choice is None and kind == "pairwise":
        raise FieldError(
            "annotations",
            f"{shown(word)} chooses between {len(targets)} texts ({', '.join(targets) or 'none'}) beside {prompt}; "
            "give the two compared the names in to_name",
        )
    return ([data[name] for name in targets], choice) if choice else None


def _ranked_items(ranked: Any, data: Mapping[str, Any]) -> tuple[list[str], _Choice]:
    """The items of the list that a ranker ordered: without buckets, ids best first."""
    order = ranked.get("_") if isinstance(ranked, dict) and set(ranked) == {"_"} else ranked
    lists = (each for each in data.values() if isinstance(each, list))
    items = next((each for each in lists if each and all(isinstance(one, dict) and "id" in one for one in each)), [])
    names = [str(item["id"]) for item in items]
    if not isinstance(order, list) or not {str(name) for name in order} <= set(names):
        raise FieldError(
            "annotations", f"ranker should order the ids {', '.join(names) or '(none in data)'}, is {shown(ranked)}"
        )
    choice = _ranking([str(name) for name in order], names)
    if choice is None:
        raise FieldError("annotations", f"ranker should order two items at least, is {shown(ranked)}")
    return [_item_text(item) for item in items], choice


def _item_text(item: dict[str, Any]) -> str:
    name = next((name for name in ("body", "text", "title") if name in item), "body")
    return text_field(item, name)


def _is_answer(value: Any, texts: Sequence[str]) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, dict) and any(part in texts for part in item.values()) for item in value)
    return value in texts


def _typed(result: Mapping[str, Any]) -> str:
    value = result.get("value")
    text = value.get("text") if isinstance(value, dict) else ""
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text or "")


def _person(value: Any) -> str:
    """A person as tools name them: an id, or an object with their address."""
    if isinstance(value, dict):
        value = next((value[name] for name in ("email", "username", "id") if value.get(name)), None)
    return "" if value is None else str(value)


def _named(value: Mapping[str, Any], *names: str) -> str:
    return next((str(value[name]) for name in names if value.get(name) is not None), "")


def _empty(value: Mapping[str, Any]) -> set[str]:
    return {name for name, part in value.items() if part in (None, [], {}, "")}


def _object(value: Mapping[str, Any], field: str) -> dict[str, Any]:
    if not isinstance(value[field], dict):
        raise FieldError(field, f"should be an object, is {shown(value[field])}")
    return value[field]


def _objects(value: Any, field: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise FieldError(field, f"should be a list of objects, is {shown(value)}")
    return value
