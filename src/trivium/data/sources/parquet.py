"""Parquet corpora: one row a document with its text in one column."""

from collections.abc import Iterator
from pathlib import Path

from trivium.base.errors import DataError
from trivium.base.parquet import open_parquet
from trivium.data.config import SourceConfig
from trivium.data.drops import Drops
from trivium.data.sources.jsonl import data_files, document_of
from trivium.records import Document


def read_parquet(source: SourceConfig, drops: Drops) -> Iterator[Document]:
    """Rows of a Parquet file, or of all such files directly in a folder."""
    for path in data_files(Path(source.path), ("*.parquet",)):
        yield from _read_file(path, source, drops)


def _read_file(path: Path, source: SourceConfig, drops: Drops) -> Iterator[Document]:
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        if source.text_column not in names:
            raise DataError(
                f"{path} has no column {source.text_column!r} (columns: {', '.join(names)}). "
                "Name the text's column with text_column."
            )
        columns = [name for name in (source.text_column, "language", "license", "path") if name in names]
        number = 0
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                where = f"{path}, row {number}"
                try:
                    document = document_of(row, where, source)
                except ValueError as error:
                    drops.bad(where, str(error), source.label)
                else:
                    yield document
