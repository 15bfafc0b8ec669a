"""Frames between processes: a length and JSON; never pickle or marshal."""

import json
import os
import struct
from typing import Any

MAX_BYTES = 8 << 20
to_json = json.JSONEncoder(separators=(",", ":")).encode


class WireError(Exception):
    """A value cannot cross, or what arrived is not one."""


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
