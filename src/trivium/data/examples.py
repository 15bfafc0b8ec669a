"""Supervised examples: read from files, turned into ids with a loss mask, packed into batches by step."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trivium.base.errors import DataError
from trivium.base.jsonl import read_json_records
from trivium.base.seeding import numpy_rng
from trivium.batch import Batch
from trivium.data.drops import Drops, OnError
from trivium.data.packing import check_lengths, fill_rows, plan_rows
from trivium.data.sources.jsonl import type_name
from trivium.records import Example, Message
from trivium.tokenizer import Tokenizer, chat

Pair = tuple[list[int], list[bool]]
"""Token ids and which of them carry loss."""

FORMS = '{"prompt", "response"}, {"instruction", "input", "output"}, {"question", "answer"} or {"messages"}'


class ChatExample(Example):
    """A supervised chat: every assistant turn carries loss. `prompt` and `response` are its last exchange."""

    messages: tuple[Message, ...]


def load_examples(path: str | Path, on_error: OnError = "stop", drops: Drops | None = None) -> list[Example]:
    """Read a file of supervised examples: JSONL or one JSON array (`.gz`, `.zst` too).

    `{"prompt", "response"}` is taken as it stands: the response continues the prompt. Instructions, questions and
    messages become chats.

    Args:
        on_error: `stop` at a bad record, or `skip` it.
        drops: counts and lists what is left out.
    Raises:
        DataError: names file, line, field and reason; also when no example is found.
    """
    drops = drops or Drops(on_error)
    examples = []
    for record in read_json_records(path):
        try:
            if record.problem:
                raise ValueError(record.problem)
            examples.append(parse_example(record.value, record.where, Path(path).name))
        except ValueError as error:
            drops.bad(record.where, str(error), Path(path).name)
    if not examples:
        first = f" The first of {len(drops.rows)} left out: {drops.rows[0]['where']}." if drops.rows else ""
        raise DataError(f"{path} holds no usable example.{first} Expected records such as {FORMS}.")
    return examples


def parse_example(record: Any, where: str, source: str) -> Example:
    """One record in any of the forms.

    Raises:
        ValueError: it is in none of them, with the reason.
    """
    if not isinstance(record, dict):
        raise ValueError(f"is {type_name(record)}, expected an object such as {FORMS}")
    name = record.get("id", record.get("task_id"))
    common = {"id": where if name is None else str(name), "source": source}
    if "messages" in record:
        return _chat(_messages(record["messages"]), common)
    if "prompt" in record:
        answer = "response" if "response" in record or "completion" not in record else "completion"
        return Example(prompt=_text(record, "prompt"), response=_text(record, answer, filled=True), **common)
    if "instruction" in record:
        question = _text(record, "instruction", filled=True)
        extra = _text(record, "input") if record.get("input") is not None else ""
        question = f"{question}\n\n{extra}" if extra.strip() else question
        answer = _text(record, "output" if "output" in record else "response", filled=True)
    elif "question" in record:
        question, answer = _text(record, "question", filled=True), _text(record, "answer", filled=True)
    else:
        fields = ", ".join(map(repr, record)) or "none"
        raise ValueError(f"has the fields {fields}, expected {FORMS}")
    return _chat((Message(role="user", content=question), Message(role="assistant", content=answer)), common)


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"has {type_name(value)} in field 'messages', expected a list of turns")
    turns = []
    for number, turn in enumerate(value, start=1):
        place = f"messages[{number - 1}]"
        if not isinstance(turn, dict):
            raise ValueError(f"has {type_name(turn)} in {place}, expected an object with role and content")
        try:
            role, content = _text(turn, "role"), _text(turn, "content")
        except ValueError as error:
            raise ValueError(f"{error} of {place}") from None
        if role not in chat.ROLES:
            raise ValueError(f"has the role {role!r} in {place}; known are: {', '.join(chat.ROLES)}")
        turns.append(Message(role=role, content=content))
    if not any(turn.role == "assistant" and turn.content for turn in turns):
        raise ValueError("has no assistant turn in 'messages', so nothing to learn")
    return tuple(turns)


def _chat(messages: tuple[Message, ...], common: dict[str, str]) -> ChatExample:
    last = max(index for index, turn in enumerate(messages) if turn.role == "assistant")
    prompt = messages[last - 1].content if last else ""
    return ChatExample(prompt=prompt, response=messages[last].content, messages=messages, **common)


def _text(record: dict[str, Any], field: str, filled: bool = False) -> str:
    """A field that must be text, and not empty where `filled`."""
    if field not in record:
        raise ValueError(f"has no field {field!r} (fields: {', '.join(map(repr, record)) or 'none'})")
    value = record[field]
    if not isinstance(value, str):
        raise ValueError(f"has {type_name(value)} in field {field!r}, expected text")
    if filled and not value.strip():
        raise ValueError(f"has an empty field {field!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has a lone surrogate in field {field!r} at character {error.start + 1}") from None
    return value


def encode_pairs(prompts: Sequence[str], responses: Sequence[str], tokenizer: Tokenizer) -> list[Pair]:
    """[bos] prompt response [eos] each; loss on the response and eos.

    Prompt and response are encoded apart, so the prompt's ids are the same as when the model is asked to answer.
    """
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    pairs = []
    for prompt, response in zip(tokenizer.encode_batch(prompts), tokenizer.encode_batch(responses), strict=True):
        start = len(begin) + len(prompt)
        pairs.append(([*begin, *prompt, *response, tokenizer.eos_id], [False] * start + [True] * (len(response) + 1)))
    return pairs


def encode_examples(examples: Sequence[Example], tokenizer: Tokenizer) -> list[Pair]:
    """Ids and loss mask of each example; a chat ends with eos, which carries loss like the turn before it."""
    plain = [example for example in examples if not isinstance(example, ChatExample)]
    pairs = iter(encode_pairs([e.prompt for e in plain], [e.response for e in plain], tokenizer))
    rows = []
    for example in examples:
        if isinstance(example, ChatExample):
            ids, loss_mask = chat.render(example.messages, tokenizer)
            has_eos = ids[-1] == tokenizer.eos_id
            rows.append((ids, loss_mask) if has_eos else ([*ids, tokenizer.eos_id], [*loss_mask, loss_mask[-1]]))
        else:
            rows.append(next(pairs))
    return rows


class ExampleLoader:
    """Packed batches of supervised examples by step number; every epoch is shuffled anew from (seed, epoch).

    Examples stay whole. One that does not fit a row stops the run, or is left out and counted.

    Args:
        seq_len: tokens in a row.
        batch_size: rows in a batch, of all processes together.
        drops: with `on_error` = `skip`, takes the examples that are too long.
    Raises:
        DataError: an example is too long, or none is left.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: Tokenizer,
        seq_len: int = 256,
        batch_size: int = 16,
        seed: int = 0,
        drops: Drops | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        names = [example.id or f"example {number}" for number, example in enumerate(examples, start=1)]
        self.pairs = encode_examples(examples, tokenizer)
        if drops is None or drops.on_error == "stop":
            check_lengths([len(ids) for ids, _ in self.pairs], seq_len, names)
        for name, (ids, _) in zip(names, self.pairs, strict=True):
            if len(ids) > seq_len and drops is not None:
                drops.leave_out(name, f"has {len(ids)} tokens, more than seq_len = {seq_len}", "too long", "examples")
        self._names = [name for name, (ids, _) in zip(names, self.pairs, strict=True) if len(ids) <= seq_len]
        self.pairs = [pair for pair in self.pairs if len(pair[0]) <= seq_len]
        if not self.pairs:
            raise DataError(f"There is no example to train on ({len(examples)} given, all too long or none).")
        self.seq_len, self.batch_size, self.seed = seq_len, batch_size, seed
        self._pad_id = tokenizer.pad_id
        self._part = range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self._plans: dict[int, list[list[int]]] = {}
        self.rows = len(self._plan(0))
        """Rows of an epoch: best-fit decreasing needs the same number in any order of the examples."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches that together hold every example at least once."""
        return math.ceil(self.rows / self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of a step, a pure function of (seed, step)."""
        return fill_rows(self._rows(step), self.pairs, self.seq_len, self._pad_id)

    def contents(self, step: int) -> list[str]:
        """The ids of the examples in the batch of a step."""
        return [self._names[index] for row in self._rows(step) for index in row]

    def _rows(self, step: int) -> list[list[int]]:
        places = (divmod(step * self.batch_size + place, self.rows) for place in self._part)
        return [self._plan(epoch)[row] for epoch, row in places]

    def all(self) -> Iterator[Batch]:
        """Every example once, in a fixed order: for held-out loss."""
        plan = plan_rows([len(ids) for ids, _ in self.pairs], self.seq_len)
        for start in range(0, len(plan), self.batch_size):
            yield fill_rows(plan[start : start + self.batch_size], self.pairs, self.seq_len, self._pad_id)

    def _plan(self, epoch: int) -> list[list[int]]:
        """Rows of one epoch. Examples of equal length swap places, and rows are shuffled."""
        if epoch not in self._plans:
            rng = numpy_rng(self.seed, "examples", epoch)
            order = rng.permutation(len(self.pairs))
            rows = plan_rows([len(self.pairs[index][0]) for index in order], self.seq_len)
            plan = [[int(order[index]) for index in row] for row in rows]
            if len(self._plans) > 1:
                self._plans.pop(min(self._plans))
            self._plans[epoch] = [plan[int(row)] for row in np.asarray(rng.permutation(len(plan)))]
        return self._plans[epoch]
