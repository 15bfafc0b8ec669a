"""What the readers of preference records share: one record's yield, and what is wrong with a field."""

from typing import Any, NamedTuple

from trivium.preferences.judgement import Judgement


class FieldError(ValueError):
    """A record cannot be used: the field and the reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)


class Parsed(NamedTuple):
    """What one record says."""

    judgements: list[Judgement]
    ignored: set[str]
    """Fields that nothing is done with."""


def text_field(value: dict[str, Any], field: str) -> str:
    """The text in a field of a record.

    Raises:
        FieldError: it is missing or no text.
    """
    text = value.get(field)
    if not isinstance(text, str):
        raise FieldError(field, "is missing" if field not in value else f"should be a string, is {shown(text)}")
    return text


def shown(value: Any) -> str:
    """A value as messages show it: as in JSON where that differs, and short."""
    text = {True: "true", False: "false", None: "null"}.get(value) if isinstance(value, bool | None) else repr(value)
    assert text is not None
    return text if len(text) <= 40 else text[:37] + "..."
