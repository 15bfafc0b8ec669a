import math

import pytest
import torch
from scipy import stats

from trivium.generation.sampling import sample_tokens, sample_uniforms

HALF = torch.tensor([0.0, 0.5, 0.25, 0.25]).log()


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.49, 1), (0.5, 2), (0.74, 2), (0.75, 3), (1 - 2**-24, 3)])
def test_a_uniform_number_inverts_the_distribution(uniform: float, token: int) -> None:
    ids, logprobs = sample_tokens(HALF[None], torch.tensor([uniform]), 1.0)
    assert ids.tolist() == [token]  # never token 0, which has no probability
    assert logprobs.item() == pytest.approx(HALF[token].item())


def test_temperature_scales_logits_and_their_log_probabilities() -> None:
    # at temperature 1/2 probabilities are squared: 1/4, 1/16, 1/16 of 3/8
    ids, logprobs = sample_tokens(HALF.expand(2, -1), torch.tensor([0.66, 0.67]), 0.5)
    assert ids.tolist() == [1, 2]
    assert logprobs.tolist() == pytest.approx([math.log(2 / 3), math.log(1 / 6)])


def test_greedy_takes_the_largest_and_reports_the_plain_softmax() -> None:
    ids, logprobs = sample_tokens(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([0.999]), 0.0)
    assert ids.item() == 1
    assert logprobs.item() == pytest.approx(3 - math.log(math.e + math.e**2 + math.e**3))


def test_draws_follow_the_softmax() -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(0)) * 2
    uniforms = sample_uniforms([5], 20_000)[0]
    ids, _ = sample_tokens(logits.expand(20_000, -1), uniforms, 1.3)
    expected = (logits / 1.3).softmax(0) * 20_000
    assert stats.chisquare(ids.bincount(minlength=30), expected, sum_check=False).pvalue > 0.01


def test_uniforms_belong_to_the_seed() -> None:
    numbers = sample_uniforms([3, 2**63 - 1, 3], 50)
    assert torch.equal(numbers[0], numbers[2]) and not torch.equal(numbers[0], numbers[1])
    assert torch.equal(sample_uniforms([2**63 - 1], 8), numbers[1:2, :8])  # a longer cap changes nothing before it
    assert numbers.min() >= 0 and numbers.max() < 1
    assert sample_uniforms([], 4).shape == (0, 4)
