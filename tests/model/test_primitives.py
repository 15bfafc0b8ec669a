"""The hand-written kernels against PyTorch's own, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.model.attention import attend, document_bias
from trivium.model.layers import RMSNorm, _CPURMSNorm
from trivium.model.rope import rotary_table, rotate

NO = float("-inf")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def slopes(out: Tensor, *inputs: Tensor) -> list[Tensor]:
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(99))
    return [grad.float() for grad in torch.autograd.grad((out.float() * weights).sum(), inputs)]


def test_document_bias_by_hand() -> None:
    bias = document_bias(torch.tensor([[-1, 0, 1, 0, 1]]), torch.float32)
    expected = [[0, NO, NO, NO, NO], [NO, 0, NO, NO, NO], [NO, 0, 0, NO, NO], [NO, NO, NO, 0, NO], [NO, NO, NO, 0, 0]]
    assert bias.tolist() == [[expected]]


def test_branches_see_the_trunk_and_themselves() -> None:
    # a trunk of two tokens, branches of two and one; then another document
    bias = document_bias(torch.tensor([[0, 1, 2, 3, 2, 0]]), torch.float32, branches=torch.tensor([[0, 0, 1, 1, 2, 0]]))
    seen = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [5]]
    assert [(row == 0).nonzero()[:, 0].tolist() for row in bias[0, 0]] == seen


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("packed", [False, True])
def test_bf16_attention_is_close_to_fp32(kv_heads: int, packed: bool) -> None:
    length = 12
    inputs = [normal(2, heads, length, 8, seed=k) for k, heads in enumerate((4, kv_heads, kv_heads))]
    positions = torch.cat((torch.arange(7), torch.arange(5))).expand(2, -1)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        cast = [each.detach().to(dtype).requires_grad_() for each in inputs]
        out = attend(cast[0], cast[1], cast[2], document_bias(positions, dtype) if packed else None)
        assert out.dtype == dtype
        found.append([out.float(), *slopes(out, *cast)])
    for exact, rounded in zip(*found, strict=True):  # bf16 keeps 8 bits: 0.4 % a rounding
        assert (exact - rounded).norm() < 0.015 * exact.norm()


def test_grouped_queries_are_shared_keys_repeated() -> None:
    queries, keys, values = normal(1, 4, 6, 8), normal(1, 2, 6, 8, seed=1), normal(1, 2, 6, 8, seed=2)
    plain = torch.stack([
        ((queries[0, head] @ keys[0, head // 2].T) * 8**-0.5 + torch.full((6, 6), NO).triu(1)).softmax(-1)
        @ values[0, head // 2]
        for head in range(4)
    ])  # fmt: skip
    torch.testing.assert_close(attend(queries, keys, values, None)[0], plain)


def test_norm_on_a_cpu_has_the_gradient_of_rms_norm() -> None:
    x, weight = normal(5, 3, 16), normal(16, seed=1)
    ours, theirs = _CPURMSNorm.apply(x, weight, 1e-3), F.rms_norm(x, (16,), weight, 1e-3)
    assert isinstance(ours, Tensor)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    for actual, expected in zip(slopes(ours, x, weight), slopes(theirs, x, weight), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_norm_in_bf16_is_close_to_fp32() -> None:
    norm, x = RMSNorm(16, 1e-6), normal(4, 16)
    with torch.no_grad():
        norm.weight.copy_(normal(16, seed=1))
    half = x.detach().bfloat16().requires_grad_()
    exact, rounded = norm(x), norm(half)
    assert rounded.dtype == torch.bfloat16
    wanted = [exact, *slopes(exact, x, norm.weight)]
    for expected, actual in zip(wanted, [rounded.float(), *slopes(rounded, half, norm.weight)], strict=True):
        assert (expected - actual).norm() < 0.01 * expected.norm()


def test_rotation_is_its_own_gradient_turned_back() -> None:
    cos, sin = (table.double() for table in rotary_table(5, 8, 100.0))
    x = normal(2, 5, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda each: rotate(each, cos, sin), (x,))
    turned = rotate(x, cos, sin)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    shifted = rotate(x[:, :1].expand(-1, 5, -1), cos, sin)  # one vector at every position
    scores = shifted @ shifted.transpose(-1, -2)
    torch.testing.assert_close(scores[:, 1:, 1:], scores[:, :-1, :-1])  # only distances matter
