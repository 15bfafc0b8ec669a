import math

import pytest
import torch
import torch.nn.functional as F

from trivium.objectives.lm import linear_cross_entropy, linear_lm_loss, lm_loss


def sample(dtype: torch.dtype, n: int = 37, d: int = 8, v: int = 19):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(v, d, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, v, (n,), generator=generator)


def test_lm_loss_by_hand():
    ln3 = math.log(3)
    logits = torch.tensor([[[0, ln3], [ln3, 0], [5, 7]], [[0, 0], [0, ln3], [1, 2]]], dtype=torch.float64)
    ids = torch.tensor([[0, 1, 1], [1, 0, 1]])
    mask = torch.tensor([[True, True, True], [True, False, True]])
    loss = lm_loss(logits, ids, mask)
    # Row 0: p(1) = 3/4, then p(1) = 1/4. Row 1: only its last token counts, p(1) = 3/4. Column 0 is never predicted.
    assert loss.loss_sum.item() == pytest.approx(-math.log(3 / 4 * 1 / 4 * 3 / 4), abs=1e-12)
    assert loss.count.item() == 3
    assert loss.metrics["nll"].item() == pytest.approx(loss.mean.item())


@pytest.mark.parametrize("chunk", [1, 5, 37, 1024])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_linear_cross_entropy_equals_plain(chunk, temperature):
    hidden, weight, targets = sample(torch.float64)
    grad = torch.linspace(-1, 2, 37, dtype=torch.float64)
    ours = linear_cross_entropy(hidden, weight, targets, chunk, temperature)
    plain = F.cross_entropy(hidden @ weight.t() / temperature, targets, reduction="none")
    torch.testing.assert_close(ours, plain, atol=1e-12, rtol=0)
    for got, expected in zip(
        torch.autograd.grad(ours, (hidden, weight), grad),
        torch.autograd.grad(plain, (hidden, weight), grad),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def test_linear_cross_entropy_survives_extreme_logits():
    hidden = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0]], requires_grad=True)
    nll = linear_cross_entropy(hidden, weight, torch.tensor([1, 1]))
    nll.sum().backward()
    assert nll.tolist() == [1000.0, 0.0]
    assert hidden.grad is not None and hidden.grad.isfinite().all()


def test_linear_cross_entropy_in_bf16_returns_fp32():
    hidden, weight, targets = sample(torch.bfloat16)
    nll = linear_cross_entropy(hidden, weight, targets)
    expected = F.cross_entropy((hidden @ weight.t()).float(), targets, reduction="none")
    torch.testing.assert_close(nll, expected, atol=1e-5, rtol=0)
    assert nll.dtype == torch.float32
    nll.sum().backward()
    assert hidden.grad is not None and hidden.grad.dtype == torch.bfloat16


def test_linear_cross_entropy_follows_autocast():
    hidden, weight, targets = sample(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        nll = linear_cross_entropy(hidden, weight, targets)
        expected = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none")
    torch.testing.assert_close(nll, expected, atol=1e-5, rtol=0)
    nll.sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_linear_lm_loss_equals_lm_loss(share):
    hidden, weight, _ = sample(torch.float64, n=30)
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 19, (3, 10), generator=generator)
    mask = torch.rand(3, 10, generator=generator) < share
    rows = hidden.view(3, 10, 8)
    ours, plain = linear_lm_loss(rows, weight, ids, mask, chunk=4), lm_loss(rows @ weight.t(), ids, mask)
    assert ours.count == plain.count == mask[:, 1:].sum()
    torch.testing.assert_close(ours.loss_sum, plain.loss_sum, atol=1e-12, rtol=0)
    for got, expected in zip(
        torch.autograd.grad(2 * ours.mean, (hidden, weight)),
        torch.autograd.grad(2 * plain.mean, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("form", ["sum", "tokens"])
def test_a_frozen_operand_leaves_the_others_gradient_as_it_is(frozen, form):
    def gradients(*fixed):
        operands = list(sample(torch.float64, n=30)[:2])
        for index in fixed:
            operands[index].requires_grad_(False)
        hidden, weight = operands
        ids = torch.arange(30).view(3, 10) % 19
        if form == "sum":
            linear_lm_loss(hidden.view(3, 10, 8), weight, ids, ids > 4, chunk=4).loss_sum.backward()
        else:
            linear_cross_entropy(hidden, weight, ids.flatten(), 4).sum().backward()
        return [operand.grad for operand in operands]

    both, one = gradients(), gradients(frozen)
    assert one[frozen] is None and torch.equal(one[1 - frozen], both[1 - frozen])


def test_lengths_must_match():
    with pytest.raises(ValueError, match="does not match"):
        linear_cross_entropy(torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(2, dtype=torch.long))
