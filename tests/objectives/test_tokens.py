import math

import pytest
import torch

from trivium.objectives.tokens import (
    aggregate_loss,
    entropy,
    keep,
    masked_mean,
    sequence_logprobs,
    token_logprobs,
    upcast,
)

LN = math.log


def test_logprobs_by_hand():
    logits = torch.tensor([[[0.0, LN(3)], [LN(7), 0.0]]], dtype=torch.float64)
    expected = torch.tensor([[LN(3 / 4), LN(1 / 8)]], dtype=torch.float64)
    torch.testing.assert_close(token_logprobs(logits, torch.tensor([[1, 1]])), expected)


def test_temperature_divides_logits():
    logits = torch.tensor([[0.0, 2 * LN(3)]], dtype=torch.float64)
    assert token_logprobs(logits, torch.tensor([1]), temperature=2.0).item() == pytest.approx(LN(3 / 4), abs=1e-12)
    cold = entropy(logits, temperature=2.0).item()
    assert cold == pytest.approx(-(0.75 * LN(0.75) + 0.25 * LN(0.25)), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="above 0"):
        token_logprobs(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), temperature)


def test_shapes_must_match():
    with pytest.raises(ValueError, match="one row per id"):
        token_logprobs(torch.zeros(2, 3, 5), torch.zeros(2, 2, dtype=torch.long))


def test_half_precision_is_raised_before_arithmetic():
    logits = torch.randn(4, 100, generator=torch.Generator().manual_seed(0)).bfloat16()
    ids = torch.arange(4)
    logprobs = token_logprobs(logits, ids)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, torch.log_softmax(logits.double(), -1)[ids, ids].float(), atol=1e-6, rtol=0)
    assert upcast(logits.double()).dtype == torch.float64


def test_entropy_of_uniform_and_of_impossible_tokens():
    assert entropy(torch.zeros(8)).item() == pytest.approx(LN(8))
    logits = torch.tensor([0.0, 0.0, -math.inf], dtype=torch.float64, requires_grad=True)
    value = entropy(logits)
    value.backward()
    assert value.item() == pytest.approx(LN(2))
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_masked_positions_may_hold_anything():
    values = torch.tensor([[1.0, math.nan], [math.inf, 4.0]], requires_grad=True)
    mask = torch.tensor([[True, False], [False, True]])
    total = keep(values, mask).sum()
    total.backward()
    assert total.item() == 5.0
    assert values.grad is not None and values.grad.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert masked_mean(values, mask).item() == 2.5
    assert masked_mean(values, torch.zeros_like(mask)).item() == 0.0
    assert sequence_logprobs(values, mask).tolist() == [1.0, 4.0]


def test_aggregates_by_hand():
    losses = torch.tensor([[1.0, 2.0, 3.0], [10.0, 99.0, 99.0], [99.0, 99.0, 99.0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()  # the third sample is invalid
    results = {}
    for kind in ("seq_sum", "seq_mean", "token", "const"):
        loss_sum, count = aggregate_loss(losses, mask, kind)
        results[kind] = (loss_sum.item(), count.item())
    assert results == {"seq_sum": (16.0, 2), "seq_mean": (12.0, 2), "token": (16.0, 4), "const": (16.0, 6)}
    assert aggregate_loss(losses, mask, "const", l_max=32)[1].item() == 64


def test_unknown_aggregate_is_refused():
    with pytest.raises(ValueError, match="seq_sum, seq_mean, token, const"):
        aggregate_loss(torch.zeros(1, 1), torch.ones(1, 1).bool(), "mean")  # pyright: ignore
