"""Model text as HTML that cannot act: escaped, hidden characters shown by number, highlighted line by line."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

# By its own module: the package's lazy imports are not safe when two threads come first.
from pygments.lexers.python import PythonLexer
from pygments.token import STANDARD_TYPES

from trivium.base.text import visible
from trivium.preferences.judgement import Prompt
from trivium.preferences.votes import LETTERS

MOST_CHARACTERS = 20_000
"""Shown of one text; the rest is a link away as plain text."""
FOLD_LINES = 40
"""Beyond these, all answers of a page are folded at the same line."""


COLOURED = frozenset(["k", "ow", "s", "m", "nf", "nc", "nb", "nd", "fm", "ne", "c"])
"""Classes of highlighted text that the style sheet colours; most of a program is in none of them."""


@dataclass(frozen=True)
class Code:
    """A text ready for the page."""

    head: Markup
    """Lines before the fold."""
    rest: Markup
    """Lines after it; empty when there is no fold."""
    folded: int
    hidden: int
    """Characters that are not shown."""


@dataclass(frozen=True)
class Row:
    """One row of a diff side by side."""

    kind: str
    """`same`, `change`, `minus` or `plus`."""
    left_number: int | None
    left: str
    right_number: int | None
    right: str


def environment() -> Environment:
    """Templates in which everything is escaped and nothing undefined passes."""
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
    )
    env.globals |= {"letters": LETTERS}
    env.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.0f}%"
    env.filters["percents"] = lambda bounds: f"{100 * bounds[0]:.0f}–{100 * bounds[1]:.0f}%"
    env.filters["two"] = lambda value: "–" if value is None else f"{value:.2f}"
    env.filters["rate"] = lambda value: "–" if value is None else f"{value:.1f}"
    return env


def code(text: str, language: str, fold: int | None = FOLD_LINES) -> Code:
    """A text as lines, each in a span of its own."""
    shown = visible(text[:MOST_CHARACTERS]).removesuffix("\n")  # ends the last line, begins none
    lines = [Markup(f'<span class="l">{line}</span>') for line in _highlighted(shown, language)]
    if fold is None or len(lines) <= fold + 5:  # no fold for a handful of lines
        fold = len(lines)
    newline = Markup("\n")
    return Code(
        newline.join(lines[:fold]), newline.join(lines[fold:]), len(lines) - fold, max(0, len(text) - MOST_CHARACTERS)
    )


def _highlighted(text: str, language: str) -> list[str]:
    """Escaped lines; every span is closed at its line's end, and only kinds that have a colour get one."""
    if language == "text":
        return str(escape(text)).split("\n")
    # Answers continue a prompt: their leading blank lines and indentation belong to them.
    lines = [""]
    for kind, value in PythonLexer(stripnl=False, ensurenl=False).get_tokens(text):
        shade = _shade(kind)
        for at, part in enumerate(value.split("\n")):
            if at:
                lines.append("")
            if part:
                lines[-1] += f'<span class="{shade}">{escape(part)}</span>' if shade else str(escape(part))
    return lines


@cache
def _shade(kind: Any) -> str:
    """The class of a kind of token in the style sheet, or that of what it is a kind of; empty for ordinary text."""
    while kind:
        if STANDARD_TYPES.get(kind) in COLOURED:
            return STANDARD_TYPES[kind]
        kind = kind.parent
    return ""


def prompt_parts(prompt: Prompt, language: str) -> list[tuple[str, Code]]:
    """(role, text) of each turn; a plain prompt has one, without a role."""
    if isinstance(prompt, str):
        return [("", code(prompt, language))]
    return [(turn.role, code(turn.content, "text")) for turn in prompt]


def unified_diff(left: str, right: str) -> list[tuple[str, str]]:
    """(kind, line) of a unified diff; every line begins with its sign, so colour says nothing alone."""
    kinds = {"+": "plus", "-": "minus", "@": "place"}
    lines = difflib.unified_diff(_lines(left), _lines(right), n=3, lineterm="")
    return [(kinds.get(line[:1], "same"), line) for line in list(lines)[2:]]


def side_by_side(left: str, right: str) -> list[Row]:
    """Both texts in rows, changed lines facing each other."""
    one, two = _lines(left), _lines(right)
    rows: list[Row] = []
    for tag, i, j, k, m in difflib.SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        for at in range(max(j - i, m - k)):
            a, b = i + at if i + at < j else None, k + at if k + at < m else None
            kind = "same" if tag == "equal" else "minus" if b is None else "plus" if a is None else "change"
            rows.append(Row(kind, _number(a), _line(one, a), _number(b), _line(two, b)))
    return rows


def _lines(text: str) -> list[str]:
    return visible(text[:MOST_CHARACTERS]).removesuffix("\n").split("\n")


def _number(index: int | None) -> int | None:
    return None if index is None else index + 1


def _line(lines: Sequence[str], index: int | None) -> str:
    return "" if index is None else lines[index]


def verdict(sample: Any) -> str:
    """The outcome of a completion's tests in words."""
    if sample.passed is None:
        return "tests were not run" if not sample.verdict else f"no outcome ({sample.verdict})"
    word = "passed" if sample.passed else sample.verdict or "failed"
    if sample.tests_total:
        return f"{word}: {sample.tests_passed} of {sample.tests_total} tests pass"
    return word
