"""Typed configuration: frozen, keyword-only, unknown keys refused; field docstrings are the help texts."""

from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

LARGEST = 2**63 - 1
"""Whole numbers beyond 64 bits are nobody's steps, and neither TOML nor tensors hold them."""

MOST = 1_000_000
"""Rows, prompts or samples that are in memory at a time: no machine holds more."""


class Config(BaseModel):
    """Base of every stage's and part's configuration."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    adjustable: ClassVar[frozenset[str]] = frozenset()
    """Fields of a stage that may be given otherwise when it goes on: a healthy run's result does not depend on them."""

    def implied(self) -> dict[str, Any]:
        """Values, by section and field, that follow from this config where nobody gives them.

        `load_config` puts them between the defaults and what is given, until nothing more follows; so they may depend
        on each other, but not in a circle.
        """
        return {}

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, values: Any) -> Any:
        """TOML and flags have no null: `none` unsets a field that may be unset. And `true` is no 1."""
        if not isinstance(values, dict):
            return values
        return {name: _as_written(cls, name, value) for name, value in values.items()}

    @field_validator("*", mode="after")
    @classmethod
    def _can_be_written(cls, value: Any) -> Any:
        """Whether a resolved recipe can hold the value: a number of 64 bits, a text of characters without NUL."""
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"expected a whole number of at most 64 bits, got one of {len(str(abs(value)))} digits")
        if isinstance(value, str):
            if "\0" in value:
                raise ValueError(f"holds a NUL character: {value!r}")
            if not value.isprintable() and any("\ud800" <= character <= "\udfff" for character in value):
                raise ValueError(f"is not UTF-8: {value!r}")
        return value


def _as_written(cls: type[BaseModel], name: str, value: Any) -> Any:
    if name not in cls.model_fields:
        return value
    annotation = cls.model_fields[name].annotation
    kinds = {annotation, *get_args(annotation)}
    if isinstance(value, str) and value.lower() == "none" and type(None) in kinds:
        return None
    if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
        return str(value).lower()  # which no number is read from
    return value
