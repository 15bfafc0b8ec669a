"""A shape's zeros are filled in, whether numbers come as such or as the text of a flag."""

import pytest
from pydantic import ValidationError

from trivium.model import ModelConfig


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
