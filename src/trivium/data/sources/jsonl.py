"""JSONL corpora (`.gz` and `.zst` too): one record a line with its text in one field."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trivium.base.errors import DataError
from trivium.base.jsonl import read_json_records
from trivium.data.config import SourceConfig
from trivium.data.drops import Drops
from trivium.records import Document

PATTERNS = ("*.jsonl", "*.ndjson", "*.json", "*.jsonl.*", "*.ndjson.*", "*.json.*")
TYPES = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}


def read_jsonl(source: SourceConfig, drops: Drops) -> Iterator[Document]:
    """Records of a JSONL file, or of all such files directly in a folder."""
    for path in data_files(Path(source.path), PATTERNS):
        for record in read_json_records(path):
            if record.problem:
                drops.bad(record.where, record.problem, source.label)
                continue
            try:
                document = document_of(record.value, record.where, source)
            except ValueError as error:
                drops.bad(record.where, str(error), source.label)
            else:
                yield document


def document_of(record: Any, where: str, source: SourceConfig) -> Document:
    """The document in a record; its own language and licence count where the source has none.

    Raises:
        ValueError: the record is no document, with the reason.
    """
    if not isinstance(record, dict):
        raise ValueError(f"is {type_name(record)}, expected an object with a field {source.text_column!r}")
    if source.text_column not in record:
        fields = ", ".join(map(repr, record)) or "none"
        raise ValueError(f"has no field {source.text_column!r} (fields: {fields}); text_column names another")
    text = text_field(record, source.text_column)
    return Document(
        text=text,
        source=source.label,
        language=source.language or text_field(record, "language"),
        license=source.license or text_field(record, "license"),
        path=text_field(record, "path") or where,
    )


def text_field(record: dict[str, Any], field: str) -> str:
    """A field's text; an optional field may be missing or null, the text itself not.

    Raises:
        ValueError: it is no text, or no valid Unicode.
    """
    value = record.get(field)
    if value is None and field in ("language", "license", "path"):
        return ""
    if not isinstance(value, str):
        raise ValueError(f"has {type_name(value)} in field {field!r}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(value[error.start]):04X}"
        raise ValueError(
            f"has the lone surrogate {surrogate} in field {field!r} at character {error.start + 1}"
        ) from None
    return value


def type_name(value: Any) -> str:
    """What a JSON value is, in words."""
    return TYPES.get(type(value), "a text")


def data_files(path: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The file itself, or the matching files in a folder, sorted.

    Raises:
        DataError: the folder has none.
    """
    if not path.is_dir():
        return [path]
    files = sorted({file for pattern in patterns for file in path.glob(pattern)})
    if not files:
        raise DataError(f"The folder {path} holds no {patterns[0]} files. Check the path or the source's kind.")
    return files
