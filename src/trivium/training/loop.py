"""Steps that may be stopped at any moment: resumed, checkpointed, interrupted alike in every stage that has steps."""

import signal
from types import FrameType
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field
from torch import Tensor

from trivium.base.config import Config
from trivium.base.errors import Interrupted, StopSignal
from trivium.base.log import Progress
from trivium.base.ranks import barrier, gather
from trivium.runs import MetricsLog, StageDir
from trivium.training.checkpoint import Checkpoint, Checkpointer
from trivium.training.faults import Faults


class LoopConfig(Config):
    """What all stages that have steps share."""

    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints kept while the stage runs; an older one serves where the newest is damaged."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """At a batch whose loss or gradient is NaN, infinite or exploded: stop, or leave it out and record it."""

    adjustable: ClassVar[frozenset[str]] = frozenset({"checkpoint_every", "keep_checkpoints", "on_nonfinite"})


class Interruption:
    """Turns Ctrl-C and SIGTERM into a flag, so that a step is finished and checkpointed before leaving.

    A second Ctrl-C leaves at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise StopSignal
        self.requested = True

    def __enter__(self) -> "Interruption":
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        except ValueError:  # not the main thread: signals are somebody else's business
            pass
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if kind is None and self.requested:  # it came when no step was left to wait for
            raise StopSignal


class Work(Protocol):
    """What a loop repeats. A step is a function of its number and of what `restore` brings back, of nothing else."""

    def step(self, number: int) -> tuple[dict[str, float], bool]:
        """Do step `number`, from 0; figures for the progress line, and whether the work ends here, before its time."""
        ...

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that later steps depend on: tensors, and JSON-able values."""
        ...

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up what `snapshot` gave."""
        ...


class Loop:
    """Runs the steps of a stage from its newest checkpoint on.

    Args:
        stage: whose folder holds the checkpoints.
        offset: of this stage's steps in the metrics.
        keep_end: whether the last step too leaves a checkpoint, for a stage that has more to do after it.
    """

    def __init__(
        self, stage: StageDir, config: LoopConfig, metrics: MetricsLog, offset: int = 0, keep_end: bool = False
    ):
        self.stage, self.config, self.metrics, self.offset, self.keep_end = stage, config, metrics, offset, keep_end
        self.checkpointer = Checkpointer(
            stage.checkpoints, config.keep_checkpoints, beside=[metrics.path], together=True
        )
        self.faults = Faults(stage, config.on_nonfinite, self.checkpointer)

    def run(self, work: Work, steps: int) -> None:
        """Go on to `steps`.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; a checkpoint has been written.
            StageFailed: a batch's numbers were no good.
            OSError: a checkpoint could not be written.
        """
        name, start = self.stage.name, self._resume(work)
        with self.checkpointer, Interruption() as stop, Progress(name, steps, start=start) as progress:
            for step in range(start, steps):
                figures, ended = work.step(step)
                done = step + 1
                progress.update(done, **figures)
                self.checkpointer.check()
                if ended:
                    break
                leaving = any(gather(stop.requested))  # whichever rank was told: they leave at the same step
                due = self.keep_end if done == steps else done % self.config.checkpoint_every == 0
                if leaving or due:
                    self.checkpointer.save(done, *work.snapshot())
                if leaving:
                    self.checkpointer.wait()
                    barrier()
                    raise Interrupted(f"{name} stopped after step {done} of {steps}; checkpoint written.")
        self.faults.conclude()

    def _resume(self, work: Work) -> int:
        checkpoint = self.checkpointer.latest()
        if checkpoint is not None:
            work.restore(checkpoint)
        start = checkpoint.step if checkpoint is not None else 0
        self.metrics.truncate_after(self.offset + start if start else -1)
        self.faults.rewind(self.offset + start)
        return start
