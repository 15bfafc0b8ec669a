"""One GPU against transformers in the same run: training at 125M and 350M parameters, sampling at 125M.

    make gpu-check
    python benchmarks/gpu.py --sizes 125M --turns 7
    python benchmarks/gpu.py --quick          # small shapes, on any device: does it run?

Training: bf16 over fp32 weights, fused AdamW, compiled on both sides; rows of 1,024 random ids. Model-flops
utilisation counts 6 floating-point operations a parameter and token and 12 a layer, channel and context position (Palm,
arXiv:2204.02311, appendix B, without halving for causality), over the fastest bf16 product measured in the same run.
Sampling: 64-token prompts, 256 new tokens, 256 rows at a time.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from generate import generated, prompts, sampled
from peers import adamw_step, hugging_face, ours
from turns import OURS, Result, Work, options, publish, results, take_turns

from trivium.batch import Batch
from trivium.model import ModelConfig
from trivium.optim import OptimConfig, Optimizer
from trivium.training.losses import micro_losses

SHAPES = {"125M": (768, 12), "350M": (1024, 24), "quick": (64, 2)}
SEQ_LEN, VOCABULARY = 1024, 8192
TRAINING_TARGET, SAMPLING_TARGET = 1.3, 5.0


def shape(size: str) -> ModelConfig:
    width, depth = SHAPES[size]
    return ModelConfig(vocab_size=VOCABULARY, n_layers=depth, d_model=width, max_seq_len=SEQ_LEN)


def random_rows(config: ModelConfig, rows: int, length: int, device: torch.device) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.randint(config.vocab_size, (rows, length), generator=generator).to(device)


def finished(device: torch.device) -> None:
    """Wait for the device: work is only counted when it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def trivium_steps(config: ModelConfig, rows: int, length: int, device: torch.device, compiled: bool) -> Iterator[float]:
    """The steps of `training.Trainer`, without its log and checkpoints."""
    model = ours(config).to(device)
    if compiled:
        model.compile_blocks()
    optimizer = Optimizer(model, OptimConfig(kind="adamw", lr=3e-4, schedule="constant"), 1_000_000)
    positions = torch.arange(length, device=device).expand(rows, -1)
    mask = torch.ones(rows, length, dtype=torch.bool, device=device)
    for step, ids in enumerate(random_rows(config, rows, length, device)):
        batch = Batch(ids=ids, loss_mask=mask, positions=positions)
        for loss in micro_losses(model, batch, rows):
            loss.loss_sum.backward()
        optimizer.step(step, float(mask.sum()))
        yield ids.numel()


def plain_steps(config: ModelConfig, rows: int, length: int, device: torch.device, compiled: bool) -> Iterator[float]:
    """A plain loop over transformers' Llama under autocast."""
    model: Any = hugging_face(config, "llama").to(device)
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), fused=True)
    for ids in random_rows(config, rows, length, device):
        with torch.autocast(device.type, torch.bfloat16):
            loss = forward(ids, labels=ids).loss
        adamw_step(model, optimizer, loss)
        yield ids.numel()


def timed(steps: Iterator[float], times: int, device: torch.device) -> Work:
    """Several steps a turn, to the end of the device's work."""

    def work() -> float:
        tokens = sum(itertools.islice(steps, times))
        finished(device)
        return tokens

    return work


def peak_flops(device: torch.device, size: int) -> float:
    """The fastest of some bf16 products, floating-point operations a second."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(12):
        finished(device)
        began = time.perf_counter()
        for _ in range(8):
            torch.mm(a, b)
        finished(device)
        best = max(best, 8 * 2 * size**3 / (time.perf_counter() - began))
    return best


def model_flops(config: ModelConfig, length: int) -> float:
    """Floating-point operations of training on one token."""
    return 6 * config.parameter_count + 12 * config.n_layers * config.n_heads * config.head_dim * length


def compare_training(size: str, turns: int, quick: bool, device: torch.device, peak: float) -> list[Result]:
    config, rows, length, steps = shape(size), *((2, 64, 1) if quick else (32, SEQ_LEN, 10))
    compiled = device.type == "cuda"
    makers: dict[str, Callable[..., Iterator[float]]] = {OURS: trivium_steps, "transformers llama": plain_steps}
    contestants = {
        name: timed(make(config, rows, length, device, compiled), steps, device) for name, make in makers.items()
    }
    found = take_turns(contestants, turns, warmups=2)
    share = {name: max(rates) * model_flops(config, length) / peak for name, rates in found.items()}
    print(f"{size}: model-flops utilisation " + ", ".join(f"{name} {each:.1%}" for name, each in share.items()))
    settings = {"size": size, "rows": rows, "seq_len": length, "compiled": compiled, "dtype": "bf16"}
    settings |= {"utilisation": round(share[OURS], 4), "peak TFLOP/s": round(peak / 1e12, 1)}
    return results(f"training, {size}", found, "tokens/s", settings, TRAINING_TARGET)


def compare_sampling(turns: int, quick: bool, device: torch.device) -> list[Result]:
    size, batch, new = ("quick", 4, 8) if quick else ("125M", 256, 256)
    config = shape(size)
    rows = prompts(batch, config.vocab_size)
    contestants = {
        OURS: sampled(ours(config).to(device), rows, batch, [], new=new),
        "transformers bf16": generated(config, torch.bfloat16, rows, batch, [], new=new, device=device),
    }
    settings = {"size": size, "batch": batch, "prompt": 64, "new": new, "dtype": "bf16"}
    return results(f"sampling, {size}", take_turns(contestants, turns), "tokens/s", settings, SAMPLING_TARGET)


def main() -> None:
    """Compare on the GPU, or with --quick wherever there is something to compute on."""
    parser = options(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=["125M", "350M"], default=["125M", "350M"])
    chosen = parser.parse_args()
    if not (chosen.quick or torch.cuda.is_available()):
        parser.exit(2, "gpu.py: torch finds no CUDA device here. See that it runs with --quick.\n")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = peak_flops(device, 512 if chosen.quick else 8192)
    print(json.dumps({"device": str(device), "peak_tflops": round(peak / 1e12, 2)}))
    turns = 2 if chosen.quick else chosen.turns
    found: list[Result] = []
    for size in ["quick"] if chosen.quick else chosen.sizes:
        found += compare_training(size, turns, chosen.quick, device, peak)
    found += compare_sampling(turns, chosen.quick, device)
    publish(found, chosen)


if __name__ == "__main__":
    main()
