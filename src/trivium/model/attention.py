"""Causal self-attention with grouped queries, and the masks that keep documents apart."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from trivium.model.block_attention import block_attention
from trivium.model.cache import KVCache
from trivium.model.config import ModelConfig
from trivium.model.fused_attention import fused_attention
from trivium.model.layers import Linear, RMSNorm, joint, select_rows
from trivium.model.rope import rotate


def document_bias(positions: Tensor, dtype: torch.dtype, branches: Tensor | None = None) -> Tensor:
    """Additive mask for packed rows: a token attends to earlier tokens of its own document only.

    Args:
        positions: (B, T); a document starts wherever the position is 0, pads are negative.
        branches: (B, T) for documents that fork, such as several responses to one prompt: 0 on the trunk, k on
            the k-th branch, which sees the trunk and itself but no other branch. None for none.
    Returns:
        (B, 1, T, T), 0 where attention is allowed and -inf elsewhere; a pad attends to pads, so that no row of
        the softmax is empty.
    """
    length = positions.shape[1]
    documents = (positions == 0).cumsum(1)
    documents = torch.where(positions < 0, -1, documents)
    allowed = documents[:, :, None] == documents[:, None, :]
    allowed &= torch.ones(length, length, dtype=torch.bool, device=positions.device).tril()
    if branches is not None:
        allowed &= (branches[:, None, :] == 0) | (branches[:, :, None] == branches[:, None, :])
    bias = torch.zeros(allowed.shape, dtype=dtype, device=positions.device)
    return bias.masked_fill_(~allowed, float("-inf"))[:, None]


def cache_bias(positions: Tensor, end: int, dtype: torch.dtype) -> Tensor:
    """Additive mask for decoding: the row at position p attends to slots 0..p.

    Args:
        positions: (B, T) positions of the new tokens.
        end: slots in use.
    Returns:
        (B, 1, T, end).
    """
    hidden = torch.arange(end, device=positions.device)[None, None] > positions[:, :, None]
    return torch.zeros(hidden.shape, dtype=dtype, device=positions.device).masked_fill_(hidden, float("-inf"))[:, None]


def attend(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(D) + bias) v.

    Args:
        queries: (B, H, T, D).
        keys, values: (B, H_kv, S, D); H_kv divides H.
        bias: broadcastable to (B, H, T, S), or None for plain causal attention over T = S.
    Returns:
        (B, H, T, D).
    """
    batch, n_heads, length, head_dim = queries.shape
    groups = n_heads // keys.shape[1]
    if queries.device.type == "cpu" and queries.dtype == torch.bfloat16:
        # Where nothing can be compiled. PyTorch's fused kernel is 1.4 (T = 256) to 5 times (T = 50) slower in bf16 than
        # plain products, but four times as fast for the single query of decoding: it reads the cache where it lies.
        if bias is None:
            bias = queries.new_full((length, length), float("-inf")).triu_(1)
        if groups > 1:
            queries = queries.reshape(batch, keys.shape[1], groups * length, head_dim)
            bias = bias.repeat(1, 1, groups, 1) if bias.dim() == 4 else bias.repeat(groups, 1)
        if length == 1:
            return F.scaled_dot_product_attention(queries, keys, values, bias).view(batch, n_heads, 1, head_dim)
        weights = torch.softmax((queries * head_dim**-0.5) @ keys.transpose(-1, -2) + bias, dim=-1)
        return (weights @ values).view(batch, n_heads, length, head_dim)
    if groups > 1:
        keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, is_causal=bias is None)


class Context(NamedTuple):
    """What the layers share in a pass."""

    cos: Tensor
    sin: Tensor
    bias: Tensor | None
    spans: Tensor | None = None
    """In place of a bias, where attention is compiled; see `seen_spans`."""
    blocks: BlockMask | None = None
    """In place of a bias, on a GPU; see `block_mask`."""
    cache: KVCache | None = None
    places: Tensor | None = None
    """Where the cache puts one new token a row; see `KVCache.places`."""
    end: int = 0
    """Slots of the cache in use after the pass."""
    wanted: Tensor | None = None
    """(N,) flat places whose results alone are asked for, in the last block; the others are there to be looked at."""

    def chosen(self, x: Tensor) -> Tensor:
        """(B, T, ...) to (N, ...) of the places that are wanted; as it is where all are."""
        return x if self.wanted is None else select_rows(x.flatten(0, 1), self.wanted)


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023) with rotary positions and, in Qwen3, normalised q and k."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.q_proj = Linear(config.d_model, config.n_heads * config.head_dim, bias=config.qkv_bias)
        self.k_proj = Linear(config.d_model, config.n_kv_heads * config.head_dim, bias=config.qkv_bias)
        self.v_proj = Linear(config.d_model, config.n_kv_heads * config.head_dim, bias=config.qkv_bias)
        self.o_proj = Linear(config.n_heads * config.head_dim, config.d_model, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def projections(self) -> list[tuple[Linear, ...]]:
        """The maps, those of one input together."""
        return [(self.q_proj, self.k_proj, self.v_proj), (self.o_proj,)]

    def forward(self, x: Tensor, layer: int, context: Context) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model), or (N, d_model) of the places that are wanted.

        With a cache, the new tokens' keys and values are stored in it.
        """
        cos, sin, bias, spans, blocks, cache, places, end, wanted = context
        batch, length, _ = x.shape
        if wanted is None:
            projected = joint(x, *self.projections()[0])
        else:
            asked = self.q_proj(context.chosen(x))
            queries = asked.new_zeros(batch * length, asked.shape[1]).index_copy(0, wanted, asked)
            projected = queries, self.k_proj(x), self.v_proj(x)
        queries, keys, values = (each.view(batch, length, -1, self.head_dim) for each in projected)
        queries, keys = self.q_norm(queries).transpose(1, 2), self.k_norm(keys).transpose(1, 2)
        queries, keys, values = rotate(queries, cos, sin), rotate(keys, cos, sin), values.transpose(1, 2)
        if cache is not None:
            keys, values = cache.extend(layer, keys, values, places, end)
        if spans is not None:
            out = fused_attention(queries, keys, values, spans)
        elif blocks is not None:
            out = block_attention(queries, keys, values, blocks)
        else:
            out = attend(queries, keys, values, bias)
        return self.o_proj(context.chosen(out.transpose(1, 2).reshape(batch, length, -1)))
