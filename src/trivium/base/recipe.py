"""Recipes: a config from its defaults, a TOML file and `--section.field value` flags, and back to TOML.

Each value keeps the place it came from, so that an error names the flag, or the file and line, in one sentence.
"""

import datetime
import re
import textwrap
import tomllib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from trivium.base.config import Config
from trivium.base.errors import ConfigError
from trivium.base.files import check_regular
from trivium.base.flags import KeyPath, dotted, options_of, parts_of_union, read_flags, section_of, suggest
from trivium.base.toml import dump_toml

C = TypeVar("C", bound=Config)

MAX_VALUE_CHARACTERS = 60
"""Of a wrong value in a message."""


def load_config(cls: type[C], recipe: Path | None = None, overrides: Sequence[str] = ()) -> C:
    """Build a config: `cls`'s defaults, overridden by what the rest implies, by the TOML file, by the flags.

    Args:
        recipe: TOML file with one table per section.
        overrides: command line flags, e.g. `["--rl.kl_coef", "0.1", "--pretrain.compile=false"]`.
    Raises:
        ConfigError: names the flag, or the file and line, with the value and what was expected.
    """
    sources = _Sources()
    if recipe is not None:
        sources.read_file(recipe)
    for path, value in read_flags(cls, overrides):
        sources.override(path, value)
    given: dict[str, Any] = sources.values
    implied: dict[str, Any] = {}
    while True:
        sources.values = _defaults(cls)
        for layer in (implied, given):
            _merge(sources.values, deepcopy(layer))
        _fill_tags(cls, sources.values)
        try:
            config = cls.model_validate(sources.values)
        except ValidationError as error:
            raise ConfigError(_explain(error, sources, cls)) from None
        if (more := config.implied()) == implied:
            return config
        implied = more


def config_of(cls: type[C], values: dict[str, Any]) -> C:
    """A config from values that a program gives; wrong ones are `ConfigError`s as in a recipe."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, _Sources(values), cls)) from None


def dump_config(config: Config) -> str:
    """All values of `config` as TOML, each below its description; `load_config` reads it back equal."""
    lines: list[str] = []
    section: KeyPath = ()
    for line in dump_toml(_table(config)).splitlines():
        if match := _HEADER.fullmatch(line):
            section = _split(match[1])
            lines += _comment(_description(type(config), section))
        elif match := re.fullmatch(r"# (\w+) is not set", line) or _KEY.match(line):
            lines += _comment(_description(type(config), (*section, *_split(match[1]))))
        lines.append(line)
    return "\n".join(lines) + "\n"


def _defaults(cls: type[Config]) -> dict[str, Any]:
    """What `cls`'s sections set other than their own classes do: `optim: Optim = Optim(lr=0.1)` keeps its 0.1 when
    a recipe sets another field of `optim`.
    """
    values: dict[str, Any] = {}
    for name, info in cls.model_fields.items():
        value = info.get_default(call_default_factory=True)
        if section_of(info.annotation) and isinstance(value, Config):
            values[name] = _differences(value)
    return values


def _differences(section: Config) -> dict[str, Any]:
    values = _defaults(type(section))
    try:
        plain = type(section)()
    except ValidationError:  # has required fields
        plain = None
    for name in type(section).model_fields:
        value = getattr(section, name)
        if plain is not None and value == getattr(plain, name):
            continue
        values[name] = _differences(value) if isinstance(value, Config) else value
    return values


def _fill_tags(cls: type[Config], values: dict[str, Any]) -> None:
    """Who sets a field of a variant without naming the variant means the default one."""
    for option in options_of(cls):
        tag, default = option.field.discriminator, option.field.get_default(call_default_factory=True)
        given: Any = values
        for part in option.path:
            given = given.get(part) if isinstance(given, dict) else None
        if isinstance(tag, str) and isinstance(given, dict) and isinstance(default, Config):
            given.setdefault(tag, getattr(default, tag))


def _merge(below: dict[str, Any], above: dict[str, Any]) -> None:
    """Put `above`'s values over `below`'s, table by table, in place."""
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _merge(below[key], value)
        else:
            below[key] = value


@dataclass
class _Sources:
    """Values by section, and where each came from."""

    values: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    flags: set[KeyPath] = field(default_factory=set)

    def read_file(self, path: Path) -> None:
        """Take the values of a TOML file."""
        check_regular(path)
        try:
            text = path.read_bytes().decode("utf-8-sig")
            _merge(self.values, tomllib.loads(text))
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}). Save the recipe as UTF-8.") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot read the recipe: {error.strerror}. {_others(path)}") from None
        except tomllib.TOMLDecodeError as error:
            at = re.search(r"\(at line (\d+), column \d+\)", str(error))
            # An unclosed value is only noticed at the end of the file.
            line = at[1] if at else str(text.count("\n") + 1)
            reason = re.sub(r" \(at .*\)$", "", str(error))
            raise ConfigError(f"{path}:{line}: not valid TOML: {reason}.") from None
        self.file, self.lines = path, _line_numbers(text)

    def override(self, path: tuple[str, ...], value: Any) -> None:
        """Set the value that a flag gives."""
        self.flags.add(path)
        table = self.values
        for key in path[:-1]:
            if not isinstance(table.get(key), dict):
                table[key] = {}
            table = table[key]
        table[path[-1]] = value

    def place(self, path: KeyPath) -> str:
        """How a message names the value at `path`: the flag, or file, line and field."""
        name = dotted(path)
        for length in range(len(path), 0, -1):  # an item of a list stands where the list does
            if path[:length] in self.flags:
                return f"--{name}"
            if path[:length] in self.lines:
                return f"{self.file}:{self.lines[path[:length]]}: {name}"
        below = next((line for at, line in self.lines.items() if path and at[: len(path)] == path), None)
        if below is not None:
            return f"{self.file}:{below}: {name}"
        return name or (str(self.file) if self.file else "recipe")


_BARE_OR_QUOTED = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_BARE_OR_QUOTED}(?:\s*\.\s*{_BARE_OR_QUOTED})*"
_HEADER = re.compile(rf"\s*\[\[?\s*({_DOTTED})\s*\]?\]\s*(?:#.*)?")
_KEY = re.compile(rf"\s*({_DOTTED})\s*=")


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_BARE_OR_QUOTED, dotted))


def _line_numbers(text: str) -> dict[KeyPath, int]:
    """Line of each table and key; `tomllib` does not tell. Items of [[arrays]] are numbered from 0."""
    lines: dict[KeyPath, int] = {}
    section: KeyPath = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _HEADER.fullmatch(line):
            section = _split(match[1])
            if line.lstrip().startswith("[["):
                index = sum(1 for path in lines if path[:-1] == section and isinstance(path[-1], int))
                section = (*section, index)
            lines.setdefault(section, number)
        elif match := _KEY.match(line):
            lines.setdefault((*section, *_split(match[1])), number)
    return lines


def _others(path: Path) -> str:
    """What to do about a recipe that is not there."""
    others = [other.name for other in path.parent.glob("*.toml") if other.name != path.name]
    near = get_close_matches(path.name, others, n=1)
    return f"Did you mean {path.parent / near[0]}?" if near else "Check the path."


def _explain(error: ValidationError, sources: _Sources, cls: type[Config]) -> str:
    """One line for the first wrong field: place, what was expected, what was given."""
    problems: dict[KeyPath, list[Any]] = {}
    for entry in error.errors(include_url=False):
        problems.setdefault(_data_path(entry, sources.values), []).append(entry)
    path, entries = next(iter(problems.items()))
    if entries[0]["type"] == "union_tag_invalid":
        path = (*path, entries[0]["ctx"]["discriminator"].strip("'"))
    more = f" ({len(problems) - 1} more like this)" if len(problems) > 1 else ""
    kinds = {entry["type"] for entry in entries}
    place = sources.place(path)
    if "extra_forbidden" in kinds and (variants := _other_variants(cls, path)):
        return f"{place}: no such option of this kind. {variants}{more}"
    if "extra_forbidden" in kinds:
        return f"{place}: no such option. {suggest(path, cls)}{more}"
    if "missing" in kinds and isinstance(path[-1], int):
        return f"{sources.place(path[:-1])}: expected more than {path[-1]} values{more}."
    if "missing" in kinds:
        return f"{place} must be given{more}."
    # A union reports one error for each of its members; text of our own checks stands for itself.
    reasons = list(dict.fromkeys(_reason(entry) for entry in entries))
    given = entries[0]["ctx"]["tag"] if "union_tag_invalid" in kinds else entries[0].get("input")
    if kinds & {"value_error", "assertion_error"}:
        text = f"{reasons[0].rstrip('.')}{more}"
        return f"{place}: {text}" if text.endswith("?") else f"{place}: {text}."
    shown = "" if isinstance(given, dict) else f", got {_brief(given)}"
    return f"{place}: expected {' or '.join(reasons)}{shown}{more}."


def _brief(value: Any) -> str:
    text = value.isoformat() if isinstance(value, datetime.date | datetime.time) else repr(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[:MAX_VALUE_CHARACTERS]}…"


def _other_variants(cls: type[Config], path: KeyPath) -> str:
    """What to say of an unknown field below a choice of variants, empty elsewhere."""
    for option in options_of(cls):
        tag = option.field.discriminator
        if isinstance(tag, str) and path[: len(option.path)] == option.path and len(path) > len(option.path):
            kinds = [part.model_fields[tag].default for part in parts_of_union(option.field.annotation)]
            return f"Kinds are {', '.join(kinds)}: choose with --{dotted((*option.path, tag))}."
    return ""


def _data_path(entry: Any, values: Any) -> KeyPath:
    """The error's location as the user wrote it: without the names of union members that pydantic adds."""
    path: list[str | int] = []
    for part in entry["loc"]:
        if (isinstance(values, dict) and part in values) or (
            isinstance(values, list | tuple) and isinstance(part, int) and part < len(values)
        ):
            values = values[part]
            path.append(part)
        elif entry["type"] == "missing" and part == entry["loc"][-1]:
            path.append(part)
    # Defaults that are refused by a check have no value given by the user.
    return tuple(path) if path else tuple(entry["loc"])


_EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of at most 64 bits",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "path_type": "a path",
}


def _reason(entry: Any) -> str:
    if entry["type"] in _EXPECTED:
        return _EXPECTED[entry["type"]]
    if entry["type"] == "too_long":
        return f"at most {entry['ctx']['max_length']} values"
    if entry["type"] in ("value_error", "assertion_error"):
        return re.sub(r"^(Value error|Assertion failed), ", "", entry["msg"])
    if entry["type"] == "literal_error":
        return str(entry["ctx"]["expected"])
    if entry["type"] == "union_tag_invalid":
        return " or ".join(str(entry["ctx"]["expected_tags"]).rsplit(", ", 1))
    if entry["type"] == "union_tag_not_found":
        return f"a table with {entry['ctx']['discriminator']}"
    message = entry["msg"].removeprefix("Input should be ")
    return re.sub(r"^(greater|less|a multiple)", r"a value \1", message) if message != entry["msg"] else message


def _table(config: Config) -> dict[str, Any]:
    """Values as TOML can hold them; a field unset against its default is written `none`."""
    plain = config.model_dump(mode="json")
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Config):
            plain[name] = _table(value)
        elif value is None and info.get_default(call_default_factory=True) is not None:
            plain[name] = "none"
    return plain


def _description(cls: type[Config], path: KeyPath) -> str:
    """The docstring of the field at `path`, or of the class that a section without one is made of."""
    text = ""
    for part in path:
        info = cls.model_fields.get(str(part))
        if info is None:
            return ""
        section = section_of(info.annotation)
        text = info.description or ((section.__doc__ or "").strip().split("\n")[0] if section else "")
        cls = section or Config
    return text


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), width=110)]
