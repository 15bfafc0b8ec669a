"""Typed configuration: frozen, keyword-only, unknown keys refused; field docstrings are the help texts."""

from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, model_validator


class Config(BaseModel):
    """Base of every stage's and part's configuration."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    adjustable: ClassVar[frozenset[str]] = frozenset()
    """Fields of a stage that may be given otherwise when it goes on: a healthy run's result does not depend on them."""

    @model_validator(mode="before")
    @classmethod
    def _none_from_text(cls, values: Any) -> Any:
        """TOML and flags have no null: `none` unsets a field that may be unset."""
        if not isinstance(values, dict):
            return values
        return {name: None if _means_none(cls, name, value) else value for name, value in values.items()}


def _means_none(cls: type[BaseModel], name: str, value: Any) -> bool:
    if not isinstance(value, str) or value.lower() != "none" or name not in cls.model_fields:
        return False
    return type(None) in get_args(cls.model_fields[name].annotation)
