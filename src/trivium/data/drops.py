"""What is left out of a corpus, and why: counted and listed, never silent."""

from collections import Counter
from pathlib import Path
from typing import Literal

from trivium.base.errors import DataError
from trivium.base.files import write_jsonl

OnError = Literal["stop", "skip"]


class Drops:
    """The records left out of one reading. Bad ones stop the run unless `on_error` is `skip`."""

    def __init__(self, on_error: OnError = "stop") -> None:
        if on_error not in ("stop", "skip"):
            raise DataError(f"on_error is {on_error!r}; it must be 'stop' or 'skip'.")
        self.on_error = on_error
        self.rows: list[dict[str, str]] = []
        self.counts: Counter[str] = Counter()

    def bad(self, where: str, reason: str, source: str = "") -> None:
        """Note a record that cannot be used.

        Raises:
            DataError: `on_error` is `stop`; one line with place and reason.
        """
        if self.on_error == "stop":
            raise DataError(f'{where}: {reason}. Repair it, or leave such records out with on_error = "skip".')
        self.leave_out(where, reason, "bad", source)

    def leave_out(self, where: str, reason: str, kind: str, source: str = "") -> None:
        """Note a record that is left out by rule (`empty`, `duplicate`, `suffix`), which is no error."""
        self.counts[kind] += 1
        self.rows.append({"where": where, "reason": reason, "kind": kind, "source": source})

    def write(self, path: Path) -> None:
        """List them in a JSONL file."""
        write_jsonl(path, self.rows)
