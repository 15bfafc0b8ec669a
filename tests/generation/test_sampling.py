import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from trivium.generation import sampling
from trivium.generation.sampling import sample_uniforms
from trivium.generation.step import draw_tokens, library

Draw = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


@pytest.fixture(params=["PyTorch", "compiled"])
def sample_tokens(request: pytest.FixtureRequest) -> Draw:
    """Both ways to draw."""
    if request.param == "PyTorch":
        return sampling.sample_tokens
    if library() is None:
        pytest.skip("needs a C++ compiler")

    def draw(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        ids, logprobs = draw_tokens(logits, uniforms.numpy(), temperature, threads=2)
        return torch.from_numpy(ids), torch.from_numpy(logprobs)

    return draw


HALF = torch.tensor([0.0, 0.5, 0.25, 0.25]).log()


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.49, 1), (0.5, 2), (0.74, 2), (0.75, 3), (1 - 2**-24, 3)])
def test_a_uniform_number_inverts_the_distribution(sample_tokens: Draw, uniform: float, token: int) -> None:
    ids, logprobs = sample_tokens(HALF[None], torch.tensor([uniform]), 1.0)
    assert ids.tolist() == [token]  # never token 0, which has no probability
    assert logprobs.item() == pytest.approx(HALF[token].item())


def test_temperature_scales_logits_and_their_log_probabilities(sample_tokens: Draw) -> None:
    # at temperature 1/2 probabilities are squared: 1/4, 1/16, 1/16 of 3/8
    ids, logprobs = sample_tokens(HALF.expand(2, -1), torch.tensor([0.66, 0.67]), 0.5)
    assert ids.tolist() == [1, 2]
    assert logprobs.tolist() == pytest.approx([math.log(2 / 3), math.log(1 / 6)])


def test_greedy_takes_the_largest_and_reports_the_plain_softmax(sample_tokens: Draw) -> None:
    ids, logprobs = sample_tokens(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([0.999]), 0.0)
    assert ids.item() == 1
    assert logprobs.item() == pytest.approx(3 - math.log(math.e + math.e**2 + math.e**3))


def test_draws_follow_the_softmax(sample_tokens: Draw) -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(0)) * 2
    uniforms = torch.from_numpy(sample_uniforms([5], 20_000)[0])
    ids, _ = sample_tokens(logits.expand(20_000, -1), uniforms, 1.3)
    expected = (logits / 1.3).softmax(0) * 20_000
    assert stats.chisquare(ids.bincount(minlength=30), expected, sum_check=False).pvalue > 0.01


@pytest.mark.parametrize("count", [63, 64, 65, 1000])
def test_a_draw_from_many_ids_is_the_plain_inverse_and_never_one_without_probability(
    sample_tokens: Draw, count: int
) -> None:
    """Ids are searched in blocks; the reference cumulates all of them in fp64."""
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(count, generator=generator) * 3
    logits[torch.rand(count, generator=generator) < 0.3] = -math.inf
    logits[[0, -1]] = -math.inf
    uniforms = torch.cat((torch.linspace(0, 1, 5001)[:-1], torch.tensor([1 - 2**-24])))
    ids, logprobs = sample_tokens(logits.expand(len(uniforms), -1), uniforms, 1.0)
    assert logprobs.isfinite().all()
    cumulative = logits.double().softmax(0).cumsum(0)
    expected = torch.searchsorted(cumulative, uniforms.double(), right=True)
    far_from_edges = (uniforms[:, None] - cumulative).abs().amin(1) > 1e-6
    assert torch.equal(ids[far_from_edges], expected[far_from_edges]) and far_from_edges.float().mean() > 0.9
    assert torch.allclose(logprobs.double(), logits.double().log_softmax(0)[ids], atol=1e-5)


def test_uniforms_belong_to_the_seed() -> None:
    numbers = sample_uniforms([3, 2**63 - 1, 3], 50)
    assert np.array_equal(numbers[0], numbers[2]) and not np.array_equal(numbers[0], numbers[1])
    assert np.array_equal(sample_uniforms([2**63 - 1], 8), numbers[1:2, :8])  # a longer cap changes nothing before it
    assert numbers.min() >= 0 and numbers.max() < 1
    assert sample_uniforms([], 4).shape == (0, 4)
