"""The training loop that pretraining, fine-tuning and reward modelling share."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from trivium.base.errors import NumericalFault
from trivium.base.ranks import totals, world
from trivium.batch import LossOutput
from trivium.optim import Optimizer
from trivium.runs import MetricsLog, StageDir
from trivium.training.checkpoint import Checkpoint, load_weights, pack, trained_weights, unpack
from trivium.training.faults import Level
from trivium.training.loop import Loop, LoopConfig

Hook = Callable[[int], dict[str, float]]


class TrainConfig(LoopConfig):
    """What the stages that descend a loss share."""

    explosion: float = Field(default=10.0, gt=1)
    """A loss this many times its running level, or 1 where that is lower, has exploded."""

    adjustable: ClassVar[frozenset[str]] = LoopConfig.adjustable | {"explosion"}


class Trainer:
    """Steps a module down a loss: accumulate, divide once by the global count, clip, update, log, checkpoint.

    Everything a step does is a function of its number, so a resumed run repeats the uninterrupted one. On several
    ranks the losses are those of this rank's share of the batch; sums and counts are taken over all.

    Args:
        log_every: steps between rows of metrics.
        keep_end: whether the last step too leaves a checkpoint.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        *,
        stage: StageDir,
        config: TrainConfig,
        metrics: MetricsLog,
        log_every: int = 10,
        keep_end: bool = False,
    ):
        self.module, self.optimizer, self.metrics = module, optimizer, metrics
        self.config, self.log_every = config, log_every
        self.loop = Loop(stage, config, metrics, keep_end=keep_end)
        self.state: dict[str, Any] = {}
        """JSON-able values that hooks keep across a resume."""
        self.tensors: dict[str, torch.Tensor] = {}
        """Tensors that hooks keep across a resume, e.g. the best weights so far."""
        self._level = Level()

    def fit(
        self,
        steps: int,
        losses: Callable[[int], Iterable[LossOutput]],
        hooks: Iterable[tuple[int, Hook]] = (),
        tokens_per_step: int = 0,
        contents: Callable[[int], Sequence[str]] = lambda step: (),
    ) -> None:
        """Train from the newest checkpoint to `steps`.

        Args:
            losses: step -> the loss of each micro-batch, computed lazily, one at a time.
            hooks: (every, function): called with the number of steps done after every `every` steps and at
                the end; what they return is logged.
            tokens_per_step: for the rate in the log.
            contents: step -> the documents of its batch, asked for should its numbers be no good.
        Raises:
            StageFailed: loss or gradient of a batch are not finite, or the loss has exploded.
            Interrupted: Ctrl-C or SIGTERM; a checkpoint has been written.
        """
        self._steps, self._losses, self._hooks = steps, losses, list(hooks)
        self._tokens_per_step, self._contents = tokens_per_step, contents
        self.loop.run(self, steps)

    def snapshot(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Weights, moments and what the hooks keep."""
        tensors = pack(model=trained_weights(self.module), optimizer=self.optimizer.state_tensors(), hook=self.tensors)
        return tensors, {"hooks": self.state, "level": self._level.value}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take them up again."""
        load_weights(self.module, unpack(checkpoint.tensors, "model"))
        self.optimizer.load_state_tensors(unpack(checkpoint.tensors, "optimizer"))
        self.tensors = unpack(checkpoint.tensors, "hook")
        self.state, self._level = checkpoint.state["hooks"], Level(checkpoint.state["level"])

    def step(self, number: int) -> tuple[dict[str, float], bool]:
        """One update, its hooks and its row of metrics."""
        began, done = time.perf_counter(), number + 1
        try:
            values = self._update(number)
        except NumericalFault as fault:
            self.optimizer.clear()
            self.loop.faults.meet(done, fault.what, self._contents(number))
            values = {"skipped": 1.0}
        else:
            self.loop.faults.good()
            if self._tokens_per_step:
                values["tokens_per_second"] = self._tokens_per_step / (time.perf_counter() - began)
        reports = [hook(done) for every, hook in self._hooks if done % every == 0 or done == self._steps]
        evaluated = {key: value for report in reports for key, value in report.items()}
        if evaluated or done % self.log_every == 0 or done in (1, self._steps) or "skipped" in values:
            self.metrics.log(done, **values, **evaluated)
        return {key: values[key] for key in ("loss",) if key in values} | evaluated, False

    def _update(self, step: int) -> dict[str, float]:
        sums = {"": 0.0, "count": 0.0}
        for loss in self._losses(step):
            loss.loss_sum.backward()
            figures = {"": loss.loss_sum.item(), "count": float(loss.count)}
            figures |= {f"/{key}": float(value) for key, value in loss.metrics.items()}
            sums |= {key: sums.get(key, 0.0) + value for key, value in figures.items()}
        sums = totals(sums)
        loss_sum, count = sums.pop(""), sums.pop("count")
        mean = loss_sum / max(count, 1.0)
        self._level.check(mean, self.config.explosion)
        figures = self.optimizer.step(step, max(count, 1.0) / world())  # ranks' gradients arrive as their mean
        self._level.follow(mean)
        return {"loss": mean, **{key.removeprefix("/"): value for key, value in sums.items()}, **figures}
