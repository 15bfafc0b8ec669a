"""Sampled tokens a second, against transformers' `generate` in bf16 and in fp32: the faster of the two counts.

    python benchmarks/generate.py
    python benchmarks/generate.py --batches 1 256

64-token prompts, all different, and 64 new tokens. Then responses that end where they end: random weights draw all ids
about alike often, so a few dozen of them, taken as end tokens, make lengths geometric, cut at 64; there the engine is
also measured against itself with static batches. At last the time to the first token.
"""

import random
from collections.abc import Sequence

import torch
from peers import hugging_face, ours, products, shape
from turns import OURS, Result, Work, options, publish, results, take_turns

from trivium.base.machine import tune_allocator
from trivium.generation import generate
from trivium.model import Decoder, ModelConfig

TARGETS = {1: 2.5, 16: 4.0, 64: 5.0, 256: 5.0}
UNEVEN_TARGET = 1.7
PROMPT = NEW = 64
MEAN_LENGTH = 36
"""Of a response that the cap does not cut."""


def prompts(count: int, vocab_size: int) -> list[list[int]]:
    """Random ids: what is said does not matter for speed."""
    rng = random.Random(0)
    return [[rng.randrange(vocab_size) for _ in range(PROMPT)] for _ in range(count)]


def sampled(
    model: Decoder, rows: list[list[int]], batch: int, stops: Sequence[int], new: int = NEW, static: bool = False
) -> Work:
    """Trivium's engine; `static` hands it one batch at a time, so that no row is replaced before all have ended."""

    def draw(part: list[list[int]]) -> int:
        found = generate(
            model, part, seeds=range(len(part)), max_new_tokens=new, stop_ids=stops, temperature=1.0, batch_size=batch
        )
        return sum(len(sample.ids) for sample in found)

    def work() -> float:
        return sum(draw(rows[at : at + batch]) for at in range(0, len(rows), batch)) if static else draw(rows)

    return work


def generated(
    config: ModelConfig,
    dtype: torch.dtype,
    rows: list[list[int]],
    batch: int,
    stops: Sequence[int],
    new: int = NEW,
    device: torch.device | None = None,
) -> Work:
    """The `generate` of transformers with its dynamic cache, sampling from the whole distribution.

    Padding after an end does not count.
    """
    model = hugging_face(config, "qwen3", dtype).to(device).eval()
    ids, ends = torch.tensor(rows, device=device), torch.tensor(stops, dtype=torch.long, device=device)

    def work() -> float:
        tokens = 0
        with torch.inference_mode():
            for part in ids.split(batch):
                out = model.generate(
                    part,
                    attention_mask=torch.ones_like(part),
                    max_new_tokens=new,
                    do_sample=True,
                    top_k=0,
                    temperature=1.0,
                    eos_token_id=list(stops) or None,
                    pad_token_id=0,
                )[:, PROMPT:]
                ended_before = torch.isin(out, ends).cumsum(1) - torch.isin(out, ends).long()
                tokens += int((ended_before == 0).sum())
        return tokens

    return work


def compare(batch: int, turns: int, size: str) -> list[Result]:
    config = shape(size)
    rows = prompts(batch, config.vocab_size)
    contestants = {OURS: sampled(ours(config), rows, batch, [])}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        contestants[f"transformers {name}"] = generated(config, dtype, rows, batch, [])
    settings = {"size": size, "batch": batch, "prompt": PROMPT, "new": NEW, "dtype": "bf16"}
    gflop = products(config, PROMPT + NEW - 1, NEW) / NEW
    found = take_turns(contestants, turns)
    return results(f"sampling, batch {batch}", found, "tokens/s", settings, TARGETS[batch], gflop)


def compare_uneven(count: int, batch: int, turns: int, size: str) -> list[Result]:
    """Responses that end where they end: Trivium's rows are replaced at once, static batches wait for their longest."""
    config = shape(size)
    rows = prompts(count, config.vocab_size)
    stops = list(range(round(config.vocab_size / MEAN_LENGTH)))
    model = ours(config)
    contestants = {
        OURS: sampled(model, rows, batch, stops),
        "trivium, static": sampled(model, rows, batch, stops, static=True),
        "transformers bf16, static": generated(config, torch.bfloat16, rows, batch, stops),
    }
    settings = {"size": size, "batch": batch, "prompts": count, "prompt": PROMPT, "new": f"1 to {NEW}", "dtype": "bf16"}
    found = take_turns(contestants, turns)
    return results(f"sampling, uneven lengths, batch {batch}", found, "tokens/s", settings, UNEVEN_TARGET)


def compare_first(turns: int, size: str) -> list[Result]:
    """Time to the first token of one prompt, as its inverse: prompts a second with one new token each."""
    config = shape(size)
    rows = prompts(8, config.vocab_size)
    contestants = {OURS: sampled(ours(config), rows, 1, [], new=1, static=True)}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        contestants[f"transformers {name}"] = generated(config, dtype, rows, 1, [], new=1)
    settings = {"size": size, "batch": 1, "prompt": PROMPT, "new": 1, "dtype": "bf16"}
    return results("first token", take_turns(contestants, turns), "prompts/s", settings, 1.0)


def main() -> None:
    """Compare at every batch size, then with uneven lengths."""
    parser = options(__doc__)
    parser.add_argument("--batches", type=int, nargs="+", choices=list(TARGETS), default=list(TARGETS))
    chosen = parser.parse_args()
    tune_allocator()
    found: list[Result] = []
    size, turns = ("3M", 2) if chosen.quick else ("10M", chosen.turns)
    for batch in [min(chosen.batches)] if chosen.quick else chosen.batches:
        found += compare(batch, turns, size)
    found += compare_uneven(8, 4, turns, size) if chosen.quick else compare_uneven(256, 64, turns, size)
    found += compare_first(turns, size)
    publish(found, chosen)


if __name__ == "__main__":
    main()
