"""Causal attention of packed rows on a GPU: PyTorch's flex_attention, over blocks of slots that are seen at all.

Like `fused_attention` on a CPU it visits what is seen and never has a table of scores; both are given the same spans.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

LEAST_WIDTH = 16
"""Of a head, in its kernels."""


def available(device: torch.device, head_dim: int) -> bool:
    """Whether `block_attention` can be trained with: its backward pass exists on GPUs alone."""
    return device.type == "cuda" and head_dim >= LEAST_WIDTH


def block_mask(spans: Tensor) -> BlockMask:
    """The blocks of slots that `fused_attention.seen_spans` lets some token of a block see, and what to hide in them.

    Args:
        spans: (B, T, 3) int32.
    """

    def seen(row: Tensor, _head: Tensor, query: Tensor, slot: Tensor) -> Tensor:
        first, last, own = (spans[row, query, part] for part in range(3))
        return ((slot >= first) & (slot < last)) | ((slot >= own) & (slot <= query))

    rows, tokens, _ = spans.shape
    return create_block_mask(seen, rows, None, tokens, tokens, device=spans.device)


def block_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: BlockMask) -> Tensor:
    """softmax(q k' / sqrt(D)) v over the slots that each token sees; differentiable on a GPU.

    Args:
        queries: (B, H, T, D).
        keys, values: (B, H_kv, T, D); H_kv divides H.
        mask: of all rows; see `block_mask`.
    Returns:
        (B, H, T, D).
    """
    attention = flex_attention if torch.compiler.is_compiling() or queries.device.type == "cpu" else _compiled()
    out = attention(queries, keys, values, block_mask=mask, enable_gqa=keys.shape[1] < queries.shape[1])
    assert isinstance(out, Tensor)
    return out


@functools.cache
def _compiled() -> Callable[..., object]:
    """Its one kernel; without it PyTorch makes the table of scores."""
    return torch.compile(flex_attention)
