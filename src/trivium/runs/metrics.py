"""A stage's metrics as JSON lines: one row per logged step, whole even when the process is killed."""

import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trivium.base.errors import RunDirError
from trivium.base.files import write_jsonl


class MetricsLog:
    """Appends rows `{"step", "time", key: number, ...}` to a file.

    `time` counts the seconds of work: reopened, the log goes on from the last row's time, so neither a pause
    nor steps that are done again leave a gap. A half-written last line is dropped on opening.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def log(self, step: int, **values: Any) -> None:
        """Append one row. Values are numbers, None or scalar tensors; those not finite are written as null.

        Keys with a slash are given as `log(step, **{"val/loss": 1.0})`.

        Raises:
            TypeError: a value is not a number.
        """
        if "time" in values:
            raise ValueError("`time` is written by the log itself")
        seconds = round(self._offset + time.monotonic() - self._start, 3)
        row = {"step": int(step), "time": seconds, **{key: _number(key, item) for key, item in values.items()}}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")

    def truncate_after(self, step: int) -> None:
        """Drop the rows past `step`: a resumed stage writes them again."""
        self._file.close()
        write_jsonl(self.path, [row for row in read_metrics(self.path) if row["step"] <= step])
        self._open()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        _drop_partial_line(self.path)
        rows = read_metrics(self.path)
        self._offset = float(rows[-1].get("time") or 0.0) if rows else 0.0
        self._start = time.monotonic()
        # Line-buffered: a row reaches the kernel when complete. The file stays open between rows.
        self._file = open(self.path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file in order; a half-written last line is left out, no file means no rows.

    Raises:
        RunDirError: a line other than the last is broken.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is not yet a row
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise RunDirError(
                f"{path} line {number} is not JSON ({error.msg}). Mend or delete the line, or use --force."
            ) from error
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise RunDirError(f"{path} line {number} has no integer `step`. Mend or delete the line, or use --force.")
        rows.append(row)
    return rows


def _drop_partial_line(path: Path) -> None:
    if not path.exists():
        return
    with open(path, "rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def _number(key: str, value: Any) -> int | float | None:
    if hasattr(value, "item"):  # scalar tensors and NumPy numbers, without importing either
        value = value.item()
    if value is None:
        return None
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, (int, float)):
        raise TypeError(f"metric {key!r} is {value!r}, expected a number")
    return value if math.isfinite(value) else None


def number(value: Any) -> float | None:
    """`value` if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
