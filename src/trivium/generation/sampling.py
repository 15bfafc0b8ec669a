"""From logits to a token, by a uniform number that belongs to the sample and not to the batch."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 64
"""Ids summed at once when a token is drawn."""


def sample_uniforms(seeds: list[int], count: int) -> NDArray[np.float32]:
    """The uniform numbers that decide each sample's tokens: a function of its seed alone.

    Returns:
        (len(seeds), count) fp32 in [0, 1).
    """
    rows = [np.random.Generator(np.random.Philox(key=seed)).random(count, dtype=np.float32) for seed in seeds]
    return np.stack(rows) if rows else np.empty((0, count), dtype=np.float32)


def sample_tokens(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution; full support, no truncation.

    Args:
        logits: (B, V) fp32.
        uniforms: (B,) in [0, 1).
        temperature: of the softmax; 0 takes the largest logit.
    Returns:
        (B,) ids and (B,) log-probabilities under softmax(logits / temperature) (temperature 1 when 0).
    """
    probs = torch.softmax(logits / temperature if temperature not in (0.0, 1.0) else logits, dim=-1)
    ids = _inverse(probs, uniforms) if temperature > 0 else logits.argmax(-1)
    return ids, probs.gather(1, ids[:, None])[:, 0].log()


def _inverse(probs: Tensor, uniforms: Tensor) -> Tensor:
    """First id whose cumulative share exceeds its row's uniform number: (B, V) and (B,) to (B,); never one of share 0.

    Found among blocks of ids first and then within a block, which takes one pass where cumulating all takes many.
    """
    rows, count = probs.shape
    blocks = F.pad(probs, (0, -count % BLOCK)).view(rows, -1, BLOCK)
    sums = blocks.sum(-1)
    block, rest = _first_above(sums, uniforms * sums.sum(-1))
    within, _ = _first_above(blocks[torch.arange(rows), block], rest)
    return block * BLOCK + within


def _first_above(shares: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N) and (B,) to the first index whose cumulative share exceeds the target, and what is left of it there."""
    cumulative = shares.cumsum(-1)
    target = torch.minimum(target, torch.nextafter(cumulative[:, -1], torch.zeros(())))[:, None]  # rounding overshoots
    index = torch.searchsorted(cumulative, target, right=True)
    before = cumulative.gather(1, index) - shares.gather(1, index)
    return index[:, 0], (target - before)[:, 0].clamp(min=0.0)
