"""JSON records of a file, each with the place it came from; a broken one is told, not raised: the caller decides."""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from trivium.base.errors import DataError
from trivium.base.files import atomic_path, check_regular


@dataclass(frozen=True)
class JsonRecord:
    """One record of a file, or why there is none."""

    where: str
    """`file:line`, or `file, record n` in a JSON array."""
    value: Any = None
    problem: str = ""
    """Why the record cannot be read; empty when `value` holds it."""


def read_json_records(path: Path | str) -> Iterator[JsonRecord]:
    """Records of a JSONL file (`.gz` and `.zst` too) or of a `.json` file that holds one array.

    Blank lines are passed over. A line that is no JSON gives a record with `problem` set.

    Raises:
        DataError: the file is missing, no file, unreadable, or its compression is damaged.
    """
    path = Path(path)
    check_regular(path)
    try:
        with _open_bytes(path) as file:
            if ".json" in path.suffixes and (array := _read_array(file, path)) is not None:
                yield from array
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _parse_line(line, f"{path}:{number}")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check the path.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged: {error}. Fetch or compress it again.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Check path and permissions.") from None


def write_json_records(path: Path | str, rows: Iterable[Any]) -> int:
    """Write one JSON value a line, atomically; equal rows give equal bytes, `.gz` included. Returns the row count."""
    path, count = Path(path), 0
    with atomic_path(path) as temporary, open(temporary, "wb") as raw:
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else None
        for row in rows:
            (packed or raw).write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            count += 1
        if packed is not None:
            packed.close()
    return count


def _open_bytes(path: Path) -> IO[bytes] | gzip.GzipFile:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".zst":
        import pyarrow  # heavy, and only this suffix needs it

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    return open(path, "rb")


def _read_array(file: IO[bytes] | gzip.GzipFile, path: Path) -> Iterator[JsonRecord] | None:
    """The records of one JSON array; None (and the file rewound) when the file holds a record a line after all."""
    first = next((line for line in file if line.strip()), b"")
    file.seek(0)
    if not first.lstrip(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        return None
    record = _parse_line(file.read(), str(path))
    if record.problem:
        return iter([record])
    return (JsonRecord(f"{path}, record {index}", value) for index, value in enumerate(record.value, start=1))


def _parse_line(line: bytes, where: str) -> JsonRecord:
    try:
        value = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
        if b"\\ud" in line.lower() and not _is_text(value):
            fields = [name for name, part in value.items() if not _is_text(part)] if isinstance(value, dict) else []
            place = f"{fields[0]}: " if fields else ""
            return JsonRecord(
                where, problem=f"{place}holds half a surrogate pair (\\ud800 to \\udfff), which is no text"
            )
        return JsonRecord(where, value)
    except UnicodeDecodeError as error:
        return JsonRecord(where, problem=f"is not UTF-8 (byte {error.start + 1})")
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        return JsonRecord(where, problem=f"is not JSON: {error.msg} at {place}")
    except RecursionError:
        return JsonRecord(where, problem="is nested too deeply")
    except ValueError as error:
        return JsonRecord(where, problem=f"is not JSON: {error}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _is_text(value: Any) -> bool:
    """Whether all strings of a JSON value can be written: escapes may smuggle in halves of surrogate pairs."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
