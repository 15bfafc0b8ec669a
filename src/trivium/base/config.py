"""Typed configuration: frozen, keyword-only, unknown keys refused; field docstrings are the help texts."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every stage's and part's configuration."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
