"""Tokens a second of a training step, against transformers' Llama and Qwen3 and a plain PyTorch GPT-2.

    python benchmarks/train.py
    python benchmarks/train.py --sizes 10M --turns 9

All train in bf16 over fp32 weights with fused AdamW on the same rows of Python source. Trivium keeps the documents of a
row apart; the others attend over the whole row, which is less work for them than a mask. Trivium's blocks are compiled,
as in any training of more than some minutes, which takes place before the turns; without that it is a contestant too.
The others run as they are.
"""

import itertools
from collections.abc import Iterator

import torch
from peers import SHAPES, PlainGPT, hugging_face, ours, plain_steps, products, shape
from texts import loader
from turns import OURS, Result, Work, options, publish, results, take_turns

from trivium.base.machine import tune_allocator
from trivium.data.loader import CorpusLoader
from trivium.model import ModelConfig
from trivium.optim import OptimConfig, Optimizer
from trivium.training.losses import micro_losses

TARGETS = {"3M": 2.0, "10M": 1.4, "30M": 1.4}
SEQ_LEN = 512


def trivium_steps(config: ModelConfig, rows: CorpusLoader, compiled: bool) -> Iterator[float]:
    """The steps of `training.Trainer`, without its log and checkpoints; reading the batch included."""
    model = ours(config)
    if compiled:
        model.compile_blocks()
    optimizer = Optimizer(model, OptimConfig(lr=3e-4, schedule="constant"), 1_000_000)
    for step in itertools.count():
        batch = rows.batch(step)
        for loss in micro_losses(model, batch, len(batch.ids)):
            loss.loss_sum.backward()
        optimizer.step(step, float(batch.loss_mask.sum()))
        yield batch.ids.numel()


def repeated(steps: Iterator[float], times: int) -> Work:
    """Several steps a turn."""
    return lambda: sum(itertools.islice(steps, times))


def compare(size: str, batch_size: int, turns: int, steps: int) -> list[Result]:
    config, rows = shape(size, max_seq_len=SEQ_LEN), loader(SEQ_LEN, batch_size)
    contestants = {
        OURS: repeated(trivium_steps(config, rows, compiled=True), steps),
        "trivium, eager": repeated(trivium_steps(config, rows, compiled=False), steps),
    }
    for family in ("llama", "qwen3"):
        ids = (rows.batch(step).ids for step in itertools.count())
        contestants[f"transformers {family}"] = repeated(plain_steps(hugging_face(config, family), ids), steps)
    ids = (rows.batch(step).ids for step in itertools.count())
    contestants["plain PyTorch GPT-2"] = repeated(plain_steps(PlainGPT(config), ids), steps)
    settings = {"size": size, "batch": batch_size, "seq_len": SEQ_LEN, "vocabulary": 4096, "dtype": "bf16"}
    found = take_turns(contestants, turns, warmups=2)
    return results(f"training, {size}", found, "tokens/s", settings, TARGETS[size], 3 * products(config, 1, 1))


def main() -> None:
    """Compare at every size."""
    parser = options(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    chosen = parser.parse_args()
    tune_allocator()
    torch.manual_seed(0)
    found: list[Result] = []
    for size in chosen.sizes[:1] if chosen.quick else chosen.sizes:
        batch, turns, steps = (2, 2, 1) if chosen.quick else (8, chosen.turns, 6 if size == "3M" else 2)
        found += compare(size, batch, turns, steps)
    publish(found, chosen)


if __name__ == "__main__":
    main()
