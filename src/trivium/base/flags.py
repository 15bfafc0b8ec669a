"""Command line flags for a config: `--section.field value` read by the fields' types, with a hint for a near miss.

Read here rather than by a library: each value keeps the flag it came from, so that an error can name it.
"""

import json
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from trivium.base.config import Config
from trivium.base.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""Where a value stands in a config: names of sections and fields, indices in lists."""

BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Option:
    """One field that a flag or a TOML key can set."""

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def kind(self) -> str:
        """`bool`, `sequence`, `open` (keys below it are not known beforehand) or `scalar`."""
        kinds = {_kind(part) for part in parts_of_union(self.field.annotation)}
        return next((kind for kind in ("open", "sequence", "bool") if kind in kinds), "scalar")


def read_flags(cls: type[Config], flags: Sequence[str]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The (path, value) of each flag; values are text, lists of text, booleans or what JSON gave.

    Raises:
        ConfigError: an unknown option, a missing value.
    """
    options = {option.path: option for option in options_of(cls)}
    position = 0
    while position < len(flags):
        token = flags[position]
        if not token.startswith("--") or token == "--":
            raise ConfigError(f"unexpected argument {token!r}. Options are written --section.field value.")
        path, inline, negated = _split_flag(token, options)
        kind = _flag_kind(path, options, cls)
        end = position + 1
        if inline is not None:
            words = [inline]
        elif negated:
            words = ["false"]
        else:
            end = _end_of_values(flags, end, kind)
            words = list(flags[position + 1 : end])
        yield path, _flag_value(token, kind, words)
        position = end


def option_names(cls: type[Config]) -> list[str]:
    """Dotted names of all fields that can be set, in order."""
    return [".".join(option.path) for option in options_of(cls)]


def suggest(path: KeyPath, cls: type[Config], prefix: str = "") -> str:
    """A near miss: by the whole name, or by the field's own name in another section."""
    if fields := _item_fields(path, cls):
        near = get_close_matches(str(path[-1]), fields, n=1)
        return f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(fields)}."
    names = option_names(cls)
    near = get_close_matches(dotted(path), names, n=1, cutoff=0.75)
    if not near:
        lasts = {name: name.rpartition(".")[2] for name in names}
        meant = get_close_matches(str(path[-1]), lasts.values(), n=1, cutoff=0.75)
        near = [name for name, last in lasts.items() if meant and last == meant[0]][:3]
    if near:
        return f"Did you mean {' or '.join(prefix + name for name in near)}?"
    return "`trivium run --help` lists all options."


def _item_fields(path: KeyPath, cls: type[Config]) -> list[str]:
    """The fields of what a list or table holds, where `path` leads into one."""
    for option in options_of(cls):
        if len(path) > len(option.path) and path[: len(option.path)] == option.path:
            items = [part for member in get_args(option.field.annotation) for part in parts_of_union(member)]
            return [name for part in items if section_of(part) for name in part.model_fields]
    return []


def dotted(path: KeyPath) -> str:
    """`section.field`."""
    return ".".join(str(part) for part in path)


def options_of(cls: type[Config], above: tuple[str, ...] = ()) -> Iterator[Option]:
    """All fields of a config, in order; those of its sections in their place."""
    for name, info in cls.model_fields.items():
        section = section_of(info.annotation)
        if section is None:
            yield Option((*above, name), info)
        else:
            yield from options_of(section, (*above, name))


def parts_of_union(annotation: Any) -> list[Any]:
    """The members of a union other than None, `Annotated` taken off."""
    if get_origin(annotation) is Annotated:
        return parts_of_union(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for member in get_args(annotation) for part in parts_of_union(member) if part is not type(None)]
    return [annotation]


def section_of(annotation: Any) -> type[Config] | None:
    """The config class of a field that is a section of its own."""
    parts = parts_of_union(annotation)
    if len(parts) == 1 and isinstance(parts[0], type) and issubclass(parts[0], Config):
        return parts[0]
    return None


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation) or annotation
    if annotation is bool:
        return "bool"
    if origin is dict or (isinstance(origin, type) and issubclass(origin, Config)):
        return "open"
    return "sequence" if origin in (list, tuple, set, frozenset) else "scalar"


def _split_flag(token: str, options: dict[tuple[str, ...], Option]) -> tuple[tuple[str, ...], str | None, bool]:
    """(path, value after `=`, whether it is the `--no-` form of a switch)."""
    name, equals, value = token[2:].partition("=")
    path = tuple(name.replace("-", "_").split("."))
    positive = (path[0].removeprefix("no_"), *path[1:])
    if path not in options and positive in options and options[positive].kind == "bool" and not equals:
        return positive, None, True
    return path, value if equals else None, False


def _flag_kind(path: tuple[str, ...], options: dict[tuple[str, ...], Option], cls: type[Config]) -> str:
    if path in options:
        return options[path].kind
    if any(path[:length] in options and options[path[:length]].kind == "open" for length in range(1, len(path))):
        return "scalar"
    inside = [option for option in options if option[: len(path)] == path]
    if inside:
        example = ".".join(inside[0])
        raise ConfigError(f"--{dotted(path)} is a section. Name one of its fields, for example --{example}.")
    raise ConfigError(f"--{dotted(path)}: no such option. {suggest(path, cls, '--')}")


def _end_of_values(flags: Sequence[str], start: int, kind: str) -> int:
    """Index after the values that follow a flag."""
    following = flags[start] if start < len(flags) else "--"
    if kind == "bool":
        return start + 1 if following.lower() in BOOLEANS else start
    if kind == "sequence":
        return next((i for i in range(start, len(flags)) if flags[i].startswith("--")), len(flags))
    return start if following.startswith("--") else start + 1


def _flag_value(token: str, kind: str, words: list[str]) -> Any:
    if kind == "bool" and not words:
        return True
    if kind != "sequence" and not words:
        raise ConfigError(f"{token} needs a value.")
    if kind in ("sequence", "open") and len(words) == 1 and words[0][:1] in ("[", "{"):
        try:
            return json.loads(words[0])
        except ValueError as error:
            raise ConfigError(f"{token} {words[0]}: not valid JSON: {error}.") from None
    if kind == "sequence":
        return "none" if words == ["none"] else words
    return BOOLEANS.get(words[0].lower(), words[0]) if kind == "bool" else words[0]
