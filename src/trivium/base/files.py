"""Files appear whole or not at all: write beside, fsync, rename."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trivium.base.errors import DataError

DRAFT = re.compile(r"\..+\.(\d+)\.tmp")


def draft_path(path: Path) -> Path:
    """Where this process prepares what shall be at `path`, or takes apart what was there."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sweep_drafts(folder: Path) -> None:
    """Delete what killed processes left behind below `folder`; drafts of living ones stay."""
    for path in sorted(folder.rglob(".*.tmp")):
        match = DRAFT.fullmatch(path.name)
        if match is None or _is_alive(int(match[1])):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    """Whether another process has that number; what carries our own was left by one that had it before."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and somebody else's
        return True
    return True


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed over `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = draft_path(path)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value a line to `path` atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def save_tensors(tensors: dict[str, Any], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, in place; a full disk comes out as the OSError that it is everywhere else."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def check_regular(path: Path) -> None:
    """Refuse what stands at `path` unless it is a file or nothing: a pipe would keep us waiting, and has no content.

    Raises:
        DataError: it is a folder, a pipe, a socket or a device.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder, expected a file. Name a file in it.")
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is a pipe or a device, which cannot be read twice. Write its content to a file first.")


def sync_directory(path: Path) -> None:
    """Make a rename in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
