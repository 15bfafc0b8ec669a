"""Batched sampling with a KV cache: prompts prefilled once, finished rows replaced at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trivium.base.errors import InputError
from trivium.generation.sampling import sample_tokens, sample_uniforms
from trivium.model.cache import KVCache
from trivium.model.transformer import Decoder


@dataclass(frozen=True)
class Sample:
    """One sampled response."""

    ids: list[int]
    """Response token ids, the end token included where it was sampled."""
    logprobs: list[float]
    """Log-probability of each id under the sampling distribution, in nats."""
    finish: str
    """`stop` (the end token was sampled) or `length` (the cap was reached)."""


class _Slots:
    """The rows in flight: what each one is, where it stands, what it has drawn."""

    def __init__(self, size: int, max_new_tokens: int):
        self.owner = torch.full((size,), -1)  # index of the sample, -1 for a free row
        self.position = torch.zeros(size, dtype=torch.long)  # slot that the last drawn token takes
        self.drawn = torch.zeros(size, dtype=torch.long)
        self.ids = torch.zeros(size, max_new_tokens, dtype=torch.long)
        self.logprobs = torch.zeros(size, max_new_tokens)
        self.uniforms = torch.zeros(size, max_new_tokens)

    def keep(self, rows: Tensor) -> None:
        for name, tensor in vars(self).items():
            setattr(self, name, tensor[rows])


@torch.no_grad()
def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    temperature: float = 1.0,
    batch_size: int = 256,
    on_token: Callable[[int, int], None] | None = None,
) -> list[Sample]:
    """Sample one response a prompt.

    Repeated prompts are prefilled once. A sample's randomness is a function of its seed, so that batching
    changes nothing but rounding.

    Args:
        model: its `compute_dtype` is the precision of the whole computation.
        prompts: token ids, one list a sample.
        seeds: one a sample.
        max_new_tokens: cap on the response, the end token included.
        stop_ids: a row ends after drawing one of these.
        temperature: of the softmax; 0 is greedy.
        batch_size: rows decoded together.
        on_token: called with (sample index, id) as tokens are drawn, for streaming.
    Returns:
        One `Sample` a prompt, in order.
    Raises:
        InputError: a prompt is empty, or longer than the model's context allows.
    """
    limit = model.config.max_seq_len
    for index, prompt in enumerate(prompts):
        if not 0 < len(prompt) < limit:
            raise InputError(
                f"prompt {index} has {len(prompt)} tokens; this model takes 1 to {limit - 1}. Shorten the prompt."
            )
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), tuple(prompts[index])))
    capacity = min(limit, max((len(prompt) for prompt in prompts), default=0) + max_new_tokens)
    size = min(batch_size, len(prompts))
    cache = KVCache(model.config, size, capacity, model.compute_dtype, model.device)
    slots = _Slots(size, max_new_tokens)
    stops = torch.tensor(list(stop_ids), dtype=torch.long)
    results: list[Sample | None] = [None] * len(prompts)
    cursor = 0

    def record(rows: Tensor, logits: Tensor) -> None:
        """Draw the next token of `rows`; free the rows that end."""
        drawn = slots.drawn[rows]
        ids, logprobs = sample_tokens(logits.cpu(), slots.uniforms[rows, drawn], temperature)
        slots.ids[rows, drawn], slots.logprobs[rows, drawn] = ids, logprobs
        slots.drawn[rows] = drawn + 1
        slots.position[rows] += 1
        if on_token:
            for owner, token in zip(slots.owner[rows].tolist(), ids.tolist(), strict=True):
                on_token(owner, token)
        stopped = torch.isin(ids, stops)
        ended = stopped | (drawn + 1 >= max_new_tokens) | (slots.position[rows] + 1 > limit - 1)
        for row, stop in zip(rows[ended].tolist(), stopped[ended].tolist(), strict=True):
            length = int(slots.drawn[row])
            results[int(slots.owner[row])] = Sample(
                slots.ids[row, :length].tolist(), slots.logprobs[row, :length].tolist(), "stop" if stop else "length"
            )
            slots.owner[row] = -1

    while True:
        free = (slots.owner < 0).nonzero()[:, 0]
        if cursor < len(order) and len(free) * 8 >= len(slots.owner):
            admitted = order[cursor : cursor + len(free)]
            cursor += len(admitted)
            rows = free[: len(admitted)]
            slots.owner[rows] = torch.tensor(admitted)
            slots.position[rows] = torch.tensor([len(prompts[index]) - 1 for index in admitted])
            slots.drawn[rows] = 0
            slots.uniforms[rows] = sample_uniforms([seeds[index] for index in admitted], max_new_tokens)
            record(rows, _prefill(model, cache, rows, [prompts[index] for index in admitted]))
            continue
        active = (slots.owner >= 0).nonzero()[:, 0]
        if not len(active):
            break
        if cursor == len(order) and len(active) * 4 <= len(slots.owner) * 3:
            slots.keep(active)  # nobody is waiting: go on with the live rows alone
            cache.keep_rows(active.to(model.device))
            active = torch.arange(len(active))
        last = slots.ids[torch.arange(len(slots.owner)), (slots.drawn - 1).clamp(min=0)]
        positions = slots.position.masked_fill(slots.owner < 0, 0)
        hidden = model.hidden(
            last[:, None].to(model.device),
            positions[:, None].to(model.device),
            cache,
            end=int(positions.max()) + 1,
        )
        record(active, model.logits(hidden[active.to(model.device), 0]))
    return [result for result in results if result is not None]


def _prefill(model: Decoder, cache: KVCache, rows: Tensor, prompts: list[Sequence[int]]) -> Tensor:
    """Run each distinct prompt once and copy its keys and values to its rows; (len(prompts), V) logits that follow."""
    distinct: dict[tuple[int, ...], int] = {}
    which = torch.tensor([distinct.setdefault(tuple(prompt), len(distinct)) for prompt in prompts])
    width = max(map(len, distinct))
    ids = torch.tensor([list(prompt) + [0] * (width - len(prompt)) for prompt in distinct])
    positions = torch.arange(width).expand(len(distinct), width)
    device = model.device
    fresh = KVCache(model.config, len(distinct), width, model.compute_dtype, device)
    hidden = model.hidden(ids.to(device), positions.to(device), fresh)
    ends = torch.tensor([len(prompt) - 1 for prompt in distinct])
    logits = model.logits(hidden[torch.arange(len(distinct)), ends.to(device)])
    cache.copy_rows(rows.to(device), fresh, which.to(device))
    return logits[which.to(device)]
