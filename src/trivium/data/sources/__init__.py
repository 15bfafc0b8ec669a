"""Readers: from files on disk to documents. Each yields `Document` and tells `Drops` what it leaves out."""

from collections.abc import Callable, Iterator
from pathlib import Path

from trivium.base.errors import DataError
from trivium.base.files import check_regular
from trivium.data.config import SourceConfig
from trivium.data.drops import Drops
from trivium.data.sources.builtin import read_builtin_code, read_builtin_english
from trivium.data.sources.files import read_folder, read_text_file
from trivium.data.sources.installed import read_installed_code
from trivium.data.sources.jsonl import read_jsonl
from trivium.data.sources.parquet import read_parquet
from trivium.records import Document

Reader = Callable[[SourceConfig, Drops], Iterator[Document]]

SOURCES: dict[str, Reader] = {
    "builtin_code": read_builtin_code,
    "builtin_english": read_builtin_english,
    "installed_code": read_installed_code,
    "folder": read_folder,
    "text": read_text_file,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
}

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}


def kind_of(source: SourceConfig) -> str:
    """The reader for a source; `auto` is decided by what the path is."""
    if source.kind != "auto":
        return source.kind
    path = Path(source.path)
    if path.is_dir():
        return "folder"
    suffixes = [suffix for suffix in path.suffixes if suffix not in (".gz", ".zst")]
    return SUFFIXES.get(suffixes[-1] if suffixes else "", "text")


def read_source(source: SourceConfig, drops: Drops) -> Iterator[Document]:
    """Documents of one source, in a fixed order.

    Raises:
        DataError: the path is missing, a record is bad, or there is no document at all.
    """
    if source.path and not Path(source.path).exists():
        raise DataError(f"The corpus {source.path} does not exist. Check the path of source {source.label!r}.")
    if source.path and not Path(source.path).is_dir():
        check_regular(Path(source.path))
    count = 0
    for document in SOURCES[kind_of(source)](source, drops):
        if not document.text.strip():
            drops.leave_out(document.path, "is empty", "empty", source.label)
            continue
        count += 1
        yield document
    if count == 0:
        where = source.path or source.label
        raise DataError(f"The corpus {where} holds no documents{_left_out(drops, source)}. Give one with text in it.")


def _left_out(drops: Drops, source: SourceConfig) -> str:
    """What was seen and not taken, for the message about an empty corpus."""
    rows = [row for row in drops.rows if row["source"] == source.label]
    if not rows:
        return ""
    return f" ({len(rows)} left out, the first: {rows[0]['where']}: {rows[0]['reason']})"
