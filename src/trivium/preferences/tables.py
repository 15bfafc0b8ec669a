"""Preference records as Parquet tables: fixed columns, and what a record does not say is null."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trivium.base.files import atomic_path
from trivium.base.jsonl import JsonRecord
from trivium.base.parquet import open_parquet

TEXT, TRUTH, NUMBER, WHOLE = "string", "bool", "float64", "int64"
_ANSWER = {
    "text": TEXT,
    "ids": [WHOLE],
    "finish": TEXT,
    "passed": TRUTH,
    "tests_passed": WHOLE,
    "tests_total": WHOLE,
    "verdict": TEXT,
    "model": TEXT,
    "round": WHOLE,
    "sample": WHOLE,
}
_SAID = {"source": TEXT, "annotator": TEXT, "margin": NUMBER, "agreement": NUMBER}

COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "pairs": {
        "id": TEXT,
        "prompt": TEXT,
        "chosen": TEXT,
        "rejected": TEXT,
        "tie": TRUTH,
        "chosen_passed": TRUTH,
        "rejected_passed": TRUTH,
        **_SAID,
    },
    "rankings": {
        "id": TEXT,
        "prompt": TEXT,
        "messages": [{"role": TEXT, "content": TEXT}],
        "completions": [_ANSWER],
        "ranking": [[WHOLE]],
        **_SAID,
        "split": TEXT,
        "comment": TEXT,
        "details": TEXT,
    },
}
"""Columns of each form: a name is a type of Arrow, `[...]` a list and `{...}` a record of such.

A prompt that is a conversation stands in `messages`, and `details` holds JSON.
"""
_ROWS = 4096


def write_table(path: Path | str, form: str, records: Iterable[dict[str, Any]]) -> None:
    """Write the records of one form as Parquet, atomically; equal records give equal bytes.

    Args:
        path: where to.
        form: of `COLUMNS`.
        records: in pair or ranking form, with no other fields than its columns.
    """
    import pyarrow.parquet

    schema = pyarrow.schema([(name, _arrow(kind)) for name, kind in COLUMNS[form].items()])
    with atomic_path(Path(path)) as temporary:
        with pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
            rows: list[dict[str, Any]] = []
            for record in records:
                rows.append(_row(record))
                if len(rows) == _ROWS:
                    writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                    rows = []
            if rows:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))


def read_table(path: Path | str) -> Iterator[JsonRecord]:
    """The rows of a Parquet file as records, nulls left out, each with the place it came from.

    Raises:
        DataError: the file is missing, no Parquet, or damaged.
    """
    with open_parquet(Path(path)) as file:
        number = 0
        for batch in file.iter_batches(batch_size=_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield _record(row, f"{path}, row {number}")


def _arrow(kind: Any) -> Any:
    import pyarrow

    if isinstance(kind, list):
        return pyarrow.list_(_arrow(kind[0]))
    if isinstance(kind, dict):
        return pyarrow.struct([(name, _arrow(part)) for name, part in kind.items()])
    return pyarrow.type_for_alias(kind)


def _row(record: dict[str, Any]) -> dict[str, Any]:
    row = dict(record)
    if isinstance(row["prompt"], list):
        row["messages"] = row.pop("prompt")
    if "details" in row:
        row["details"] = json.dumps(row["details"], ensure_ascii=False, allow_nan=False)
    return row


def _record(row: dict[str, Any], where: str) -> JsonRecord:
    record = _without_nulls(row)
    if "prompt" not in record and "messages" in record:
        record["prompt"] = record.pop("messages")
    if isinstance(record.get("details"), str):
        try:
            record["details"] = json.loads(record["details"])
        except ValueError as error:
            return JsonRecord(where, problem=f"details: is not JSON: {error}")
    return JsonRecord(where, record)


def _without_nulls(value: Any) -> Any:
    """As JSON has it: what is not said is left out, and NaN, which others write for it; times become texts."""
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None and part == part}
    if isinstance(value, list):
        return [_without_nulls(part) if part == part else None for part in value]
    return value if isinstance(value, str | int | float) or value is None else str(value)
