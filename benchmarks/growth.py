"""What a training step costs as rows, batch and model grow, in time and in memory, against transformers' Llama.

    python benchmarks/growth.py
    python benchmarks/growth.py --series sequence --turns 5

Each measurement is a process of its own, so that its largest resident set is its own too; contestants take turns. Both
train in bf16 over fp32 weights with fused AdamW, without compilation, on the same random ids, with Trivium's settings
of the allocator (`--plain-allocator` leaves them out of the other's process). Trivium keeps documents of 400 tokens
apart. Memory is the largest resident set less what was resident before the model was made, when a toy model had been
trained a step and all libraries were loaded: weights, gradients, moments, activations. On one thread seconds are those
of the processor, which other work on the machine does not lengthen. GFLOP/s are those of the model (6 a parameter and
token, 12 a layer, channel and context position), so that a cliff shows as a fall between neighbours.
"""

import argparse
import gc
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from peers import SHAPES, hugging_face, ours, plain_steps
from torch import Tensor
from turns import OURS, Result, options, publish, results

from trivium.base.machine import tune_allocator
from trivium.batch import Batch
from trivium.model import ModelConfig
from trivium.optim import OptimConfig, Optimizer
from trivium.training.losses import micro_losses

PEER = "transformers llama"
SIZES = {"1M": (128, 5), **SHAPES, "100M": (768, 14)}
"""Width and depth by non-embedding parameters."""
TOY = {"toy": (64, 1)}
VOCABULARY, DOCUMENT = 4096, 400
MEMORY_TARGET = 1.0
"""Of the peer's peak over ours."""


@dataclass(frozen=True)
class Point:
    """A shape of a step."""

    series: str
    size: str
    batch: int
    seq_len: int

    @property
    def label(self) -> str:
        """Where it stands in its series."""
        return {"sequence": f"{self.seq_len} tokens", "batch": f"{self.batch} rows"}.get(self.series, self.size)


SERIES = {
    "sequence": [Point("sequence", "3M", 4096 // length, length) for length in (128, 256, 512, 1024, 2048)],
    "batch": [Point("batch", "3M", rows, 256) for rows in (1, 4, 16, 64)],
    "parameters": [Point("parameters", size, 4, 512) for size in SIZES],
}


def shape(point: Point) -> ModelConfig:
    """The architecture of both."""
    width, depth = (SIZES | TOY)[point.size]
    return ModelConfig(vocab_size=VOCABULARY, n_layers=depth, d_model=width, max_seq_len=point.seq_len)


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Of the model, forward and backward."""
    return 6 * config.parameter_count + 12 * config.n_layers * config.d_model * seq_len


def random_rows(point: Point) -> Iterator[Tensor]:
    """The same ids for both."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.randint(VOCABULARY, (point.batch, point.seq_len), generator=generator)


def trivium_steps(config: ModelConfig, point: Point) -> Iterator[float]:
    """The steps of `training.Trainer`, without its log and checkpoints."""
    model = ours(config)
    optimizer = Optimizer(model, OptimConfig(lr=3e-4, schedule="constant"), 1_000_000)
    positions = (torch.arange(point.seq_len) % DOCUMENT).expand(point.batch, -1)
    for step, ids in enumerate(random_rows(point)):
        for loss in micro_losses(model, Batch(ids, positions > 0, positions), point.batch):
            loss.loss_sum.backward()
        optimizer.step(step, float(ids.numel()))
        yield ids.numel()


def training(name: str, point: Point) -> Iterator[float]:
    """A contestant's steps, and the tokens of each."""
    config = shape(point)
    return (
        trivium_steps(config, point) if name == OURS else plain_steps(hugging_face(config, "llama"), random_rows(point))
    )


def measure(name: str, point: Point, seconds: float, tuned: bool) -> dict[str, float]:
    """Tokens a second and the peak of memory, in this process."""
    if tuned:
        tune_allocator()
    toy = Point("", "toy", 2, 16)
    next(training(name, toy))
    gc.collect()
    before = psutil.Process().memory_info().rss
    steps = training(name, point)
    rates: list[float] = []
    next(steps)  # which allocates
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    end = clock() + seconds
    while len(rates) < 2 or clock() < end:
        began = clock()
        rates.append(next(steps) / (clock() - began))
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"rate": statistics.median(rates), "memory": (peak - before) / 1e9}


def in_a_process(name: str, point: Point, seconds: float, tuned: bool) -> dict[str, float]:
    """`measure` in a process of its own.

    Raises:
        RuntimeError: it failed, for want of memory for instance.
    """
    task = json.dumps({"name": name, "point": asdict(point), "seconds": seconds, "tuned": tuned})
    threads = str(torch.get_num_threads())
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), "--child", task, threads], capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"])[-1]
        raise RuntimeError(last)
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(point: Point, turns: int, seconds: float, tuned: bool) -> list[Result]:
    """Speed and memory at a point, two results."""
    found: dict[str, list[dict[str, float]]] = {OURS: [], PEER: []}
    for _, name in itertools.product(range(turns), found):
        found[name].append(in_a_process(name, point, seconds, tuned or name == OURS))
    config = shape(point)
    settings: dict[str, Any] = asdict(point) | {"vocabulary": VOCABULARY, "dtype": "bf16", "peer's allocator": tuned}
    settings |= {"clock": "processor" if torch.get_num_threads() == 1 else "wall"}
    settings |= {"parameters": config.parameter_count, "flops a token": flops_per_token(config, point.seq_len)}
    rates = {name: [each["rate"] for each in rows] for name, rows in found.items()}
    inverse = {name: [1 / max(each["memory"], 1e-3) for each in rows] for name, rows in found.items()}
    name = f"{point.series}, {point.label}"
    return [
        *results(f"growth with {name}", rates, "tokens/s", settings),
        *results(f"peak memory with {name}", inverse, "1/GB", settings, MEMORY_TARGET),
    ]


def growth_table(pairs: list[tuple[Result, Result]]) -> str:
    """Speed and memory side by side, as Markdown."""
    lines = ["| | tokens/s | GFLOP/s | peer's tokens/s | ratio | GB | peer's GB | ratio of memory |"]
    lines.append("|---|" + "---:|" * 7)
    for speed, memory in pairs:
        gflops = speed.trivium * speed.settings["flops a token"] / 1e9
        ours_gb, peer_gb = 1 / memory.trivium, 1 / memory.baseline_value
        spread = f"{speed.ratio:.2f} ({speed.ratio_min:.2f} to {speed.ratio_max:.2f})"
        lines.append(
            f"| {speed.name.removeprefix('growth with ')} | {speed.trivium:,.0f} | {gflops:.0f} | "
            f"{speed.baseline_value:,.0f} | {spread} | {ours_gb:.2f} | {peer_gb:.2f} | {1 / memory.ratio:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Every point of every series; or one measurement, for the process above."""
    if sys.argv[1:2] == ["--child"]:
        torch.set_num_threads(int(sys.argv[3]))
        task = json.loads(sys.argv[2])
        print(json.dumps(measure(task["name"], Point(**task["point"]), task["seconds"], task["tuned"])))
        return
    parser = options(__doc__, turns=2)
    parser.add_argument("--series", nargs="+", choices=list(SERIES), default=list(SERIES))
    parser.add_argument("--plain-allocator", action="store_true", help="the other's process keeps glibc's defaults")
    chosen: argparse.Namespace = parser.parse_args()
    points = [point for name in chosen.series for point in SERIES[name]]
    turns, seconds = (chosen.turns, 4.0)
    if chosen.quick:
        points, turns, seconds = [Point("parameters", "1M", 2, 64)], 1, 0.0
    pairs, left_out = [], []
    for point in points:
        try:
            speed, memory = compare(point, turns, seconds, not chosen.plain_allocator)
        except RuntimeError as error:
            left_out.append(f"{point.series}, {point.label}: {error}")
            continue
        pairs.append((speed, memory))
        print(growth_table(pairs).splitlines()[-1], flush=True)
    print(growth_table(pairs))
    publish([each for pair in pairs for each in pair], chosen, left_out)


if __name__ == "__main__":
    main()
