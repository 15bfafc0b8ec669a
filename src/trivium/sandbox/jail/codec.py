"""Values as tagged JSON trees, for what crosses between program and checker.

Scalars stand for themselves; everything else is a list that begins with its tag. Only exact types are data: the
receiver builds them from its own classes, so no method of a program's class ever runs in the checker. An instance of
a subclass crosses as a reference together with its plain value; any other object as a bare reference.
"""

import builtins
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from .wire import WireError

MAX_DEPTH = 100
FORWARDED = "getitem setitem delitem enter iter len str repr int float round format reversed neg pos abs invert index"
ARITHMETIC = "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift"
"""Special methods that a handle has its object's process perform; comparisons are not among them."""
_SMALL = 1 << 62
Reference = Callable[[Any], list[Any]]
Resolve = Callable[[list[Any]], Any]

_SEQUENCES: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "f"}
_MAPPINGS: dict[type, str] = {dict: "d", Counter: "C", OrderedDict: "O"}
_BUILD: dict[str, Callable[[Any], Any]] = {
    "t": tuple,
    "s": set,
    "f": frozenset,
    "d": dict,
    "O": OrderedDict,
    "C": lambda pairs: Counter(dict(pairs)),
}
_FACTORIES: dict[str, Any] = {kind.__name__: kind for kind in (int, float, str, list, dict, set, tuple, bool)}
_TIMES: dict[str, tuple[type, tuple[str, ...]]] = {
    "date": (date, ("year", "month", "day")),
    "time": (time, ("hour", "minute", "second", "microsecond")),
    "datetime": (datetime, ("year", "month", "day", "hour", "minute", "second", "microsecond")),
    "timedelta": (timedelta, ("days", "seconds", "microseconds")),
}
MUTABLE = frozenset({list, dict, set, bytearray, deque, Counter, OrderedDict, defaultdict})


def encode(value: Any, reference: Reference, depth: int = 0) -> Any:
    """A JSON tree for `value`; `reference(value)` makes the tagged list of whatever is not plain data.

    Raises:
        WireError: nested deeper than `MAX_DEPTH`.
    """
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if kind is int:
        return value if -_SMALL < value < _SMALL else ["i", hex(value)]
    if depth >= MAX_DEPTH:
        raise WireError(f"a value is nested deeper than {MAX_DEPTH}")
    tag = _SEQUENCES.get(kind)
    if tag is not None:
        return [tag, *[encode(item, reference, depth + 1) for item in value]]
    tag = _MAPPINGS.get(kind)
    if tag is not None:
        return [tag, *[encode(part, reference, depth + 1) for pair in value.items() for part in pair]]
    return _encode_rare(kind, value, reference, depth)


def _encode_rare(kind: type, value: Any, reference: Reference, depth: int) -> Any:
    if kind is bytes or kind is bytearray:
        return ["b" if kind is bytes else "a", value.hex()]
    if kind is complex:
        return ["c", value.real, value.imag]
    if kind is range:
        return ["r", hex(value.start), hex(value.stop), hex(value.step)]
    if kind is type and getattr(builtins, value.__name__, None) is value:
        return ["T", value.__name__]
    if kind is deque:
        return ["q", value.maxlen, *[encode(item, reference, depth + 1) for item in value]]
    if kind is defaultdict:
        factory = value.default_factory
        if factory is None or factory in _FACTORIES.values():
            pairs = [encode(part, reference, depth + 1) for pair in value.items() for part in pair]
            return ["D", None if factory is None else factory.__name__, *pairs]
    if kind is slice:
        return ["e", *[encode(part, reference, depth + 1) for part in (value.start, value.stop, value.step)]]
    if kind is Decimal:
        return ["n", str(value)]
    if kind is Fraction:
        return ["F", hex(value.numerator), hex(value.denominator)]
    entry = _TIMES.get(kind.__name__)
    if entry is not None and entry[0] is kind and getattr(value, "tzinfo", None) is None:
        return ["w", kind.__name__, *[getattr(value, name) for name in entry[1]]]
    return reference(value)


def plain_value(value: Any) -> Any:
    """The exact builtin that a subclass's instance holds, by the builtin's own methods; None if it holds none.

    Booleans and None cannot be subclassed, so None is free to say so.
    """
    for base, unwrap in _UNWRAP.items():
        if isinstance(value, base):
            return unwrap(value)
    return None


_UNWRAP: dict[type, Callable[[Any], Any]] = {
    int: int.__pos__,
    float: float.__pos__,
    complex: complex.__pos__,
    str: str.__str__,
    bytes: lambda value: bytes(memoryview(value)),
    bytearray: lambda value: bytearray(memoryview(value)),
    list: lambda value: list(list.__iter__(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
}


def decode(tree: Any, resolve: Resolve, depth: int = 0) -> Any:
    """The value of a tree from an untrusted sender; `resolve(tree)` looks up references.

    Raises:
        WireError: it is not a well-formed tree.
    """
    if type(tree) is not list:
        if type(tree) is dict:
            raise WireError("a value has no tag")
        return tree
    if depth > MAX_DEPTH or not tree:
        raise WireError("a value is malformed")
    tag = tree[0]
    try:
        if tag == "l":
            return [decode(item, resolve, depth + 1) for item in tree[1:]]
        if tag in ("t", "s", "f"):
            return _BUILD[tag]([decode(item, resolve, depth + 1) for item in tree[1:]])
        if tag in ("d", "C", "O"):
            return _BUILD[tag](_pairs(tree[1:], resolve, depth))
        return _decode_rare(tag, tree, resolve, depth)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise WireError(f"a value is malformed: {error}") from None


def _pairs(parts: list[Any], resolve: Resolve, depth: int) -> list[tuple[Any, Any]]:
    items = [decode(item, resolve, depth + 1) for item in parts]
    return list(zip(items[::2], items[1::2], strict=True))


def _decode_rare(tag: Any, tree: list[Any], resolve: Resolve, depth: int) -> Any:
    if tag == "i":
        return int(tree[1], 16)
    if tag == "b":
        return bytes.fromhex(tree[1])
    if tag == "a":
        return bytearray.fromhex(tree[1])
    if tag == "c":
        return complex(float(tree[1]), float(tree[2]))
    if tag == "r":
        return range(*(int(part, 16) for part in tree[1:]))
    if tag == "T":
        kind = getattr(builtins, tree[1])
        if type(kind) is not type:
            raise WireError("not a type")
        return kind
    if tag == "q":
        return deque([decode(item, resolve, depth + 1) for item in tree[2:]], tree[1])
    if tag == "D":
        return defaultdict(None if tree[1] is None else _FACTORIES[tree[1]], _pairs(tree[2:], resolve, depth))
    if tag == "e":
        return slice(*[decode(part, resolve, depth + 1) for part in tree[1:4]])
    if tag == "n":
        return Decimal(str(tree[1]))
    if tag == "F":
        return Fraction(int(tree[1], 16), int(tree[2], 16))
    if tag == "w":
        return _TIMES[tree[1]][0](*tree[2:])
    return resolve(tree)


def data_only(value: Any) -> list[Any]:
    """The reference function where no references exist. Raises WireError."""
    raise WireError(f"a {type(value).__name__} is not plain data")


def no_references(tree: list[Any]) -> Any:
    """The resolve function where no references exist. Raises WireError."""
    raise WireError(f"unexpected tag {tree[0]!r}")


def merge(old: Any, new: Any) -> Any:
    """`new`, but as the object `old` wherever both are the same kind of mutable container, at any depth.

    So that a test which holds a list inside a list that it passed sees what the program did to it.
    """
    kind = type(old)
    if kind is not type(new) or kind not in MUTABLE:
        return new
    if kind is list:
        common = min(len(old), len(new))
        old[:] = [merge(a, b) for a, b in zip(old, new, strict=False)] + new[common:]
    elif kind is bytearray:
        old[:] = new
    elif kind is set:
        old.clear()
        old.update(new)
    elif kind is deque:
        old.clear()
        old.extend(new)
    else:
        merged = {key: merge(old[key], value) if key in old else value for key, value in new.items()}
        old.clear()
        old.update(merged)
    return old
