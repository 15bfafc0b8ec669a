"""Compiled attention sees what the mask of `document_bias` shows, and computes what plain products do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trivium.base import compiled
from trivium.model.attention import document_bias
from trivium.model.fused_attention import SOURCE, available, fused_attention, seen_spans

needs_compiler = pytest.mark.skipif(compiled.library(SOURCE) is None, reason="needs a C++ compiler")
SHAPES = [(70, 64, 4, 2), (200, 16, 2, 1), (37, 8, 2, 2), (131, 80, 2, 1), (1, 6, 1, 1)]
"""Tokens, head_dim, heads, heads of keys: tokens and widths that are no whole number of vectors, tiles or bands."""


def packed(lengths: list[int], pads: int = 0) -> Tensor:
    return torch.cat([*(torch.arange(length) for length in lengths), torch.full((pads,), -1)])


def rows(tokens: int) -> tuple[Tensor, Tensor]:
    """Positions and branches of three rows: one document, some with pads behind, one that forks."""
    third, rest = max(1, tokens // 3), tokens - max(1, tokens // 3)
    several = packed([third, 1, rest - 1 - rest // 4], rest // 4) if rest > 1 else packed([tokens])
    forked = packed([tokens])
    forked[third + rest // 2 :] -= rest // 2
    branches = torch.zeros(3, tokens, dtype=torch.long)
    branches[2, third:] = 1
    branches[2, third + rest // 2 :] = 2
    return torch.stack((packed([tokens]), several, forked)), branches


def seen(spans: Tensor) -> Tensor:
    """(B, T, T) whether row i sees slot j."""
    slot, query = torch.arange(spans.shape[1]), torch.arange(spans.shape[1])[:, None]
    first, last, own = (spans[:, :, None, part] for part in range(3))
    return ((slot >= first) & (slot < last)) | ((slot >= own) & (slot <= query))


@given(st.data())
def test_spans_are_the_mask(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.tuples(st.integers(1, 6), st.lists(st.integers(1, 4), max_size=3)), max_size=5))
    positions, branches = [], []
    for trunk, forks in parts:
        positions += list(range(trunk))
        branches += [0] * trunk
        for number, length in enumerate(forks):
            positions += list(range(trunk, trunk + length))
            branches += [number + 1] * length
    positions += [-1] * data.draw(st.integers(0 if parts else 1, 3))
    branches += [0] * (len(positions) - len(branches))
    at, of = torch.tensor([positions]), torch.tensor([branches])
    real = at[0] >= 0
    for forks_too in (True, False) if not of.any() else (True,):
        bias = document_bias(at, torch.float32, of if forks_too else None)[:, 0]
        spans = seen_spans(at, of if forks_too else None)
        assert torch.equal(seen(spans)[0, real], bias.isfinite()[0, real])
        assert torch.equal(seen(spans)[0, ~real].sum(1), torch.ones(int((~real).sum()), dtype=torch.long))


def plain(queries: Tensor, keys: Tensor, values: Tensor, spans: Tensor) -> Tensor:
    groups = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    return torch.softmax(scores.masked_fill(~seen(spans)[:, None], -torch.inf), -1) @ values


def operands(shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys, values as a model has them, (B, T, H, D) seen as (B, H, T, D), and a gradient of the output."""
    tokens, width, heads, kv_heads = shape
    generator = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(3, tokens, count, width, generator=generator).to(dtype).transpose(1, 2)
        for count in (heads, kv_heads, kv_heads, heads)
    ]


def with_gradients(attention: object, operands: list[Tensor], spans: Tensor) -> list[Tensor]:
    *inputs, grad = (each.detach().requires_grad_() for each in operands)
    out = attention(*inputs, spans)  # type: ignore[operator]
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_output_and_gradients_are_those_of_plain_products(
    shape: tuple[int, int, int, int], dtype: torch.dtype, tolerance: float
) -> None:
    spans, given_ = seen_spans(*rows(shape[0])), operands(shape, dtype)
    ours = with_gradients(fused_attention, given_, spans)
    exact = with_gradients(plain, [each.double() for each in given_], spans)
    for one, other in zip(ours, exact, strict=True):
        assert (one.double() - other).norm() < tolerance * other.norm() or other.norm() < 1e-12


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neither_threads_nor_neighbours_change_a_bit(dtype: torch.dtype) -> None:
    shape = SHAPES[0]
    spans, given_ = seen_spans(*rows(shape[0])), operands(shape, dtype)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(with_gradients(fused_attention, given_, spans))
    torch.set_num_threads(before)
    alone = with_gradients(fused_attention, [each[1:2] for each in given_], spans[1:2])
    for one, other, single in zip(*found, alone, strict=True):
        assert torch.equal(one, other) and torch.equal(one[1:2], single)


@needs_compiler
def test_what_is_not_seen_has_no_effect_and_no_gradient() -> None:
    """Whatever stands in pads and in another document."""
    positions = packed([20, 30], pads=10)[None]
    shape = (60, 16, 2, 2)
    given_ = [each[:1].clone() for each in operands(shape, torch.bfloat16)]
    given_[3][:, :, 50:] = 0  # no loss on pads
    clean = with_gradients(fused_attention, given_, seen_spans(positions))
    for each in given_[:3]:
        each[:, :, 50:] = 1e3
    spoilt = with_gradients(fused_attention, given_, seen_spans(positions))
    for one, other in zip(clean, spoilt, strict=True):
        assert torch.equal(one[:, :, :50], other[:, :, :50])


@needs_compiler
def test_it_is_used_in_bf16_on_a_cpu_alone() -> None:
    cpu = torch.device("cpu")
    assert available(cpu, torch.bfloat16) and not available(cpu, torch.float32)
    assert not available(torch.device("meta"), torch.bfloat16)
