"""Compiled norms, gates and rotations against their definitions in fp64, forwards and backwards."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trivium.base import compiled
from trivium.batch import Batch
from trivium.model import Decoder, ModelConfig
from trivium.model.fused_layers import SOURCE, available, fused_gate, fused_norm
from trivium.model.rope import rotary_table, rotate
from trivium.training.losses import next_token_loss

pytestmark = pytest.mark.skipif(compiled.library(SOURCE) is None, reason="needs a C++ compiler")
WIDTHS = [1, 6, 16, 40, 192]
"""Whole numbers of a processor's vectors, and others."""
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 5e-3}
"""Of the largest error, to the size of what is computed."""
EPS = 1e-3


def normal(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    leaves = [each.detach().requires_grad_() for each in inputs]
    out = function(*leaves)
    grad = normal(*out.shape, seed=9, dtype=torch.bfloat16).to(out.dtype)  # the same numbers in every type
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def check(ours: Callable[..., Tensor], exact: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    tolerance = TOLERANCES[inputs[0].dtype]
    found, expected = with_gradients(ours, inputs), with_gradients(exact, [each.double() for each in inputs])
    with torch.no_grad():
        assert torch.equal(ours(*inputs), found[0]), "the same without a gradient"
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == inputs[0].dtype and one.shape == other.shape
        assert (one.double() - other).norm() <= tolerance * other.norm() + 1e-12


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight


def gate(x: Tensor, up: Tensor) -> Tensor:
    return x / (1 + (-x).exp()) * up


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("width", WIDTHS)
def test_norms(width: int, dtype: torch.dtype) -> None:
    """Of more rows than one block of sums has, and of a tensor that does not lie in one piece."""
    x, weight = normal(5, 60, width, seed=1, dtype=dtype), normal(width, seed=2, dtype=dtype)
    check(lambda x, weight: fused_norm(x, weight, EPS), norm, [x, weight])
    check(lambda x, weight: fused_norm(x, weight, EPS), norm, [x.transpose(0, 1), weight])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("width", WIDTHS)
def test_gates(width: int, dtype: torch.dtype) -> None:
    x, up = normal(7, width, seed=1, dtype=dtype) * 4, normal(7, width, seed=2, dtype=dtype)
    check(fused_gate, gate, [x, up])
    check(fused_gate, gate, [x.t(), up.t()])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("width", [2, 8, 40, 64])
@pytest.mark.parametrize("shared", [True, False])
def test_rotations(width: int, dtype: torch.dtype, shared: bool) -> None:
    """By the angles of a row's places, which all rows share, or by those of every token's own position."""
    cos, sin = rotary_table(30, width, 100.0)
    at = torch.arange(7) if shared else torch.randint(0, 30, (3, 7), generator=torch.Generator().manual_seed(0))
    cos, sin = ((table[at] if shared else table[at][:, None]).to(dtype) for table in (cos, sin))
    x = normal(3, 7, 2, width, seed=1, dtype=dtype)
    check(lambda x: rotate(x, cos, sin), lambda x: turned(x, cos.double(), sin.double()), [x.transpose(1, 2)])


def test_extremes() -> None:
    """What is far out has a limit, and what is broken stays so."""
    far = torch.tensor([-1e4, -90.0, 90.0, 1e4, torch.nan, torch.inf], requires_grad=True)
    out = fused_gate(far, torch.ones(6))
    out.sum().backward()
    assert out[:4].tolist() == pytest.approx([0, 0, 90, 1e4], abs=1e-30)
    assert out[4].isnan() and not out[5].isfinite()
    assert far.grad is not None and far.grad[:4].tolist() == pytest.approx([0, 0, 1, 1], abs=1e-30)
    rows = torch.tensor([[0.0, 0.0], [1e-20, 0], [torch.nan, 1]])
    normed = fused_norm(rows, torch.ones(2), 1e-6)
    assert torch.equal(normed[0], torch.zeros(2)) and normed[1].isfinite().all() and normed[2].isnan().all()


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype) -> None:
    x, weight = normal(700, 48, seed=1, dtype=dtype), normal(48, seed=2, dtype=dtype)
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(with_gradients(lambda x, weight: fused_norm(x, weight, EPS), [x, weight]))
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
def test_a_model_computes_the_same_with_them_and_without(
    make_decoder: Callable[..., Decoder], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_decoder(family=family)
    ids = torch.randint(0, 48, (2, 9), generator=torch.Generator().manual_seed(0))

    def measured() -> list[Tensor]:
        model.zero_grad()
        out = model(ids)
        out.square().mean().backward()
        return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    ours = measured()
    monkeypatch.setattr(compiled, "library", lambda source: None)
    assert not available(model.embedding.weight)
    for one, other in zip(ours, measured(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_gradients_in_bf16_are_as_near_to_fp64_as_those_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the loss of packed documents with pads: attention, layers and cross-entropy, all compiled code at once.

    Neither further off, nor leaning: along the exact gradient they have its length.
    """
    model = Decoder(ModelConfig(vocab_size=300, n_layers=3, d_model=96, max_seq_len=96))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.1, generator=generator)
    ids = torch.randint(0, 300, (12, 96), generator=generator)
    positions = torch.cat([torch.arange(length) for length in (40, 25, 31)]).repeat(12, 1)
    positions[3:, 65:] = -1
    batch = Batch(ids, (torch.rand(12, 96, generator=generator) < 0.5) & (positions > 0), positions)

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        copied = copy.deepcopy(model).to(torch.promote_types(dtype, torch.float32))
        copied.compute_dtype = dtype
        next_token_loss(copied, batch).loss_sum.backward()
        return [p.grad.double().flatten() for p in copied.parameters() if p.grad is not None]

    found = [gradients(torch.float64), gradients(torch.bfloat16)]
    monkeypatch.setattr(compiled, "library", lambda source: None)
    found.append(gradients(torch.bfloat16))
    sizes = [each.norm() for each in found[0]]  # so that every matrix counts alike
    exact, ours, plain = (torch.cat([g / size for g, size in zip(each, sizes, strict=True)]) for each in found)
    assert 0 < (ours - exact).norm() < 1.1 * (plain - exact).norm()
    assert (ours @ exact) / (exact @ exact) == pytest.approx(1, abs=0.005)


def test_they_are_for_a_cpu_alone() -> None:
    assert available(torch.zeros(1)) and available(torch.zeros(1, dtype=torch.bfloat16))
    assert not available(torch.zeros(1, dtype=torch.float64)) and not available(torch.zeros(1, device="meta"))
