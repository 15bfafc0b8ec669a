"""The rungs of the ladder: how operations become docstrings and bodies, before constants are chosen."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

from trivium.tasks.operations import (
    ARITHMETIC,
    COUNT,
    FILTERS,
    GUARDED,
    MAPS,
    PAIRS,
    REDUCES,
    TEXT,
    TEXT_ENDS,
    WORD_FILTERS,
    WORD_MAPS,
    WORD_REDUCES,
    Operation,
)


@dataclass(frozen=True)
class Blueprint:
    """A composition in words and code. `$0`, `$1`, ... stand for the constants of its operations."""

    family: str
    operations: tuple[str, ...]
    parameters: tuple[str, ...]
    docs: tuple[tuple[str, ...], ...]
    """Wordings, grouped by sentence form: a form is chosen first, then one of its wordings."""
    body: str
    """The usual solution."""
    plain_body: str
    """The same step by step: a loop, or one assignment per operation."""
    constants: tuple[str, ...]
    """Kind of each operation's constant, empty where it has none."""
    dropped: tuple[str, ...]
    """Wrong bodies: each leaves one operation out."""

    @property
    def composition(self) -> str:
        """Its name, free of constants and wording: `pipeline:even/square/sum`."""
        return f"{self.family}:{'/'.join(self.operations)}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _return(expression: str) -> str:
    return f"    return {expression}\n"


# ---------------------------------------------------------------- one value: arithmetic and text


def _chain(family: str, start: str, operations: tuple[Operation, ...]) -> Blueprint:
    """Operations applied one after the other to one value."""
    bound = [operation.at(slot) for slot, operation in enumerate(operations)]
    name = "n" if start == "a, b" else start  # a pair's first step makes the number that the rest works on

    def expression(steps: list[Operation]) -> str:
        code, binds = start, 9
        for step in steps:
            code, binds = step.apply(code, binds), step.binds
        return code

    lines = [f"    {name} = {step.apply(name, 9)}\n" for step in bound[:-1]]
    plain = "".join(lines) + _return(bound[-1].apply(name, 9))
    docs = []
    for wordings in product(*(step.phrases for step in bound)):
        operands = [start, *["the result"] * (len(bound) - 1)]
        docs.append(
            _sentence(
                ", then ".join(text.replace("{x}", operand) for text, operand in zip(wordings, operands, strict=True))
            )
        )
    rest = [bound[:slot] + bound[slot + 1 :] for slot in range(len(bound)) if not (slot == 0 and start == "a, b")]
    dropped = [_return(expression(steps)) for steps in rest if steps]
    return Blueprint(
        family=family,
        operations=tuple(step.name for step in operations),
        parameters=tuple(start.split(", ")),
        docs=(tuple(docs),),
        body=_return(expression(bound)),
        plain_body=plain,
        constants=tuple(step.constant for step in operations),
        dropped=tuple(dropped),
    )


def _arithmetic() -> Iterator[Blueprint]:
    for step in ARITHMETIC.values():
        yield _chain("arithmetic", "n", (step,))
    for first in PAIRS.values():
        yield _chain("arithmetic", "a, b", (first,))
    for first, second in product(ARITHMETIC.values(), repeat=2):
        if first is not second:
            yield _chain("arithmetic", "n", (first, second))
    for first, second in product(PAIRS.values(), ARITHMETIC.values()):
        yield _chain("arithmetic", "a, b", (first, second))


def _text() -> Iterator[Blueprint]:
    for step in (*TEXT.values(), *TEXT_ENDS.values()):
        yield _chain("text", "s", (step,))
    for first, second in product(TEXT.values(), (*TEXT.values(), *TEXT_ENDS.values())):
        if first is not second:
            yield _chain("text", "s", (first, second))


# ---------------------------------------------------------------- lists: filter, map, reduce


@dataclass(frozen=True)
class _Pipeline:
    """A filter, a map and a reduction over a list, each of which may be absent."""

    source: str
    item: str
    keep: Operation | None
    apply: Operation | None
    reduce: Operation | None

    def body(self) -> str:
        """As a comprehension."""
        value = self.apply.code if self.apply else self.item
        items = f"{value} for {self.item} in {self.source}" + (f" if {self.keep.code}" if self.keep else "")
        if not self.keep and not self.apply:
            return _return(self._reduced(self.source, self.source))
        if self.reduce and "{name}" in self.reduce.code:
            return f"    ys = [{items}]\n" + _return(self._reduced("ys", "ys"))
        return _return(self._reduced(items, f"[{items}]"))

    def loop(self) -> str:
        """As an explicit loop."""
        value = self.apply.code if self.apply else self.item
        summing = self.reduce is not None and self.reduce.name == "sum"
        result, start, step = ("total", "0", f"total += {value}") if summing else ("out", "[]", f"out.append({value})")
        lines = [f"    {result} = {start}", f"    for {self.item} in {self.source}:"]
        if self.keep:
            lines += [f"        if {self.keep.code}:", f"            {step}"]
        else:
            lines += [f"        {step}"]
        return "\n".join(lines) + "\n" + _return(result if summing else self._reduced("out", "out"))

    def _reduced(self, items: str, made: str) -> str:
        code = self.reduce.code if self.reduce else "{list}"
        return code.replace("{xs}", items).replace("{list}", made).replace("{name}", made)

    def docs(self, whole: tuple[str, ...], suffix: str) -> tuple[tuple[str, ...], ...]:
        """Wordings: nested noun phrases, and, where there is a filter, steps in order."""
        kept = tuple(text + suffix for text in self.keep.phrases) if self.keep else whole
        nouns = kept
        for operation in (self.apply, self.reduce):
            if operation:
                nouns = tuple(text.replace("{xs}", noun) for text in operation.phrases for noun in nouns)
        forms = [tuple(f"Return {noun}." for noun in nouns)]
        steps = [operation.steps for operation in (self.apply, self.reduce) if operation]
        if self.keep and steps and all(steps):
            forms.append(tuple(f"Keep {', '.join(texts[:-1])}, then {texts[-1]}." for texts in product(kept, *steps)))
        return tuple(forms)


def _pipeline(
    family: str, operations: dict[str, Operation | None], source: str = "xs", suffix: str = " in xs"
) -> Blueprint:
    """A blueprint from `keep`, `apply` and `reduce`, of which those given are not None."""
    present = [key for key, operation in operations.items() if operation]
    bound = {key: operation and operation.at(present.index(key)) for key, operation in operations.items()}
    whole = ("the words",) if source == "words" else ("xs", "the numbers in xs")

    def made(parts: dict[str, Operation | None]) -> _Pipeline:
        return _Pipeline(source, source[0], parts["keep"], parts["apply"], parts["reduce"])

    pipeline = made(bound)
    chosen = [operation for operation in operations.values() if operation]
    looped = pipeline.keep or pipeline.apply
    return Blueprint(
        family=family,
        operations=tuple(operation.name for operation in chosen),
        parameters=(source,),
        docs=pipeline.docs(whole, suffix),
        body=pipeline.body(),
        plain_body=pipeline.loop() if looped else pipeline.body(),
        constants=tuple(operation.constant for operation in chosen),
        dropped=tuple(made({**bound, key: None}).body() for key in present),
    )


def _parts(
    keep: Operation | None = None, apply: Operation | None = None, reduce: Operation | None = None
) -> dict[str, Operation | None]:
    return {"keep": keep, "apply": apply, "reduce": reduce}


def _list() -> Iterator[Blueprint]:
    for keep in FILTERS.values():
        yield _pipeline("list", _parts(keep=keep))
    for apply in MAPS.values():
        yield _pipeline("list", _parts(apply=apply))
    for reduce in REDUCES.values():
        yield _pipeline("list", _parts(reduce=reduce))
    for keep, reduce in product(FILTERS.values(), REDUCES.values()):
        yield _pipeline("list", _parts(keep=keep, reduce=reduce))
    for apply, reduce in product(MAPS.values(), REDUCES.values()):
        yield _pipeline("list", _parts(apply=apply, reduce=reduce))


def _filter_map() -> Iterator[Blueprint]:
    for keep, apply in product(FILTERS.values(), MAPS.values()):
        yield _pipeline("filter_map", _parts(keep, apply))


def _filter_map_reduce() -> Iterator[Blueprint]:
    for keep, apply, reduce in product(FILTERS.values(), MAPS.values(), REDUCES.values()):
        yield _pipeline("pipeline", _parts(keep, apply, reduce))


def _words() -> Iterator[Blueprint]:
    plain = [operation for operation in WORD_REDUCES.values() if operation.name != "list"]
    for keep in WORD_FILTERS.values():
        yield _pipeline("words", _parts(keep), "words", "")
    for keep, reduce in product(WORD_FILTERS.values(), plain):
        yield _pipeline("words", _parts(keep, None, reduce), "words", "")
    for apply, reduce in product(WORD_MAPS.values(), [None, *plain]):
        if _fits(apply, reduce):
            yield _pipeline("words", _parts(None, apply, reduce), "words", "")
    for keep, apply, reduce in product(WORD_FILTERS.values(), WORD_MAPS.values(), [None, *plain]):
        if _fits(apply, reduce):
            yield _pipeline("words", _parts(keep, apply, reduce), "words", "")


def _fits(apply: Operation, reduce: Operation | None) -> bool:
    """Lengths cannot be joined, and after a map neither the longest nor the number says anything new."""
    if reduce is None:
        return True
    return reduce.name not in ("longest", "count") and not (apply.name == "lengths" and reduce.name in ("join", "dash"))


# ---------------------------------------------------------------- twists: guards and dictionaries


def _guard() -> Iterator[Blueprint]:
    for keep, choose in product(FILTERS.values(), GUARDED.values()):
        first, second = keep.at(0), choose.at(1)
        items = f"x for x in xs if {first.code}"
        plain = f"    ys = [{items}]\n    return {'ys[0]' if choose.name == 'first' else choose.code[:3] + '(ys)'}"
        yield Blueprint(
            family="guard",
            operations=(keep.name, choose.name),
            parameters=("xs",),
            docs=(tuple(f"Return {text.replace('{each}', first.each)}." for text in second.phrases),),
            body=_return(second.code.replace("{xs}", items)),
            plain_body=plain + " if ys else $1\n",
            constants=(keep.constant, choose.constant),
            dropped=(
                _return(second.code.replace("{xs}", "x for x in xs")),
                _return(f"[{items}]"),
            ),
        )


def _dict() -> Iterator[Blueprint]:
    for keep, value in product(FILTERS.values(), (*MAPS.values(), COUNT)):
        first, second = keep.at(0), value.at(1)
        yield Blueprint(
            family="dict",
            operations=(keep.name, value.name),
            parameters=("xs",),
            docs=(
                (f"Return a dict from each {first.each} in xs to {second.each}.",),
                (f"Map each {first.each} in xs to {second.each}.",),
            ),
            body=_return(f"{{x: {second.code} for x in xs if {first.code}}}"),
            plain_body=(
                f"    out = {{}}\n    for x in xs:\n        if {first.code}:\n"
                f"            out[x] = {second.code}\n    return out\n"
            ),
            constants=(keep.constant, value.constant),
            dropped=(
                _return(f"{{x: {second.code} for x in xs}}"),
                _return(f"{{x: x for x in xs if {first.code}}}"),
            ),
        )


FAMILIES = {
    "arithmetic": _arithmetic,
    "text": _text,
    "list": _list,
    "filter_map": _filter_map,
    "pipeline": _filter_map_reduce,
    "words": _words,
    "guard": _guard,
    "dict": _dict,
}
"""Rungs of the ladder, roughly by difficulty."""


_POINTLESS = re.compile(
    r"""
    arithmetic:(modulo|square|negate|floor)/absolute | arithmetic:(negate|absolute)/square
    | arithmetic:(cap|floor)/divide
    | text:(upper|lower|title)/(upper|lower|title) | text:upper/(remove|consonants)
    | text:(upper|lower|title|reverse|dashes|shuffle)/length
    | text:(upper|reverse|remove|dashes|unspace|consonants|shuffle)/count
    | text:(upper|lower|title|reverse|remove|dashes|unspace|consonants|shuffle)/wordcount
    | text:(dashes|unspace)/firstword | text:reverse/shuffle | text:dashes/unspace | text:unspace/dashes
    | list:(positive|above)/max | list:(negative|below)/min | list:(plus|minus|negate)/range
    | (filter_map|dict):(positive|above)/absolute
    | pipeline:\w+/(plus|minus|negate)/range
    | pipeline:(positive|above)/absolute/\w+ | pipeline:negative/absolute/range
    | pipeline:(positive|above)/(cube|times|plus|minus)/max | pipeline:(positive|above)/negate/min
    | pipeline:(negative|below)/(cube|times|plus|minus)/min | pipeline:(negative|below)/negate/max
    | pipeline:above/square/max
    | words:longer/longest | words:starting/initials/(ascending|last)
    """,
    re.VERBOSE,
)
"""Compositions in which some operation makes no difference, so that no test could show that it was left out."""


@cache
def blueprints(family: str) -> tuple[Blueprint, ...]:
    """All compositions of one family, in a fixed order."""
    return tuple(blueprint for blueprint in FAMILIES[family]() if not _POINTLESS.fullmatch(blueprint.composition))
