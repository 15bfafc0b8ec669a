"""How fast the parts of the quickstart are on this machine: encoding, training, sampling, running programs.

    python benchmarks/bench_quick.py
    python benchmarks/bench_quick.py --repeats 9 --json

Each figure is the median of several repeats after one warm-up, with the spread. Random weights and built-in data:
the figures say nothing about what a model learns.
"""

import argparse
import json
import statistics
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import torch

from trivium.base.machine import bf16_speedup, tune_allocator
from trivium.data import batches
from trivium.generation import generate
from trivium.model import Decoder
from trivium.optim import Optimizer
from trivium.sandbox import Job, Sandbox
from trivium.stages.pipeline import Recipe
from trivium.tokenizer import Tokenizer
from trivium.training.losses import micro_losses


def measure(work: Callable[[], float], repeats: int) -> dict[str, float]:
    """Amount of work a second, `work` returning its amount."""
    work()
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        amount = work()
        rates.append(amount / (time.perf_counter() - began))
    return {"median": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}


def bench_tokenizer(texts: list[str], tokenizer: Tokenizer, repeats: int) -> dict[str, float]:
    megabytes = sum(len(text.encode()) for text in texts) / 1e6

    def work() -> float:
        tokenizer.encode_arrays(texts)
        return megabytes

    return measure(work, repeats)


def bench_training(model: Decoder, texts: list[str], tokenizer: Tokenizer, repeats: int) -> dict[str, float]:
    recipe = Recipe().pretrain
    rows = list(batches(texts, tokenizer, recipe.batch_size, recipe.seq_len, seed=0, steps=repeats + 1))
    optimizer = Optimizer(model, recipe.optim, repeats + 1)
    steps = iter(range(repeats + 1))

    def work() -> float:
        step = next(steps)
        for loss in micro_losses(model, rows[step], recipe.micro_batch_size):
            loss.loss_sum.backward()
        optimizer.step(step, float(rows[step].loss_mask.sum()))
        return recipe.batch_size * recipe.seq_len

    return measure(work, repeats)


def bench_generation(model: Decoder, tokenizer: Tokenizer, rows: int, repeats: int) -> dict[str, float]:
    prompt = tokenizer.encode("def mean(numbers):\n")

    def work() -> float:
        samples = generate(model, [prompt] * rows, seeds=range(rows), max_new_tokens=64, stop_ids=[])
        return sum(len(sample.ids) for sample in samples)

    return measure(work, repeats)


def bench_sandbox(repeats: int) -> dict[str, float]:
    jobs = [Job(f"def f(x):\n    return x + {number}\n", (f"assert f(1) == {number + 1}",)) for number in range(100)]
    with Sandbox(workers=2, minimum="limited") as sandbox:

        def work() -> float:
            assert all(result.passed for result in sandbox.run_many(jobs))
            return len(jobs)

        return measure(work, repeats)


def main() -> None:
    """Run all benchmarks and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tune_allocator()
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.glob("*.py"))]
    tokenizer = Tokenizer.train(texts, vocab_size=2048)
    model = Decoder(Recipe().model.model_copy(update={"vocab_size": tokenizer.vocab_size}))
    model.initialise(torch.Generator().manual_seed(0))
    model.compute_dtype = torch.bfloat16 if bf16_speedup() > 1.3 else torch.float32
    repeats = options.repeats
    figures = {"encoding, MB/s": bench_tokenizer(texts, tokenizer, repeats)}
    figures["training, tokens/s"] = bench_training(model, texts, tokenizer, repeats)
    for rows in (1, 16, 256):
        figures[f"sampling {rows} at a time, tokens/s"] = bench_generation(model, tokenizer, rows, repeats)
    figures["sandbox, programs/s"] = bench_sandbox(repeats)
    about = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": str(model.compute_dtype).removeprefix("torch."),
        "parameters": model.parameter_count(),
        "repeats": repeats,
    }
    if options.json:
        print(json.dumps({"about": about, "figures": figures}, indent=2))
        return
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    for name, rates in figures.items():
        print(f"{name:<32} {rates['median']:>10.1f}  ({rates['lowest']:.1f} to {rates['highest']:.1f})")


if __name__ == "__main__":
    main()
