"""Text as a reader sees it, whoever wrote it."""

import unicodedata
from typing import Any

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def visible(value: Any) -> Any:
    """Text in which control, direction-changing and broken characters are shown by number, not obeyed."""
    if type(value) is not str:  # Markup has passed here before
        return value
    if value.isprintable():
        return value
    return "".join(
        f"⟨U+{ord(letter):04X}⟩" if letter not in "\n\t" and unicodedata.category(letter) in _HIDDEN else letter
        for letter in value
    )
