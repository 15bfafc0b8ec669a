"""Models small enough for any test, with weights that leave no part of them idle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:  # tests that need no torch should not wait for it
    from trivium.model import Decoder, Scorer

    Model = TypeVar("Model", bound=Decoder)

TINY = {
    "vocab_size": 48,
    "n_layers": 2,
    "d_model": 32,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 8,
    "d_ff": 48,
    "max_seq_len": 64,
}


@pytest.fixture(scope="session")
def make_decoder() -> Callable[..., Decoder]:
    """`make_decoder(seed=0, **shape)`: a random `Decoder` in fp32."""
    from trivium.model import Decoder

    def make(seed: int = 0, **shape: object) -> Decoder:
        return _random(Decoder, seed, shape)

    return make


@pytest.fixture(scope="session")
def make_scorer() -> Callable[..., Scorer]:
    """`make_scorer(seed=0, **shape)`: a random `Scorer` in fp32."""
    from trivium.model import Scorer

    def make(seed: int = 0, **shape: object) -> Scorer:
        return _random(Scorer, seed, shape)

    return make


def _random(kind: type[Model], seed: int, shape: dict[str, object]) -> Model:
    import torch

    from trivium.model import ModelConfig

    model = kind(ModelConfig.model_validate(TINY | shape))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.2 * noise)
    return model
