"""The training loop that pretraining, fine-tuning and reward modelling share."""

import math
import signal
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import torch
from torch import nn

from trivium.base.errors import Interrupted, StageFailed, StopSignal
from trivium.base.log import Progress
from trivium.batch import LossOutput
from trivium.optim import Optimizer
from trivium.runs import MetricsLog
from trivium.training.checkpoint import Checkpointer, load_weights, pack, unpack

Hook = Callable[[int], dict[str, float]]


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

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class Trainer:
    """Steps a module down a loss: accumulate, divide once by the global count, clip, update, log, checkpoint.

    Everything a step does is a function of its number, so a resumed run repeats the uninterrupted one.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        *,
        metrics: MetricsLog,
        checkpointer: Checkpointer,
        name: str,
        checkpoint_every: int = 100,
        log_every: int = 10,
    ):
        self.module, self.optimizer, self.metrics, self.checkpointer = module, optimizer, metrics, checkpointer
        self.name, self.checkpoint_every, self.log_every = name, checkpoint_every, log_every
        self.state: dict[str, Any] = {}
        """JSON-able values that hooks keep across a resume."""
        self.tensors: dict[str, torch.Tensor] = {}
        """Tensors that hooks keep across a resume, e.g. the best weights so far."""

    def _resume(self) -> int:
        checkpoint = self.checkpointer.latest()
        if checkpoint is None:
            self.metrics.truncate_after(-1)
            return 0
        load_weights(self.module, unpack(checkpoint.tensors, "model"))
        self.optimizer.load_state_tensors(unpack(checkpoint.tensors, "optimizer"))
        self.tensors = unpack(checkpoint.tensors, "hook")
        self.state = checkpoint.state
        self.metrics.truncate_after(checkpoint.step)
        return checkpoint.step

    def _save(self, step: int) -> None:
        tensors = pack(
            model=dict(self.module.state_dict()), optimizer=self.optimizer.state_tensors(), hook=self.tensors
        )
        self.checkpointer.save(step, tensors, self.state)

    def fit(
        self,
        steps: int,
        losses: Callable[[int], Iterable[LossOutput]],
        hooks: Iterable[tuple[int, Hook]] = (),
        tokens_per_step: int = 0,
    ) -> None:
        """Train from the newest checkpoint to `steps`.

        Args:
            losses: step -> the loss of each micro-batch, computed lazily, one at a time.
            hooks: (every, function): called with the number of steps done after every `every` steps and at
                the end; what they return is logged.
            tokens_per_step: for the rate in the log.
        Raises:
            StageFailed: the loss is not finite.
            Interrupted: Ctrl-C or SIGTERM; a checkpoint has been written.
        """
        start = self._resume()
        with Interruption() as interruption, Progress(self.name, steps, "step", start=start) as progress:
            for step in range(start, steps):
                began = time.perf_counter()
                values = self._step(step, losses(step))
                seconds = time.perf_counter() - began
                if tokens_per_step:
                    values["tokens_per_second"] = tokens_per_step / seconds
                done = step + 1
                reports = [hook(done) for every, hook in hooks if done % every == 0 or done == steps]
                evaluated = {key: value for report in reports for key, value in report.items()}
                if evaluated or done % self.log_every == 0 or done in (1, steps):
                    self.metrics.log(done, **values, **evaluated)
                progress.update(done, loss=values["loss"], **evaluated)
                if interruption.requested or (done % self.checkpoint_every == 0 and done < steps):
                    self._save(done)
                if interruption.requested:
                    raise Interrupted(f"{self.name} stopped after step {done} of {steps}; checkpoint written.")

    def _step(self, step: int, losses: Iterable[LossOutput]) -> dict[str, float]:
        loss_sum, count, extra = 0.0, 0.0, {}
        for loss in losses:
            loss.loss_sum.backward()
            loss_sum, count = loss_sum + loss.loss_sum.item(), count + float(loss.count)
            for key, value in loss.metrics.items():
                extra[key] = extra.get(key, 0.0) + float(value)
        mean = loss_sum / max(count, 1.0)
        if not math.isfinite(mean):
            kept = self.checkpointer.steps()
            raise StageFailed(
                f"{self.name}: the loss is {mean} at step {step + 1}. Weights of "
                f"{f'step {kept[-1]}' if kept else 'no step'} are kept in {self.checkpointer.folder}. "
                "Lower the learning rate or look at the data of this step."
            )
        return {"loss": mean, **extra, **self.optimizer.step(step, max(count, 1.0))}
