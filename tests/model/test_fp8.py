"""Products in 8-bit floats: exact where these are, near where they round, in training alone."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trivium.model import Decoder
from trivium.model.fp8 import FORWARD, GRADIENT, fp8_product
from trivium.model.layers import Linear
from trivium.objectives.lm import lm_loss

Make = Callable[..., Decoder]
Train = Callable[[Decoder, Callable[[], Tensor]], list[float]]
SHAPE = {"d_model": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "d_ff": 96}


def whole(shape: tuple[int, ...], largest: float, seed: int) -> Tensor:
    """Small whole numbers under one that makes the scale 1: 8 bits hold them all."""
    drawn = torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()
    drawn.view(-1)[0] = largest
    return drawn


@pytest.mark.parametrize("rows", [32, 37, 1])
def test_numbers_that_fit_are_multiplied_exactly(rows: int) -> None:
    x = whole((rows, 48), torch.finfo(FORWARD).max, 1).requires_grad_()
    weight = whole((64, 48), torch.finfo(FORWARD).max, 2).requires_grad_()
    grad = whole((rows, 64), torch.finfo(GRADIENT).max, 3)
    out = fp8_product(x, weight)
    out.backward(grad)
    assert torch.equal(out, x @ weight.t())
    assert x.grad is not None and torch.equal(x.grad, grad @ weight)
    assert weight.grad is not None and torch.equal(weight.grad, grad.t() @ x)


def test_others_are_rounded_once_a_factor() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, grad = (torch.randn(shape, generator=generator) for shape in ((3, 50, 64), (128, 64), (3, 50, 128)))
    x, grad = x.bfloat16().requires_grad_(), grad.bfloat16()
    weight.requires_grad_()
    out = fp8_product(x, weight)
    out.backward(grad)
    assert x.grad is not None and weight.grad is not None
    assert out.dtype == x.grad.dtype == torch.bfloat16 and weight.grad.dtype == torch.float32
    exact_x, exact_grad = x.detach().double().flatten(0, 1), grad.double().flatten(0, 1)
    exact = weight.detach().double()
    # 4 bits are off by 2^-4 of a number at most, 3 bits by 2^-3, evenly below it; two factors' errors add up
    fine, coarse = 2**-4 / 3**0.5, 2**-3 / 3**0.5
    for got, expected, most in (
        (out.flatten(0, 1), exact_x @ exact.t(), math.hypot(fine, fine)),
        (x.grad.flatten(0, 1), exact_grad @ exact, math.hypot(coarse, fine)),
        (weight.grad, exact_grad.t() @ exact_x, math.hypot(coarse, fine)),
    ):
        error = ((got.double() - expected).norm() / expected.norm()).item()
        assert most / 3 < error < most


def test_zeros_give_zeros() -> None:
    x = torch.zeros(16, 32, requires_grad=True)
    out = fp8_product(x, torch.zeros(16, 32))
    out.backward(torch.zeros_like(out))
    assert not out.any() and x.grad is not None and not x.grad.any()


def test_a_model_trains_by_them_and_is_measured_without(make_decoder: Make, train_briefly: Train) -> None:
    ids = torch.randint(48, (8, 32), generator=torch.Generator().manual_seed(0))
    everywhere, ended = torch.ones_like(ids, dtype=torch.bool), []
    for fp8 in (False, True):
        model = make_decoder(**SHAPE)
        model.compute_dtype = torch.bfloat16
        with torch.no_grad():
            before = model(ids)
            if fp8:
                model.train_in_fp8()
            assert torch.equal(model(ids), before)
        if fp8:
            assert not torch.equal(model(ids), before), "a pass with gradients is rounded"
        ended.append(train_briefly(model, lambda model=model: lm_loss(model(ids), ids, everywhere).mean))
    plain, rounded = ended
    assert plain[-1] < plain[0] / 2
    assert rounded[-1] == pytest.approx(plain[-1], abs=0.1 * (plain[0] - plain[-1]))


def test_sides_that_do_not_fit_stay_as_they_are(make_decoder: Make) -> None:
    model = make_decoder(**SHAPE | {"d_ff": 90})
    model.train_in_fp8()
    chosen = {name for name, module in model.blocks[0].named_modules() if isinstance(module, Linear) and module.fp8}
    assert chosen == {f"attention.{part}_proj" for part in "qkvo"}
    model(torch.ones(1, 5, dtype=torch.long)).sum().backward()
