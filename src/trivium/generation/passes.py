"""The passes of decoding: prompts into the cache, then a token a row; by PyTorch's operations, or by `step.cpp`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trivium.generation.sampling import sample_tokens
from trivium.generation.step import Rows, Step, decoding, draw_tokens
from trivium.model.cache import KVCache
from trivium.model.transformer import Decoder

STEP_TOKENS = 256
"""Prompt tokens that `step.cpp` takes at once: more would push each other's activations out of a processor's cache."""


class Passes(Protocol):
    """What an engine needs of a model."""

    def prefill(self, cache: KVCache, rows: Rows, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Run each distinct prompt once, keep its keys and values in its rows; (len(prompts), V) logits that follow."""
        ...

    def decode(self, cache: KVCache, last: Rows, positions: Rows, active: Rows) -> Tensor:
        """Run each row's last token at its position; (len(active), V) logits of the active rows."""
        ...

    def draw(
        self, logits: Tensor, uniforms: NDArray[np.float32], temperature: float
    ) -> tuple[Rows, NDArray[np.float32]]:
        """`sample_tokens`: ids and log-probabilities."""
        ...


@contextmanager
def passes(model: Decoder, threads: int) -> Iterator[Passes]:
    """The fastest passes that this model and machine allow, valid until the model changes.

    Args:
        threads: that each pass may use, where it does not take PyTorch's own number.
    """
    if decoding(model) == "compiled":
        yield CompiledPasses(Step(model), threads)
        return
    with model.hold_casts():
        yield PlainPasses(model)


class PlainPasses:
    """By the model's own forward pass."""

    def __init__(self, model: Decoder):
        self.model = model

    def prefill(self, cache: KVCache, rows: Rows, prompts: Sequence[Sequence[int]]) -> Tensor:
        model, device = self.model, self.model.device
        distinct, which = _distinct(prompts)
        width = max(map(len, distinct))
        ids = torch.tensor([list(prompt) + [0] * (width - len(prompt)) for prompt in distinct])
        positions = torch.arange(width).expand(len(distinct), width)
        fresh = KVCache(model.config, len(distinct), width, model.compute_dtype, device)
        hidden = model.hidden(ids.to(device), positions.to(device), fresh)
        ends = torch.tensor([len(prompt) - 1 for prompt in distinct])
        logits = model.logits(hidden[torch.arange(len(distinct)), ends.to(device)])
        sources = torch.tensor(which, device=device)
        cache.copy_rows(torch.from_numpy(rows).to(device), fresh, sources, width)
        return logits[sources]

    def decode(self, cache: KVCache, last: Rows, positions: Rows, active: Rows) -> Tensor:
        device = self.model.device
        hidden = self.model.hidden(
            torch.from_numpy(last[:, None]).to(device),
            torch.from_numpy(positions[:, None]).to(device),
            cache,
            end=int(positions.max()) + 1,
        )[:, 0]
        if len(active) < len(last):
            hidden = hidden[torch.from_numpy(active).to(device)]
        return self.model.logits(hidden)

    def draw(
        self, logits: Tensor, uniforms: NDArray[np.float32], temperature: float
    ) -> tuple[Rows, NDArray[np.float32]]:
        ids, logprobs = sample_tokens(logits.cpu(), torch.from_numpy(uniforms), temperature)
        return ids.numpy(), logprobs.numpy()


class CompiledPasses:
    """By compiled code: a prompt's tokens are to it what tokens of different rows are."""

    def __init__(self, step: Step, threads: int):
        self.step, self.threads = step, threads

    def prefill(self, cache: KVCache, rows: Rows, prompts: Sequence[Sequence[int]]) -> Tensor:
        distinct, which = _distinct(prompts)
        lengths = np.array([len(prompt) for prompt in distinct])
        homes = rows[np.unique(which, return_index=True)[1]]  # a distinct prompt's first row
        ids = np.concatenate([np.asarray(prompt, dtype=np.int64) for prompt in distinct])
        ends = lengths.cumsum() - 1
        owners = np.repeat(homes, lengths)
        positions = np.arange(len(ids)) - np.repeat(ends + 1 - lengths, lengths)
        logits = []
        for at in range(0, len(ids), STEP_TOKENS):
            part = slice(at, at + STEP_TOKENS)
            wanted = ends[(ends >= at) & (ends < at + STEP_TOKENS)] - at
            logits.append(self.step(ids[part], owners[part], positions[part], wanted, cache, self.threads))
        copies = homes[which] != rows
        if copies.any():
            sources = torch.from_numpy(homes[which][copies])
            cache.copy_rows(torch.from_numpy(rows[copies]), cache, sources, int(lengths.max()))
        return torch.cat(logits)[torch.tensor(which)]

    def decode(self, cache: KVCache, last: Rows, positions: Rows, active: Rows) -> Tensor:
        every = np.arange(len(active))
        return self.step(last[active], active, positions[active], every, cache, self.threads)

    def draw(
        self, logits: Tensor, uniforms: NDArray[np.float32], temperature: float
    ) -> tuple[Rows, NDArray[np.float32]]:
        return draw_tokens(logits, uniforms, temperature, self.threads)


def _distinct(prompts: Sequence[Sequence[int]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """The distinct prompts in the order of their first appearance, and which of them each is."""
    places: dict[tuple[int, ...], int] = {}
    which = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
    return list(places), which
