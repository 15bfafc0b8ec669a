"""Attention over blocks sees what the mask of `document_bias` shows. Its gradients are in tests/gpu: a CPU has none."""

from collections.abc import Callable, Iterable
from typing import cast

import pytest
import torch
from torch import Tensor

from trivium.model import Decoder, ModelConfig
from trivium.model.attention import Attention, Context, attend, document_bias
from trivium.model.block_attention import available, block_attention, block_mask
from trivium.model.fused_attention import seen_spans
from trivium.model.rope import rotary_table
from trivium.model.transformer import Block, _train_block

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")  # its kernel is for GPUs


def packed(tokens: int) -> tuple[Tensor, Tensor]:
    """Positions and branches of three rows: one document, several and pads, one that forks."""
    third, quarter = tokens // 3, tokens // 4
    whole = torch.arange(tokens)
    several = torch.cat(
        [*(torch.arange(n) for n in (third, 1, tokens - third - 1 - quarter)), torch.full((quarter,), -1)]
    )
    forked, branches = whole.clone(), torch.zeros(3, tokens, dtype=torch.long)
    forked[third + quarter :] -= quarter
    branches[2, third:], branches[2, third + quarter :] = 1, 2
    return torch.stack((whole, several, forked)), branches


@pytest.mark.parametrize("tokens", [37, 128, 300])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (2, 2)])
def test_it_is_attention_with_the_mask(tokens: int, heads: int, kv_heads: int) -> None:
    positions, branches = packed(tokens)
    generator = torch.Generator().manual_seed(tokens)
    queries, keys, values = (torch.randn(3, n, tokens, 16, generator=generator) for n in (heads, kv_heads, kv_heads))
    got = block_attention(queries, keys, values, block_mask(seen_spans(positions, branches)))
    expected = attend(queries, keys, values, document_bias(positions, torch.float32, branches))
    real = (positions >= 0)[:, None, :, None]
    torch.testing.assert_close(got.where(real, 0), expected.where(real, 0), atol=1e-5, rtol=0)
    assert got.isfinite().all(), "a pad sees itself"


def test_a_layer_computes_the_same_by_blocks_as_by_mask() -> None:
    config = ModelConfig(vocab_size=16, n_layers=1, d_model=64, n_heads=4, n_kv_heads=2, head_dim=16, max_seq_len=64)
    positions, branches = packed(60)
    layer, x = Attention(config), torch.randn(3, 60, 64, generator=torch.Generator().manual_seed(0))
    cos, sin = (table[positions.clamp(min=0)][:, None] for table in rotary_table(64, 16, config.rope_theta))
    wanted = torch.tensor([3, 30, 59, 61, 121, 150, 179])
    with torch.no_grad():
        for chosen in (None, wanted):
            bias = document_bias(positions, torch.float32, branches)
            masked = layer(x, 0, Context(cos, sin, bias, wanted=chosen))
            blocks = block_mask(seen_spans(positions, branches))
            blocked = layer(x, 0, Context(cos, sin, None, blocks=blocks, wanted=chosen))
            real = positions.flatten() >= 0
            real = real if chosen is None else real[chosen]
            torch.testing.assert_close(blocked.reshape(-1, 64)[real], masked.reshape(-1, 64)[real], atol=1e-5, rtol=0)


def test_blocks_of_other_documents_are_not_visited() -> None:
    positions = torch.cat([torch.arange(128)] * 4)[None]
    mask = block_mask(seen_spans(positions))
    assert mask.kv_num_blocks.flatten().tolist() == [1, 1, 1, 1]
    assert mask.kv_indices[0, 0, :, 0].tolist() == [0, 1, 2, 3]


def test_compiled_blocks_take_a_new_mask_every_step(make_decoder: Callable[..., Decoder]) -> None:
    model = make_decoder(n_layers=4, head_dim=16).requires_grad_(False)
    block = torch.compile(_train_block, dynamic=False, fullgraph=True, backend="eager")
    x = torch.randn(2, 64, model.config.d_model, generator=torch.Generator().manual_seed(0))
    torch._dynamo.utils.counters.clear()
    for first in (20, 21, 33):
        positions = torch.cat([torch.arange(first), torch.arange(64 - first)]).expand(2, -1)
        cos, sin = (table[positions][:, None] for table in (model.cos, model.sin))
        context = Context(cos, sin, None, blocks=block_mask(seen_spans(positions)))
        for each in cast(Iterable[Block], model.blocks):
            torch.testing.assert_close(block(each, x, 0, context), each(x, 0, context), atol=1e-5, rtol=0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2, (
        "neither layers nor masks want code of their own"
    )


def test_a_cpu_trains_otherwise() -> None:
    assert not available(torch.device("cpu"), 64) and not available(torch.device("cuda"), 8)
    assert available(torch.device("cuda"), 64)
