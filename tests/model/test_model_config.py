"""A shape's zeros are filled in, whether numbers come as such or as the text of a flag."""

import pytest
from pydantic import ValidationError

from trivium.model import Decoder, ModelConfig


@pytest.mark.parametrize("width", [192, "192"])
def test_zeros_are_derived_from_the_width(width: int | str) -> None:
    config = ModelConfig.model_validate({"vocab_size": 10, "d_model": width})
    assert (config.n_heads, config.n_kv_heads, config.head_dim, config.d_ff) == (3, 3, 64, 512)


@pytest.mark.parametrize(
    ("values", "told"),
    [({"d_model": "many"}, "d_model"), ({"n_heads": -1}, "n_heads"), ({"n_heads": 4, "n_kv_heads": 3}, "multiple")],
)
def test_an_impossible_shape_is_refused(values: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ModelConfig.model_validate({"vocab_size": 10} | values)


def test_heads_share_the_width_unless_their_own_is_given() -> None:
    with pytest.raises(ValidationError, match="d_model = 100 is not a multiple of n_heads = 3"):
        ModelConfig.model_validate({"d_model": 100, "n_heads": 3})
    assert ModelConfig.model_validate({"d_model": 100, "n_heads": 3, "head_dim": 32}).head_dim == 32


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_without_a_model(family: str, tied: bool) -> None:
    values = {"family": family, "tie_embeddings": tied, "d_model": 96, "n_heads": 6, "n_kv_heads": 2, "vocab_size": 50}
    config = ModelConfig.model_validate({**values, "n_layers": 3})
    assert config.parameter_count == Decoder(config).parameter_count()
