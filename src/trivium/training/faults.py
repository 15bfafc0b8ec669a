"""Batches whose numbers are no good: what they were, and whether the run stops or goes on without them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trivium.base.errors import NumericalFault, StageFailed
from trivium.base.files import write_jsonl
from trivium.base.log import warn
from trivium.base.ranks import is_main
from trivium.runs import StageDir, add_warning
from trivium.training.checkpoint import Checkpointer

SHOWN = 4
"""Documents named in a message; the file names them all."""
DECAY = 0.95
"""Of the running level of a loss."""
MOST_IN_A_ROW = 10
"""Batches skipped without a good one between them: more, and it is not the batches."""


class Level:
    """Where a loss runs; one far above that has exploded.

    Args:
        value: the level so far; None before the first loss.
    """

    def __init__(self, value: float | None = None):
        self.value = value

    def check(self, loss: float, explosion: float) -> None:
        """A loss may be `explosion` times its level, or that many times 1 where the level is lower.

        Raises:
            NumericalFault: it is more, or not finite.
        """
        if not math.isfinite(loss):
            raise NumericalFault(f"the loss is {loss}")
        level = abs(loss) if self.value is None else self.value
        if abs(loss) > explosion * max(level, 1.0):
            raise NumericalFault(f"the loss is {loss:.4g}, far above its level of {level:.4g},")

    def follow(self, loss: float) -> None:
        """A loss that was descended."""
        self.value = abs(loss) if self.value is None else DECAY * self.value + (1 - DECAY) * abs(loss)


class Faults:
    """Stops at a batch whose loss or gradient is not finite, or skips it; either way it is written down.

    Args:
        action: `stop` or `skip`.
    """

    def __init__(self, stage: StageDir, action: str, checkpointer: Checkpointer):
        self.stage, self.action, self.checkpointer = stage, action, checkpointer
        self._in_a_row = 0

    @property
    def path(self) -> Path:
        """One row a fault: step, what was wrong, what became of it, the batch's documents."""
        return self.stage.path / "faults.jsonl"

    def rows(self) -> list[dict[str, Any]]:
        """The faults met so far."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def rewind(self, step: int) -> None:
        """Forget the faults past `step`: those steps are done again."""
        if rows := self.rows():
            write_jsonl(self.path, [row for row in rows if row["step"] <= step])

    def good(self) -> None:
        """A batch was used."""
        self._in_a_row = 0

    def meet(self, step: int, what: str, documents: Sequence[str]) -> None:
        """Deal with the batch of `step` (counted from 1), whose update was not made.

        Raises:
            StageFailed: `action` is `stop`, or too many were skipped in a row.
        """
        self._in_a_row += 1
        distinct = list(dict.fromkeys(documents))
        write_jsonl(
            self.path, [*self.rows(), {"step": step, "what": what, "action": self.action, "documents": distinct}]
        )
        more = len(distinct) - SHOWN
        batch = ", ".join(distinct[:SHOWN]) + (f" and {more} more, listed in {self.path}" if more > 0 else "")
        told = f"{self.stage.name}: {what} at step {step}, on {batch or 'an empty batch'}."
        if self.action == "skip" and self._in_a_row <= MOST_IN_A_ROW:
            warn(f"{told} The batch was skipped.")
            return
        if self.action == "skip":
            told += f" The {MOST_IN_A_ROW} batches before were skipped too: it is not the batches."
        newest = self.checkpointer.newest()
        kept = f"The last good checkpoint is {newest}" if newest else "There is no checkpoint yet"
        section = self.stage.name.partition("-")[0]
        raise StageFailed(
            f"{told} The weights were not updated. {kept}. Lower the learning rate or mend this data"
            + (f"; --{section}.on_nonfinite skip goes on without such batches." if self.action == "stop" else ".")
        )

    def conclude(self) -> None:
        """Record, for the reader of the results, what was skipped."""
        steps = list(dict.fromkeys(row["step"] for row in self.rows() if row["action"] == "skip"))
        if steps and is_main():
            shown = ", ".join(map(str, steps[:SHOWN])) + (", ..." if len(steps) > SHOWN else "")
            add_warning(self.stage, f"batches of {len(steps)} steps ({shown}) were skipped; see {self.path.name}")
