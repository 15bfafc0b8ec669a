"""Causal attention of packed rows on a CPU by compiled code: `fused_attention.cpp`, in bf16.

The plain form in `attention` makes a table of scores for every head, most of which the mask throws away in packed rows;
this one visits what is seen alone, in tiles that stay in a processor's cache, forwards and backwards.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trivium.base import compiled

SOURCE = Path(__file__).with_suffix(".cpp")
_Long, _Pointer = ctypes.c_long, ctypes.c_void_p


class _Strided(ctypes.Structure):
    _fields_ = (("first", _Pointer), *((name, _Long) for name in ("batch", "head", "token")))


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, _Strided) for name in ("queries", "keys", "values", "out")),
        *((name, _Pointer) for name in ("spans", "log_sums")),
        *((name, _Long) for name in ("n_batch", "n_heads", "n_kv_heads", "tokens", "head_dim")),
        ("scale", ctypes.c_float),
    )


class _Gradients(ctypes.Structure):
    _fields_ = tuple((name, _Strided) for name in ("out", "queries", "keys", "values"))


def available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `fused_attention` can be used: in bf16 on a CPU that has a compiler."""
    return device.type == "cpu" and dtype == torch.bfloat16 and compiled.library(SOURCE) is not None


def seen_spans(positions: Tensor, branches: Tensor | None = None) -> Tensor:
    """What each token of packed rows attends to, as `document_bias` has it: (B, T) to (B, T, 3) int32.

    Token i sees slots [a, b) and [c, i] of its row: the trunk of its document and its own branch, or, where documents
    do not fork, an empty span and its document. A pad sees itself.
    """
    index = torch.arange(positions.shape[1], device=positions.device).expand_as(positions)

    def latest(starts: Tensor) -> Tensor:
        return torch.where(starts, index, 0).cummax(1).values

    start = latest(positions == 0)
    own, trunk_end = start, start
    if branches is not None:
        before = torch.nn.functional.pad(branches, (1, 0))[:, :-1]
        leaves = (branches != 0) & (before == 0)
        own = latest((branches != before) | (positions == 0))
        trunk_end = torch.where(branches == 0, start, latest(leaves))
    pad = positions < 0
    return (
        torch.stack((start, trunk_end, own), -1)
        .masked_fill(pad[..., None], 0)
        .where(~pad[..., None], torch.stack((index, index, index), -1))
        .to(torch.int32)
    )


@torch.library.custom_op("trivium::fused_attention", mutates_args=())
def _attend(queries: Tensor, keys: Tensor, values: Tensor, spans: Tensor) -> tuple[Tensor, Tensor]:
    out, log_sums = _room(queries)
    call = _call(queries, keys, values, out, spans, log_sums)
    compiled.library(SOURCE).trivium_attention(
        ctypes.byref(call), queries.dtype == torch.bfloat16, torch.get_num_threads()
    )
    return out, log_sums


@torch.library.custom_op("trivium::fused_attention_gradient", mutates_args=())
def _gradient(
    grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, spans: Tensor, out: Tensor, log_sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad = _rows(grad)
    found = [torch.empty_like(_by_tokens(each)).transpose(1, 2) for each in (queries, keys, values)]
    call = _call(queries, keys, values, out, spans, log_sums)
    gradients = _Gradients(*map(_strided, (grad, *found)))
    compiled.library(SOURCE).trivium_attention_gradient(
        ctypes.byref(call), ctypes.byref(gradients), queries.dtype == torch.bfloat16, torch.get_num_threads()
    )
    return found[0], found[1], found[2]


@_attend.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor, spans: Tensor) -> tuple[Tensor, Tensor]:
    return _room(queries)


@_gradient.register_fake
def _(
    grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, spans: Tensor, out: Tensor, log_sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    found = [torch.empty_like(_by_tokens(each)).transpose(1, 2) for each in (queries, keys, values)]
    return found[0], found[1], found[2]


def _remember(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    return (*torch.ops.trivium.fused_attention_gradient(grad, *ctx.saved_tensors), None)


_attend.register_autograd(_differentiate, setup_context=_remember)


def fused_attention(queries: Tensor, keys: Tensor, values: Tensor, spans: Tensor) -> Tensor:
    """softmax(q k' / sqrt(D)) v over the slots that each token sees; differentiable.

    Args:
        queries: (B, H, T, D) bf16 or fp32, D even.
        keys, values: (B, H_kv, T, D); H_kv divides H.
        spans: (B, T, 3) int32; see `seen_spans`.
    Returns:
        (B, H, T, D).
    """
    return torch.ops.trivium.fused_attention(_rows(queries), _rows(keys), _rows(values), spans)[0]


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _by_tokens(tensor: Tensor) -> Tensor:
    """(B, H, T, D) seen as (B, T, H, D), the order in which what surrounds attention has it."""
    return tensor.new_empty(tensor.transpose(1, 2).shape)


def _room(queries: Tensor) -> tuple[Tensor, Tensor]:
    return _by_tokens(queries).transpose(1, 2), queries.new_empty(queries.shape[:3], dtype=torch.float32)


def _strided(tensor: Tensor) -> _Strided:
    return _Strided(tensor.data_ptr(), *tensor.stride()[:3])


def _call(queries: Tensor, keys: Tensor, values: Tensor, out: Tensor, spans: Tensor, log_sums: Tensor) -> _Attention:
    batch, heads, tokens, width = queries.shape
    return _Attention(
        *map(_strided, (queries, keys, values, out)),
        *(each.data_ptr() for each in (spans, log_sums)),
        *(batch, heads, keys.shape[1], tokens, width),
        width**-0.5,
    )
