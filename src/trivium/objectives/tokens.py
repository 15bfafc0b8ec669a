"""Per-token log-probabilities, and the masked sums on which all other objectives rest."""

from typing import Literal, get_args

import torch
from torch import Tensor

Aggregate = Literal["seq_sum", "seq_mean", "token", "const"]
"""How per-token losses become one number; see `aggregate_loss`."""


def upcast(tensor: Tensor) -> Tensor:
    """fp32 for half-precision and integer tensors; fp32 and fp64 pass through unchanged."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def keep(tensor: Tensor, mask: Tensor) -> Tensor:
    """`upcast(tensor)` with 0 wherever `mask` is False.

    Selection, not multiplication: a NaN or infinity under a False mask would survive a product and reach the gradient.
    """
    return upcast(tensor).masked_fill(~mask.bool(), 0.0)


def keep_spread(tensor: Tensor, mask: Tensor) -> Tensor:
    """`keep` for a tensor (B, T), or (B, 1) with one value per row.

    Raises:
        ValueError: the tensor has another number of dimensions; a bare (B,) would spread along the wrong one.
    """
    if tensor.dim() != mask.dim():
        raise ValueError(f"shape {tuple(tensor.shape)} does not fit {tuple(mask.shape)}: give (B, T) or (B, 1).")
    return keep(tensor.expand_as(mask), mask)


def masked_mean(tensor: Tensor, mask: Tensor) -> Tensor:
    """() mean over the True positions of `mask` (same shape); 0 when there are none."""
    return keep(tensor, mask).sum() / mask.sum().clamp(min=1)


def sequence_logprobs(logprobs: Tensor, loss_mask: Tensor) -> Tensor:
    """Log-probability of each whole response: (B, T) and its mask to (B,), in nats."""
    return keep(logprobs, loss_mask).sum(-1)


def token_logprobs(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability, under softmax(logits / temperature), of the token at the same index in `ids`.

    The caller aligns: the logits at position i of a sequence score its token i + 1, so a full forward over `row` is
    read as `token_logprobs(logits[:, :-1], row[:, 1:])`.

    Args:
        logits: (..., V) in any float type.
        ids: (...) int64, each in [0, V); under a False mask any valid id will do.
        temperature: the sampler's, > 0. Sampler, old, new and reference policies must share it.
    Returns:
        (...) in nats, fp32 (fp64 for fp64 logits).
    Raises:
        ValueError: shapes differ or the temperature is not positive.
    """
    if logits.shape[:-1] != ids.shape:
        raise ValueError(f"logits {tuple(logits.shape)} do not match ids {tuple(ids.shape)}: expected one row per id.")
    scaled = _scaled(logits, temperature)
    picked = scaled.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    return picked - torch.logsumexp(scaled, dim=-1)


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy of softmax(logits / temperature) at each position: (..., V) to (...), in nats.

    Logits of minus infinity (tokens that cannot occur) contribute 0.
    """
    logprobs = torch.log_softmax(_scaled(logits, temperature), dim=-1)
    probs = logprobs.exp()
    return -(probs * logprobs.masked_fill(probs == 0, 0.0)).sum(-1)


def aggregate_loss(
    per_token: Tensor, loss_mask: Tensor, aggregate: Aggregate, l_max: int | None = None
) -> tuple[Tensor, Tensor]:
    """Sum per-token losses over a minibatch, with the count that belongs to the sum.

    A sequence is a row with at least one True in `loss_mask`; rows without one (invalid samples) count for nothing.

    - `seq_sum`: sum over tokens, mean over sequences. The only one whose gradient is that of the expected return.
    - `seq_mean`: mean over each sequence's tokens, mean over sequences (GRPO, arXiv:2402.03300); biased by length.
    - `token`: mean over all tokens (DAPO, arXiv:2503.14476).
    - `const`: sum over tokens, divided by sequences x l_max (Dr. GRPO, arXiv:2503.20783).

    Args:
        per_token: (B, T) losses.
        loss_mask: (B, T) bool.
        aggregate: one of the four above.
        l_max: the cap on response length, for `const`; T when not given.
    Returns:
        ((), ()) the differentiable sum and its count.
    Raises:
        ValueError: the aggregate is unknown.
    """
    if aggregate not in get_args(Aggregate):
        raise ValueError(f"aggregate is {aggregate!r}, expected one of {', '.join(get_args(Aggregate))}.")
    masked = keep(per_token, loss_mask)
    sequences = loss_mask.any(-1).sum()
    if aggregate == "token":
        return masked.sum(), loss_mask.sum()
    if aggregate == "seq_mean":
        return (masked.sum(-1) / loss_mask.sum(-1).clamp(min=1)).sum(), sequences
    if aggregate == "const":
        return masked.sum(), sequences * (per_token.shape[-1] if l_max is None else l_max)
    return masked.sum(), sequences


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected a number above 0.")
    logits = upcast(logits)
    return logits if temperature == 1.0 else logits / temperature
