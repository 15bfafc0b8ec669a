"""What U is measured from, against enumeration of all responses."""

import math
from collections.abc import Callable

import pytest
import torch

from trivium.evaluation.utility import response_kl
from trivium.generation import generate
from trivium.model import Decoder

PROMPT, EOS, CAP, SYMBOLS = [3, 1], 0, 3, 4
Make = Callable[..., Decoder]


def enumerated(policy: Decoder, reference: Decoder, temperature: float) -> float:
    """KL between the distributions over whole responses, by walking the tree of prefixes."""

    def walk(prefix: list[int]) -> float:
        ids = torch.tensor([PROMPT + prefix])
        p, q = ((model(ids)[0, -1] / temperature).log_softmax(-1) for model in (policy, reference))
        here = (p.exp() * (p - q)).sum().item()
        if len(prefix) + 1 == CAP:
            return here
        return here + sum(p[token].exp().item() * walk([*prefix, token]) for token in range(1, SYMBOLS))

    with torch.no_grad():
        return walk([])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_omega_is_the_divergence_of_whole_responses(make_decoder: Make, temperature: float) -> None:
    """Both estimates agree with the exact value within 4 standard errors."""
    policy, reference = (make_decoder(seed=seed, vocab_size=SYMBOLS, max_seq_len=8) for seed in (1, 0))
    count = 2000
    drawn = generate(
        policy, [PROMPT] * count, seeds=list(range(count)), max_new_tokens=CAP, stop_ids=[EOS], temperature=temperature
    )
    found = response_kl(policy, reference, [PROMPT], [sample.ids for sample in drawn], [0] * count, temperature)
    wanted = enumerated(policy, reference, temperature)
    assert wanted > 0.1
    for estimate in found:
        assert estimate.mean().item() == pytest.approx(wanted, abs=4 * estimate.std().item() / math.sqrt(count))


def test_omega_of_the_reference_is_zero(make_decoder: Make) -> None:
    model = make_decoder(vocab_size=SYMBOLS, max_seq_len=8)
    exact, sampled = response_kl(model, model, [PROMPT], [[1, 2, EOS], [3]], [0, 0], 1.0)
    assert exact.abs().max() <= 1e-6 and sampled.abs().max() <= 1e-6
