"""From logits to a token, by a uniform number that belongs to the sample and not to the batch."""

import numpy as np
import torch
from torch import Tensor


def sample_uniforms(seeds: list[int], count: int) -> Tensor:
    """The uniform numbers that decide each sample's tokens: a function of its seed alone.

    Returns:
        (len(seeds), count) fp32 in [0, 1).
    """
    rows = [np.random.Generator(np.random.Philox(key=seed)).random(count, dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, count)


def sample_tokens(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution; full support, no truncation.

    Args:
        logits: (B, V) fp32.
        uniforms: (B,) in [0, 1).
        temperature: of the softmax; 0 takes the largest logit.
    Returns:
        (B,) ids and (B,) log-probabilities under softmax(logits / temperature) (temperature 1 when 0).
    """
    logprobs = torch.log_softmax(logits / temperature if temperature > 0 else logits, dim=-1)
    if temperature > 0:
        cumulative = logprobs.exp().cumsum(-1)
        ids = torch.searchsorted(cumulative, (uniforms * cumulative[:, -1])[:, None], right=True)[:, 0]
        ids = ids.clamp_(max=logits.shape[1] - 1)
    else:
        ids = logits.argmax(-1)
    return ids, logprobs.gather(1, ids[:, None])[:, 0]
