"""Which pretraining recipe learns most from the same tokens, and whether it stays the best when the model grows.

    python benchmarks/tuning.py docs/studies/pretraining.jsonl
    python scripts/pretraining_page.py docs/studies/pretraining.jsonl docs/studies
    python benchmarks/tuning.py --quick

Models of the size dial (`model.depth`) learn from the running Python's standard library, a tenth of its modules held
out by name. A run is one choice that departs from the recipe; all see the same number of tokens and are measured on the
same held-out rows. Rates are multipliers of the default recipe's; AdamW's falls with the root of the width, as the dial
has it: where that rule is right the best multiplier is the same at every depth. Rows are appended as runs end, and runs
that the file has are not done again.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from time_to_quality import corpus
from turns import versions

from trivium.base.log import say
from trivium.base.machine import tune_allocator
from trivium.base.recipe import load_config
from trivium.data.loader import CorpusLoader
from trivium.model import Decoder, ModelConfig
from trivium.optim import OptimConfig, Optimizer
from trivium.runs import RunDir
from trivium.stages.dial import PRETRAIN_FACTOR, width_factor
from trivium.stages.pipeline import Recipe
from trivium.stages.pretrain import PretrainConfig, heldout_bits_per_byte
from trivium.stages.stage import ComputeConfig, Context
from trivium.training.losses import micro_losses

VOCABULARY, SEQ_LEN, ROWS, TOKENS = 2048, 128, 32, 524_288
MULTIPLIERS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
RAMP = ((0.125, 4), (0.25, 2))
"""Up to this share of the tokens, the batch is this many times smaller."""
POINTS = 4
"""Measurements of a run."""


@dataclass(frozen=True)
class Trial:
    """One run: the default recipe, but for what is given."""

    part: str
    label: str
    depth: int
    seed: int = 0
    muon: float = 1.0
    """Multiplier of Muon's rate."""
    adamw: float = 1.0
    """Multiplier of AdamW's rate; of all rates where AdamW takes all."""
    optimizer: Literal["muon", "adamw"] = "muon"
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    decay_fraction: float = 0.5
    qk_norm: bool = True
    zero_init: bool = True
    grouped: int = 1
    """Query heads that share a key/value head."""
    rows: int = ROWS
    ramp: bool = False
    tie: bool = True
    tokens: int = TOKENS

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What tells runs apart."""
        return self.part, self.label, self.depth, self.seed


def adamw_sweep(depth: int, multipliers: Sequence[float], seed: int = 0) -> Iterator[Trial]:
    """AdamW's rate, Muon's as it is."""
    for factor in multipliers:
        yield Trial("adamw rate", f"{factor:g}", depth, seed, adamw=factor)


def muon_sweep(depth: int, multipliers: Sequence[float]) -> Iterator[Trial]:
    """Muon's rate, AdamW's at what the dial takes; 1 is in the other sweep."""
    for factor in multipliers:
        yield Trial("muon rate", f"{factor:g}", depth, muon=factor, adamw=PRETRAIN_FACTOR)


def whole(depth: int, multipliers: Sequence[float]) -> Iterator[Trial]:
    """AdamW's rate in a training as long as the dial's, with its batch."""
    pretrain = load_config(Recipe, None, ["--model.depth", str(depth)]).pretrain
    tokens = pretrain.steps * pretrain.batch_size * pretrain.seq_len
    for factor in multipliers:
        yield Trial("whole", f"{factor:g}", depth, adamw=factor, rows=pretrain.batch_size, tokens=tokens)


def choices(depth: int, seed: int) -> Iterator[Trial]:
    """One departure from the dial's recipe each, and AdamW alone at several rates."""

    def departure(label: str, adamw: float = PRETRAIN_FACTOR, **changes: Any) -> Trial:
        return Trial("choices", label, depth, seed, adamw=adamw, **changes)

    yield departure("the recipe")
    yield departure("AdamW alone, rate x1", 1.0, optimizer="adamw")
    yield departure("branches not zero at first", zero_init=False)
    yield departure("no QK-norm", qk_norm=False)
    yield departure("cosine", schedule="cosine", decay_fraction=1.0)
    yield departure("AdamW alone, rate x2", 2.0, optimizer="adamw")
    yield departure("linear over all steps", decay_fraction=1.0)
    yield departure("linear over the last fifth", decay_fraction=0.2)
    yield departure("constant", schedule="constant")
    yield departure("batch ramp", ramp=True)
    yield departure("half the batch", rows=ROWS // 2)
    yield departure("twice the batch", rows=2 * ROWS)
    yield departure("a head of its own", tie=False)
    if depth % 2 == 0:
        yield departure("two query heads a key head", grouped=2)


def plan() -> Iterator[Trial]:
    """All runs, those first without which the study says nothing."""
    for depth in (2, 3):
        yield from adamw_sweep(depth, (0.25, *MULTIPLIERS))
    yield from adamw_sweep(1, MULTIPLIERS[1:])
    yield from choices(1, 0)
    yield from choices(2, 0)
    yield from whole(1, (4.0, 8.0, 16.0))
    for depth in (1, 2, 3):
        yield from adamw_sweep(depth, (32.0, 64.0))
    for depth, seed in ((1, 1), (1, 2), (2, 1), (2, 2)):
        yield from adamw_sweep(depth, (8.0, 32.0, 16.0, 4.0), seed)
    yield from choices(1, 1)
    yield from choices(1, 2)
    yield from adamw_sweep(4, (8.0, 16.0, 32.0, 4.0))
    for depth in (1, 2, 3):
        yield from muon_sweep(depth, (0.5, 2.0))
    yield from choices(2, 1)


def build(trial: Trial, context: Context, vocab_size: int, seq_len: int) -> Decoder:
    """The model of a trial with its first weights."""
    shape = ModelConfig(
        depth=trial.depth,
        vocab_size=vocab_size,
        max_seq_len=seq_len,
        family="qwen3" if trial.qk_norm else "llama",
        n_kv_heads=trial.depth // trial.grouped,
        tie_embeddings=trial.tie,
    )
    model, generator = Decoder(shape), torch.Generator().manual_seed(trial.seed)
    model.initialise(generator)
    if not trial.zero_init:  # GPT-2's
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    scale = 0.02 / (2 * shape.n_layers) ** 0.5
                    weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return context.place(model)


def optimiser(trial: Trial, d_model: int) -> OptimConfig:
    """The default recipe's, with rates by width times the trial's multipliers."""
    recipe = PretrainConfig().optim
    return recipe.model_copy(
        update={
            "kind": trial.optimizer,
            "lr": recipe.lr * width_factor(d_model) * trial.adamw,
            "muon_lr": recipe.muon_lr * trial.muon,
            "schedule": trial.schedule,
            "decay_fraction": trial.decay_fraction,
        }
    )


def batches(trial: Trial, tokens: int, seq_len: int) -> list[int]:
    """Rows of each step."""
    rows, left = [], tokens // seq_len
    total = left
    while left > 0:
        done = 1 - left / total
        smaller = next((factor for share, factor in RAMP if done < share), 1) if trial.ramp else 1
        rows.append(min(trial.rows // smaller, left))
        left -= rows[-1]
    return rows


def run(trial: Trial, context: Context, loader: CorpusLoader, tokens: int, held_out: int) -> dict[str, Any]:
    """Train, and what came out."""
    began = time.process_time()
    model = build(trial, context, len(loader.corpus.token_bytes), loader.seq_len)
    optim, sizes = optimiser(trial, model.config.d_model), batches(trial, tokens, loader.seq_len)
    optimizer = Optimizer(model, optim, len(sizes))
    loaders = {size: CorpusLoader(loader.corpus, "train", loader.seq_len, size, trial.seed) for size in set(sizes)}
    curve: list[tuple[int, float]] = []
    seen, number = 0, dict.fromkeys(loaders, 0)
    for step, size in enumerate(sizes):
        batch, count = loaders[size].batch(number[size]), 0.0
        number[size] += 1
        for loss in micro_losses(model, batch, 32):
            loss.loss_sum.backward()
            count += float(loss.count)
        optimizer.step(step, count)
        seen += batch.ids.numel()
        if seen * POINTS // tokens > len(curve) or step == len(sizes) - 1:
            [value] = heldout_bits_per_byte(model, loader, held_out).values()
            curve.append((seen, round(value, 5)))
    return {
        "part": trial.part,
        "label": trial.label,
        "depth": trial.depth,
        "seed": trial.seed,
        "parameters": model.parameter_count(),
        "tokens": seen,
        "steps": len(sizes),
        "lr": optim.lr,
        "muon_lr": optim.muon_lr,
        "bits_per_byte": curve[-1][1],
        "curve": curve,
        "cpu_seconds": round(time.process_time() - began, 1),
        "dtype": str(context.dtype).removeprefix("torch."),
        "torch": versions()["torch"],
    }


def main() -> None:
    """Train what the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="rows are read from and appended to it")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so many")
    parser.add_argument("--quick", action="store_true", help="a few steps of the smallest: does it run?")
    chosen = parser.parse_args()
    done = set()
    if chosen.file and chosen.file.exists():
        rows = [json.loads(line) for line in chosen.file.read_text().splitlines()]
        done = {(row["part"], row["label"], row["depth"], row["seed"]) for row in rows}
    tune_allocator()
    context = Context(RunDir("."), seed=0, compute=ComputeConfig())
    context.set_up()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        recipe = PretrainConfig(batch_size=ROWS, micro_batch_size=ROWS, seq_len=SEQ_LEN)
        loader = corpus(Path(folder), recipe, VOCABULARY)
        trials = list(choices(2, 0)) if chosen.quick else list(plan())
        for trial in trials:
            if trial.key in done or time.monotonic() - began > 60 * chosen.minutes:
                continue
            done.add(trial.key)
            row = run(trial, context, loader, *((16_384, 8) if chosen.quick else (trial.tokens, 192)))
            say(f"depth {trial.depth}, {trial.part}: {trial.label}: {row['bits_per_byte']} ({row['cpu_seconds']} s)")
            if chosen.file and not chosen.quick:
                with chosen.file.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
