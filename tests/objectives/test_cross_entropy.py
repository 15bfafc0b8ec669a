"""Cross-entropy and its gradient by compiled code and by PyTorch's operations, against fp64."""

import math

import pytest
import torch
from torch import Tensor

from trivium.base import compiled
from trivium.objectives.cross_entropy import SOURCE, CrossEntropy

FORMS = [
    pytest.param(
        "compiled",
        marks=pytest.mark.skipif(compiled.library(SOURCE) is None, reason="needs a C++ compiler"),
    ),
    "plain",
]
WIDTHS = [1, 7, 16, 19, 61, 512]
"""Of rows: whole numbers of a processor's vectors, and others."""


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(compiled, "library", lambda source: None)
    return request.param


def sample(width: int, dtype: torch.dtype, rows: int = 23) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(width)
    logits = torch.randn(rows, width, generator=generator).mul(4).to(dtype)
    targets = torch.randint(0, width, (rows,), generator=generator)
    return logits, targets, torch.linspace(-1.5, 2, rows)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_value_and_the_gradient(form: str, width: int, temperature: float, dtype: torch.dtype) -> None:
    logits, targets, scales = sample(width, dtype)
    exact = logits.double().clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(exact / temperature, targets, reduction="none")
    expected.backward(scales.double() * temperature)
    assert exact.grad is not None
    untouched = logits.clone()
    cross_entropy = CrossEntropy(logits, len(logits), width, temperature)
    found = cross_entropy(logits, targets)
    assert torch.equal(logits, untouched), "the value alone leaves the logits as they are"
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found.double(), expected.detach(), atol=tolerance, rtol=0)
    assert torch.equal(cross_entropy(logits, targets, True, scales), found)
    rounding = 2.0**-8 if dtype == torch.bfloat16 else tolerance
    torch.testing.assert_close(logits.double(), exact.grad, atol=tolerance, rtol=rounding)


def test_without_scales_they_are_one(form: str) -> None:
    one, targets, _ = sample(61, torch.float32)
    other, cross_entropy = one.clone(), CrossEntropy(one, len(one), 61)
    cross_entropy(one, targets, True)
    cross_entropy(other, targets, True, torch.ones(len(one)))
    assert torch.equal(one, other) and one.sum(1).abs().max() < 1e-5, "probabilities less one at the target"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extremes(form: str, dtype: torch.dtype) -> None:
    """Far apart, forbidden and broken logits; a row's fault stays in its row."""
    rows = [[1000.0, 0, 0], [-1000.0, 0, 0], [-math.inf, 1, 1], [math.nan, 1, 1], [1, math.inf, 1], [1, 1, 1]]
    logits = torch.tensor([[*row, *[-math.inf] * 30] for row in rows], dtype=dtype)
    nll = CrossEntropy(logits, len(rows), 33)(logits, torch.tensor([1, 0, 1, 1, 0, 2]), True)
    assert nll[0].item() == 1000 and nll[1].item() == pytest.approx(1000 + math.log(2), abs=1e-3)
    assert nll[2].item() == pytest.approx(math.log(2)) and nll[5].item() == pytest.approx(math.log(3))
    assert nll[3].isnan() and not nll[4].isfinite()
    assert logits[[0, 1, 2, 5]].isfinite().all() and not logits[3:5].isfinite().all(1).any()
    assert torch.equal(logits[0, :3], torch.tensor([1, -1, 0], dtype=dtype))


@pytest.mark.parametrize("target", [-1, 3, -100])
def test_a_target_that_is_no_logit_is_refused(form: str, target: int) -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises((IndexError, RuntimeError)):
        CrossEntropy(logits, 2, 3)(logits, torch.tensor([0, target]))


def test_neither_threads_nor_neighbours_change_a_bit(form: str) -> None:
    logits, targets, scales = sample(512, torch.bfloat16, rows=70)
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        part = logits.clone()
        found.append((CrossEntropy(part, 70, 512)(part, targets, True, scales), part))
    torch.set_num_threads(before)
    single = logits[40:41].clone()
    alone = CrossEntropy(single, 1, 512)(single, targets[40:41], True, scales[40:41])
    for one, other, own in zip(*found, (alone, single), strict=True):
        assert torch.equal(one, other) and torch.equal(one[40:41], own)
