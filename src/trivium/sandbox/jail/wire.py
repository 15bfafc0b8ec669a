"""What crosses between program and checker: plain data in a tagged form over `json`; never pickle or marshal.

Scalars stand for themselves; everything else is a list that begins with its tag. Only exact types are data, so no
method of a program's class ever runs in the checker; other objects cross as references.
"""

import json
import os
import struct
from collections.abc import Callable
from typing import Any

MAX_BYTES = 8 << 20
MAX_DEPTH = 100
_SMALL = 1 << 62
to_json = json.JSONEncoder(separators=(",", ":")).encode
Reference = Callable[[Any], list[Any]]
Resolve = Callable[[str, Any], Any]


class WireError(Exception):
    """A value cannot cross, or what arrived is not a value."""


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
    if kind is dict:
        pairs = [encode(part, reference, depth + 1) for pair in value.items() for part in pair]
        return ["d", *pairs]
    if kind is bytes or kind is bytearray:
        return ["b" if kind is bytes else "a", value.hex()]
    if kind is complex:
        return ["c", value.real, value.imag]
    if kind is range:
        return ["r", hex(value.start), hex(value.stop), hex(value.step)]
    return reference(value)


_SEQUENCES: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "f"}
_BUILD: dict[str, Callable[[Any], Any]] = {"t": tuple, "s": set, "f": frozenset}


def decode(tree: Any, resolve: Resolve, depth: int = 0) -> Any:
    """The value of a tree from an untrusted sender; `resolve(tag, key)` looks up references.

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
        if tag in _COMPOUND:
            items = [decode(item, resolve, depth + 1) for item in tree[1:]]
            if tag == "l":
                return items
            if tag == "d":
                return dict(zip(items[::2], items[1::2], strict=True))
            return _BUILD[tag](items)
        return _decode_scalar(tag, tree[1:], resolve)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise WireError(f"a value is malformed: {error}") from None


_COMPOUND = frozenset("ltsfd")


def _decode_scalar(tag: Any, parts: list[Any], resolve: Resolve) -> Any:
    if tag == "i":
        return int(parts[0], 16)
    if tag == "b":
        return bytes.fromhex(parts[0])
    if tag == "a":
        return bytearray.fromhex(parts[0])
    if tag == "c":
        return complex(float(parts[0]), float(parts[1]))
    if tag == "r":
        return range(*(int(part, 16) for part in parts))
    return resolve(tag, parts[0])


def plain(value: Any) -> list[Any]:
    """The reference function where no references exist. Raises WireError."""
    raise WireError(f"a {type(value).__name__} is not plain data")


def no_references(tag: str, key: Any) -> Any:
    """The resolve function where no references exist. Raises WireError."""
    raise WireError(f"unexpected tag {tag!r}")


def send(descriptor: int, message: Any) -> None:
    """Write one frame. Raises WireError (too large) and OSError (the peer is gone)."""
    payload = to_json(message).encode()
    if len(payload) > MAX_BYTES:
        raise WireError(f"a value takes more than {MAX_BYTES >> 20} MiB")
    frame = memoryview(struct.pack(">I", len(payload)) + payload)
    while frame:
        frame = frame[os.write(descriptor, frame) :]


def receive(descriptor: int, limit: int = MAX_BYTES) -> Any:
    """Read one frame. Raises EOFError (the peer is gone) and WireError (not a frame)."""
    (size,) = struct.unpack(">I", read_exactly(descriptor, 4))
    if size > limit:
        raise WireError(f"a frame of {size} bytes is too large")
    try:
        return json.loads(read_exactly(descriptor, size))
    except (ValueError, RecursionError) as error:
        raise WireError(f"a frame is not JSON: {error}") from None


def read_exactly(descriptor: int, size: int) -> bytes:
    """Read `size` bytes. Raises EOFError if the peer closes before."""
    chunks: list[bytes] = []
    while size:
        try:
            chunk = os.read(descriptor, min(size, 1 << 20))
        except ConnectionError:
            chunk = b""
        if not chunk:
            raise EOFError
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)
