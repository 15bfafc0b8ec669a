"""Wall time to a given quality: Trivium's default pretraining against a GPT-2 in plain PyTorch with AdamW and cosine.

    python benchmarks/time_to_quality.py
    python benchmarks/time_to_quality.py --minutes 10 --size 10M
    python benchmarks/time_to_quality.py --sweep

Quality is bits per byte on held-out modules of the running Python's standard library, a tenth of them, chosen by name.
Both learn from the same rows of the same tokenizer, as many tokens a step, with models of one size in one precision,
and have the same time. They train by turns, a stretch each, and are measured after it. Measuring costs no time on
either clock, compiling does. Learning rates follow the clock, so that both have decayed when their time is up.

- Trivium: the optimiser, batch and row length of the default recipe's pretraining, documents kept apart, compiled where
  `compute.compile = "auto"` has it so.
- The plain loop: learnt positions, GELU, fused AdamW (0.9, 0.95) with weight decay 0.1, clipped gradients, a short
  warm-up and one cosine down to zero. Its learning rate is the best of `RATES`, found with `--sweep`, which goes on to
  the comparison with the best.

The ratio is that of the times at which the two first reach what the worse one ends with, between measurements along a
line. Whoever is ahead gets there before its own rate has decayed, which is counted against it.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from peers import SHAPES, PlainGPT, adamw_step, shape
from turns import OURS, Result, options, publish

from trivium.batch import Batch
from trivium.data.config import DataConfig, SourceConfig
from trivium.data.corpus import prepare_corpus, tokenizer_texts
from trivium.data.loader import CorpusLoader
from trivium.evaluation.bits_per_byte import bits_per_byte
from trivium.model import Decoder, ModelConfig
from trivium.optim import Optimizer
from trivium.optim.schedule import lr_scale
from trivium.runs import RunDir
from trivium.stages.pretrain import PretrainConfig, lm_loss_sum
from trivium.stages.stage import ComputeConfig, Context
from trivium.tokenizer import Tokenizer
from trivium.training.losses import micro_losses

TARGET = 2.0
BASELINE = "plain PyTorch GPT-2, AdamW, cosine"
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
"""Of the sweep."""
BEST_RATE = 2e-3
"""The plain loop's, where no sweep is made: the best of one, in which half and double of it were worse."""
WARMUP = 20
"""Steps of the plain loop's warm-up; Trivium's is its recipe's."""
VOCABULARY = 4096
SHORTEST = 1e-3
"""Seconds that count for a level had before the first step: in short trials a model may end where it began."""


@dataclass
class Learner:
    """A model on its way: how to do a step of a schedule of so many, and how to measure."""

    step: Callable[[int, int], None]
    """(number, steps in all) -> one update."""
    nats: Callable[[Batch], float]
    """Summed loss of a held-out batch."""


@dataclass
class Run:
    """A learner against its own clock."""

    learner: Learner
    budget: float
    """Seconds of training."""
    fixed: int | None = None
    """Steps, where they and not the clock end the training."""
    steps: int = 0
    seconds: float = 0.0
    first: float = 0.0
    """Seconds of the first step, in which a compiled model is compiled."""
    points: list[tuple[float, float]] = field(default_factory=list)
    """Seconds of training, bits per byte."""

    @property
    def total(self) -> int:
        """Steps in all, by the pace so far."""
        if self.fixed is not None:
            return self.fixed
        if self.steps < 2:
            return 10**6  # warming up
        pace = (self.seconds - self.first) / (self.steps - 1)
        return self.steps + max(1, round((self.budget - self.seconds) / pace))

    def train(self, share: float) -> None:
        """Steps until this share of the training is over."""
        while self.steps < share * self.fixed if self.fixed is not None else self.seconds < share * self.budget:
            began = time.perf_counter()
            self.learner.step(self.steps, self.total)
            self.seconds += time.perf_counter() - began
            self.first = self.first or self.seconds
            self.steps += 1

    def measure(self, loader: CorpusLoader, rows: int) -> float:
        """Another point; its bits per byte."""
        nats, size = 0.0, 0
        for batch, target_bytes in loader.validation(loader.corpus.sources[0].name, rows):
            nats += self.learner.nats(batch)
            size += target_bytes
        self.points.append((self.seconds, bits_per_byte(nats, size)))
        return self.points[-1][1]


def reached(points: Sequence[tuple[float, float]], level: float) -> float:
    """Seconds at which a curve of (seconds, bits per byte) first comes down to a level; infinite where it does not."""
    before: tuple[float, float] | None = None
    for seconds, value in points:
        if value <= level:
            if before is None or before[1] == value:
                return seconds
            return before[0] + (before[1] - level) / (before[1] - value) * (seconds - before[0])
        before = (seconds, value)
    return math.inf


def corpus(folder: Path, recipe: PretrainConfig, vocab_size: int = VOCABULARY) -> CorpusLoader:
    """The library's modules, a tenth held out by name; the tokenizer has not seen them either."""
    source = SourceConfig(kind="builtin_code", split_by="path")
    config = DataConfig(sources=(source,), validation_fraction=0.1)
    tokenizer = Tokenizer.train(tokenizer_texts(config), vocab_size=vocab_size)
    prepare_corpus(config, tokenizer, folder)
    return CorpusLoader(folder, "train", recipe.seq_len, recipe.batch_size, seed=0)


def trivium(
    context: Context, recipe: PretrainConfig, config: ModelConfig, loader: CorpusLoader, seed: int, tokens: int = 0
) -> tuple[Learner, str]:
    """What `stages/pretrain.py` does, and whether it compiles for so many tokens; 0 asks for no compilation."""
    model = context.place(Decoder(config))
    model.cpu().initialise(torch.Generator().manual_seed(seed))
    model.to(context.device)
    compiled = context.prepare_training(model, tokens) if tokens else "not compiled"
    optimizer = Optimizer(model, recipe.optim, 1)

    def step(number: int, total: int) -> None:
        optimizer.total_steps = total
        batch, count = loader.batch(number), 0.0
        for loss in micro_losses(model, batch, recipe.micro_batch_size):
            loss.loss_sum.backward()
            count += float(loss.count)
        optimizer.step(number, count)

    return Learner(step, lambda batch: lm_loss_sum(model, batch.to(context.device))), compiled


def plain(context: Context, config: ModelConfig, loader: CorpusLoader, seed: int, rate: float) -> Learner:
    """The plain loop; rows of several documents are one text to it."""
    model = PlainGPT(config, seed).to(context.device)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)
    autocast = torch.autocast(context.device.type, torch.bfloat16, enabled=context.dtype == torch.bfloat16)

    def loss_sum(batch: Batch) -> torch.Tensor:
        with autocast:
            logits = model(batch.ids)
        targets = batch.ids.masked_fill(~batch.loss_mask, -100)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten(), reduction="sum")

    def step(number: int, total: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate * lr_scale(
                number, total_steps=total, warmup_steps=WARMUP, schedule="cosine", decay_fraction=1.0
            )
        batch = loader.batch(number).to(context.device)
        adamw_step(model, optimizer, loss_sum(batch) / batch.loss_mask.sum())

    @torch.no_grad()
    def nats(batch: Batch) -> float:
        return loss_sum(batch.to(context.device)).item()

    return Learner(step, nats)


def race(runs: dict[str, Run], loader: CorpusLoader, rows: int, points: int) -> None:
    """Train by turns and print the curves."""
    print(f"{'':>6}" + "".join(f"{name:>40}" for name in runs))
    for point in range(points + 1):
        for run in runs.values():
            run.train(point / points)
            run.measure(loader, rows)
        told = [f"{run.steps} steps {run.points[-1][0]:7.1f} s {run.points[-1][1]:.4f} b/B" for run in runs.values()]
        print(f"{point / points:>5.0%} " + "".join(f"{each:>40}" for each in told), flush=True)


def sweep(
    context: Context, config: ModelConfig, loader: CorpusLoader, budget: float, rows: int
) -> tuple[float, dict[float, float]]:
    """The plain loop's best rate and what each ends with: the first takes its time, the others as many steps."""
    found: dict[float, float] = {}
    steps = None
    for rate in RATES:
        run = Run(plain(context, config, loader, 0, rate), budget, steps)
        run.train(1.0)
        steps = run.steps
        found[rate] = run.measure(loader, rows)
        print(f"learning rate {rate:g}: {found[rate]:.4f} bits per byte after {steps} steps", flush=True)
    return min(found, key=lambda rate: found[rate]), found


def pace(learner: Learner) -> float:
    """Seconds of a step, of a learner that is thrown away."""
    learner.step(0, 10**6)
    began = time.perf_counter()
    learner.step(1, 10**6)
    return time.perf_counter() - began


def result(races: list[dict[str, Run]], settings: dict[str, object]) -> Result:
    """Ratios of the races' times, and the rates that are the times' inverses."""
    level = [max(run.points[-1][1] for run in runs.values()) for runs in races]
    times = {
        name: [max(SHORTEST, reached(runs[name].points, each)) for runs, each in zip(races, level, strict=True)]
        for name in races[0]
    }
    ratios = [b / a for a, b in zip(times[OURS], times[BASELINE], strict=True)]
    curves = {
        f"curve of {name}": "; ".join(f"{seconds:.0f} s {value:.3f}" for seconds, value in run.points)
        for name, run in races[-1].items()
    }
    counted = {f"steps of {name}": run.steps for name, run in races[-1].items()}
    return Result(
        name="time to quality",
        ratio=statistics.median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        target=TARGET,
        trivium=3600 / statistics.median(times[OURS]),
        baseline=BASELINE,
        baseline_value=3600 / statistics.median(times[BASELINE]),
        unit=f"times an hour to {statistics.median(level):.3f} bits/byte",
        settings=settings | counted | curves | {"turns": len(races), "threads": torch.get_num_threads()},
    )


def arguments() -> argparse.Namespace:
    """The shared flags and this benchmark's own."""
    parser = options(__doc__, turns=1)
    parser.add_argument("--minutes", type=float, default=3.0, help="time of each contestant (default 3)")
    parser.add_argument("--size", choices=list(SHAPES), default="3M", help="non-embedding parameters (default 3M)")
    parser.add_argument("--rate", type=float, default=BEST_RATE, help=f"the plain loop's (default {BEST_RATE:g})")
    parser.add_argument("--sweep", action="store_true", help="find the plain loop's best learning rate first")
    return parser.parse_args()


def main() -> None:
    """Race, once a turn, each with weights of its own."""
    chosen = arguments()
    recipe = PretrainConfig()
    points, rows, minutes, turns = (12, 192, chosen.minutes, chosen.turns)
    if chosen.quick:
        points, rows, minutes, turns = 2, 8, 0.02, 1
        recipe = PretrainConfig(batch_size=4, micro_batch_size=4, seq_len=32)
    budget = 60 * minutes
    context = Context(RunDir("."), seed=0, compute=ComputeConfig())
    context.set_up()
    config = shape(chosen.size, VOCABULARY, recipe.seq_len)
    with tempfile.TemporaryDirectory() as folder:
        loader = corpus(Path(folder), recipe)
        rate, tried = sweep(context, config, loader, budget, rows) if chosen.sweep else (chosen.rate, {})
        steps = budget / pace(trivium(context, recipe, config, loader, 0)[0])
        tokens = int(steps * recipe.batch_size * recipe.seq_len)
        races, compiled = [], ""
        for seed in range(turns):
            ours, compiled = trivium(context, recipe, config, loader, seed, tokens)
            runs = {OURS: Run(ours, budget), BASELINE: Run(plain(context, config, loader, seed, rate), budget)}
            race(runs, loader, rows, points)
            races.append(runs)
    settings = {"minutes": minutes, "size": chosen.size, "batch": recipe.batch_size, "seq_len": recipe.seq_len}
    settings |= {"vocabulary": VOCABULARY, "dtype": str(context.dtype).removeprefix("torch."), "learning rate": rate}
    settings |= {"sweep": tried, "compilation": compiled}
    publish([result(races, settings)], chosen)


if __name__ == "__main__":
    main()
