"""What commands on recipes share: the recipe's file, flags on its fields, and help made from the fields."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from trivium.base.config import Config
from trivium.base.errors import ConfigError
from trivium.base.flags import Option, options_of, parts_of_union, section_of

DEFAULT_RECIPE = "quickstart"
WIDTH = 34
"""Columns for an option's name and type; longer ones take a line of their own."""


@dataclass
class RecipeArguments:
    """The arguments of a command on a recipe, taken apart."""

    recipe: Path
    flags: list[str] = field(default_factory=list)
    """`--section.field value`, for the recipe's own fields."""
    json: bool = False
    force: bool = False
    help: bool = False


def read_recipe_arguments(arguments: Sequence[str]) -> RecipeArguments:
    """Split `[RECIPE.toml] [--json] [--force] [--help] [--section.field value ...]`.

    Raises:
        ConfigError: the recipe's name is neither a file nor built in.
    """
    given = bool(arguments) and not arguments[0].startswith("-")
    name = arguments[0] if given else DEFAULT_RECIPE
    rest = list(arguments[1:] if given else arguments)
    common = {"--json", "--force", "--help", "-h"}
    found = {argument for argument in rest if argument in common}
    return RecipeArguments(
        find_recipe(name),
        [argument for argument in rest if argument not in common],
        json="--json" in found,
        force="--force" in found,
        help=bool(found & {"--help", "-h"}),
    )


def find_recipe(name: str) -> Path:
    """The file of a recipe, given by path or by the name of a built-in one."""
    path, built_in = Path(name), builtin_recipes()
    if name in built_in and not path.is_file():
        return built_in[name]
    if path.is_file() or path.suffix == ".toml":
        return path
    near = get_close_matches(name, built_in, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Built in are: {', '.join(built_in)}."
    raise ConfigError(f"{name}: no such recipe file. {hint}")


def builtin_recipes() -> dict[str, Path]:
    """Recipes that come with Trivium: `quickstart`, `m0/small`, ..."""
    package = Path(__file__).resolve().parent.parent
    # Installed, they lie in the package; in a source tree, beside it.
    folder = next((place for place in (package / "recipes", package.parents[1] / "recipes") if place.is_dir()), None)
    found = {}
    for path in sorted(folder.rglob("*.toml")) if folder else ():
        place = path.relative_to(folder or path)
        name = place.parent if place.parent.name == place.stem else place.with_suffix("")
        found[name.as_posix()] = path
    return found


def describe(config: Config, usage: str, summary: str, sections: Sequence[str] = ()) -> str:
    """The help of a command on a recipe: every field with its type, description and value in the recipe.

    Args:
        config: the recipe as it would be run.
        sections: the sections that the command reads; all when empty.
    """
    lines = [f"usage: {usage}", "", summary, ""]
    lines += _rows([("--json", "print the result as JSON"), ("--force", "do again what is done already")])
    lines += _rows([("--help", "show this help")])
    section = None
    for option in options_of(type(config)):
        name = option.path[0] if len(option.path) > 1 else ""
        if name and sections and name not in sections:
            continue
        if name != section:
            section = name
            lines += ["", _heading(type(config), name)]
        lines += _rows(_option_rows(option, config))
    if sections:
        lines += ["", "`trivium run --help` lists the other sections."]
    return "\n".join(lines) + "\n"


def _option_rows(option: Option, config: Config) -> Iterator[tuple[str, str]]:
    name = f"--{'.'.join(option.path)}"
    tag = option.field.discriminator
    if not isinstance(tag, str):
        yield f"{name} {_metavar(option.field.annotation)}", _text(option, config)
        return
    variants = {part.model_fields[tag].default: part for part in parts_of_union(option.field.annotation)}
    chosen = getattr(_value(option, config), tag)
    yield f"{name}.{tag} {'|'.join(variants)}", f"{option.field.description or ''} [{chosen}]"
    for value, variant in variants.items():
        for part, info in variant.model_fields.items():
            if part != tag:
                text = f"With {value}: {info.description or ''} [{_shown(info.get_default())}]"
                yield f"{name}.{part} {_metavar(info.annotation)}", text


def _heading(cls: type[Config], section: str) -> str:
    if not section:
        return "general"
    info = cls.model_fields[section]
    part = section_of(info.annotation)
    about = info.description or (part.__doc__ if part else "") or ""
    return f"{section}: {about.strip().splitlines()[0]}" if about.strip() else section


def _metavar(annotation: Any) -> str:
    parts = parts_of_union(annotation)
    return "|".join(dict.fromkeys(_type_name(part) for part in parts))


def _type_name(annotation: Any) -> str:
    names = {bool: "true|false", int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}
    origin = get_origin(annotation)
    if annotation in names:
        return names[annotation]
    if origin is Literal:
        return "|".join(str(value) for value in get_args(annotation))
    if origin in (list, tuple, set, frozenset):
        inner = [part for part in get_args(annotation) if part is not Ellipsis]
        return f"{_type_name(inner[0]) if inner else 'TEXT'} ..."
    return "JSON"


def _text(option: Option, config: Config) -> str:
    return f"{option.field.description or ''} [{_shown(_value(option, config))}]".strip()


def _value(option: Option, config: Config) -> Any:
    value: Any = config
    for part in option.path:
        value = getattr(value, part, None)
    return value


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return " ".join(_shown(item) for item in value) or "empty"
    if isinstance(value, Config):
        return value.model_dump_json(exclude_defaults=True)
    return str(value) if value != "" else "empty"


def _rows(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    columns = max(60, min(110, shutil.get_terminal_size().columns))
    for name, text in rows:
        words = " ".join(text.split())
        wrapped = textwrap.wrap(words, columns - WIDTH - 2, break_long_words=False, break_on_hyphens=False) or [""]
        if len(name) > WIDTH - 4:
            yield f"  {name}"
        else:
            yield f"  {name:<{WIDTH - 2}}{wrapped.pop(0)}".rstrip()
        yield from (" " * WIDTH + line for line in wrapped)
