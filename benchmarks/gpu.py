"""One GPU against transformers and TRL in the same run: training at 125M and 350M parameters, sampling and PPO at 125M.

    make gpu-check
    python benchmarks/gpu.py --sizes 125M --parts training --turns 7
    python benchmarks/gpu.py --quick          # small shapes, on any device: does it run?

Training: bf16 over fp32 weights, fused AdamW, compiled on both sides; rows of 1,024 random ids. Ours trains once more
on rows of packed documents that are kept apart, and, where the device has them, with products in fp8; both are compared
with its whole rows in bf16. Model-flops utilisation counts 6 floating-point operations a parameter and token and 12 a
layer, channel and context position (Palm, arXiv:2204.02311, appendix B, without halving for causality), over the
fastest bf16 product measured in the same run. Sampling: 64-token prompts, 256 new tokens, 256 rows at a time. PPO: an
iteration as `rlhf.py` has it, 256 prompts of 128 tokens with as many new ones.
"""

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from generate import generated, prompts, sampled
from peers import GPU_SHAPES, adamw_step, hugging_face, ours, shape
from plain_rlhf import Amounts
from rlhf import MODULES, PARTS, PLAIN, QUICK
from trl_peers import missing
from turns import OURS, Result, Work, options, publish, results, take_turns

from trivium.base.machine import tune_allocator
from trivium.batch import Batch
from trivium.model import ModelConfig
from trivium.model.fp8 import supported
from trivium.optim import OptimConfig, Optimizer
from trivium.training.losses import micro_losses

SEQ_LEN, VOCABULARY = 1024, 8192
TRAINING_TARGET, SAMPLING_TARGET, PPO_TARGET = 1.3, 5.0, 3.0
LLAMA, PACKED, FP8 = "transformers llama", "packed documents", "fp8"
COMPARED = ("training", "sampling", "ppo")
DOCUMENTS = (0.4, 0.1, 0.3, 0.2)
"""Their shares of a packed row."""


def random_rows(config: ModelConfig, rows: int, length: int, device: torch.device) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.randint(config.vocab_size, (rows, length), generator=generator).to(device)


def finished(device: torch.device) -> None:
    """Wait for the device: work is only counted when it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def documents(length: int) -> torch.Tensor:
    """(T,) positions of a row packed with four documents."""
    ends = [round(length * share) for share in itertools.accumulate(DOCUMENTS)]
    return torch.cat([torch.arange(end - start) for start, end in itertools.pairwise([0, *ends])])


def trivium_steps(
    config: ModelConfig, rows: int, length: int, device: torch.device, compiled: bool, packed: bool, fp8: bool
) -> Iterator[float]:
    """The steps of `training.Trainer`, without its log and checkpoints."""
    model = ours(config).to(device)
    if fp8:
        model.train_in_fp8()
    if compiled:
        model.compile_blocks()
    optimizer = Optimizer(model, OptimConfig(kind="adamw", lr=3e-4, schedule="constant"), 1_000_000)
    positions = (documents(length) if packed else torch.arange(length)).to(device).expand(rows, -1)
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
    rows, length, steps = (2, 64, 1) if quick else (32, SEQ_LEN, 10)
    config, compiled = shape(size, VOCABULARY, SEQ_LEN), device.type == "cuda"
    fp8 = supported(device) or quick  # a CPU has these products too, slow ones
    makers = {
        OURS: trivium_steps(config, rows, length, device, compiled, packed=False, fp8=False),
        LLAMA: plain_steps(config, rows, length, device, compiled),
        PACKED: trivium_steps(config, rows, length, device, compiled, packed=True, fp8=False),
    }
    if fp8:
        makers[FP8] = trivium_steps(config, rows, length, device, compiled, packed=False, fp8=True)
    rates = take_turns({name: timed(each, steps, device) for name, each in makers.items()}, turns, warmups=2)
    share = {name: max(each) * model_flops(config, length) / peak for name, each in rates.items()}
    print(f"{size}: model-flops utilisation " + ", ".join(f"{name} {each:.1%}" for name, each in share.items()))
    settings = {"size": size, "rows": rows, "seq_len": length, "compiled": compiled, "dtype": "bf16"}
    settings |= {"utilisation": round(share[OURS], 4), "peak TFLOP/s": round(peak / 1e12, 1)}
    name = f"training, {size}"
    found = results(name, {each: rates[each] for each in (OURS, LLAMA)}, "tokens/s", settings, TRAINING_TARGET)
    for variant in (each for each in rates if each not in (OURS, LLAMA)):
        own = {OURS: rates[variant], "trivium, whole rows in bf16": rates[OURS]}
        found += results(f"{name}, {variant}", own, "tokens/s", settings | {"utilisation": round(share[variant], 4)})
    return found


def compare_sampling(turns: int, quick: bool, device: torch.device) -> list[Result]:
    size, batch, new = ("3M", 4, 8) if quick else ("125M", 256, 256)
    config = shape(size, VOCABULARY, SEQ_LEN)
    rows = prompts(batch, config.vocab_size)
    contestants = {
        OURS: sampled(ours(config).to(device), rows, batch, [], new=new),
        "transformers bf16": generated(config, torch.bfloat16, rows, batch, [], new=new, device=device),
    }
    settings = {"size": size, "batch": batch, "prompt": 64, "new": new, "dtype": "bf16"}
    return results(f"sampling, {size}", take_turns(contestants, turns), "tokens/s", settings, SAMPLING_TARGET)


def compare_ppo(turns: int, quick: bool, device: torch.device) -> tuple[list[Result], list[str]]:
    """The plain loop on the same device, and TRL where it is installed; what was left out and why."""
    amounts = replace(QUICK, device=device.type)
    if not quick:
        amounts = Amounts(size="125M", prompts=256, length=128, micro_rows=64, device=device.type)
    name, unit, trivium, plain, trl = PARTS["ppo"]
    contestants: dict[str, Work] = {OURS: trivium(amounts), PLAIN: plain(amounts)}
    why_not = missing(MODULES["ppo"])
    if why_not is None:
        contestants |= {baseline: make(amounts) for baseline, make in trl.items()}
    settings = vars(amounts) | {"vocabulary": amounts.vocab_size, "dtype": "bf16"}
    found = results(f"{name}, {amounts.size}", take_turns(contestants, turns), unit, settings, PPO_TARGET)
    return found, [f"{name}, {baseline}: {why_not}" for baseline in trl if why_not]


def main() -> None:
    """Compare on the GPU, or with --quick wherever there is something to compute on."""
    parser = options(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(GPU_SHAPES), default=list(GPU_SHAPES), help="to train")
    parser.add_argument("--parts", nargs="+", choices=COMPARED, default=COMPARED)
    chosen = parser.parse_args()
    if not (chosen.quick or torch.cuda.is_available()):
        parser.exit(2, "gpu.py: torch finds no CUDA device here. See that it runs with --quick.\n")
    tune_allocator()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = peak_flops(device, 512 if chosen.quick else 8192)
    print(json.dumps({"device": str(device), "peak_tflops": round(peak / 1e12, 2)}))
    turns = 2 if chosen.quick else chosen.turns
    found: list[Result] = []
    left_out: list[str] = []
    if "training" in chosen.parts:
        for size in ["3M"] if chosen.quick else chosen.sizes:
            found += compare_training(size, turns, chosen.quick, device, peak)
    if "sampling" in chosen.parts:
        found += compare_sampling(turns, chosen.quick, device)
    if "ppo" in chosen.parts:
        compared, left_out = compare_ppo(turns, chosen.quick, device)
        found += compared
    publish(found, chosen, left_out)


if __name__ == "__main__":
    main()
