"""Arguments of the commands that take no recipe: argparse, with errors in one line and near misses named."""

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from trivium.base.errors import ConfigError

MOST = 1_000_000
"""Answers, tokens or rows that can be asked for at a time."""


class Arguments(argparse.ArgumentParser):
    """A parser whose mistakes are `ConfigError`s."""

    def __init__(self, command: str = "", description: str = "", **rest: Any):
        super().__init__(**{"prog": f"trivium {command}", "allow_abbrev": False, **rest}, description=description)

    def error(self, message: str) -> NoReturn:
        """Called by argparse with what is wrong."""
        raise ConfigError(f"{message}. `{self.prog} --help` shows how it is used.")

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse all arguments; an unknown option is answered with its near miss."""
        namespace, unknown = self.parse_known_args(list(arguments))
        if unknown:
            given, names = unknown[0].partition("=")[0], _option_names(self)
            near = [name for name in names if len(given) > 3 and name.startswith(given)][:1]
            near = near or get_close_matches(given, names, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"`{self.prog} --help` shows how it is used."
            kind = "no such option" if unknown[0].startswith("-") else "unexpected argument"
            raise ConfigError(f"{unknown[0]}: {kind}. {hint}")
        return namespace


def _option_names(parser: argparse.ArgumentParser) -> list[str]:
    names = []
    for action in parser._actions:
        names += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            names += [name for part in action.choices.values() for name in _option_names(part)]
    return names


def print_json(value: object) -> None:
    """The result of a command called with `--json`, alone on standard output."""
    import json

    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def whole(text: str) -> int:
    """An argparse type: a whole number of at most 64 bits."""
    try:
        number = int(text)
    except ValueError:
        number = None
    if number is None or abs(number) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text[:40]!r}")
    return number


def positive(text: str) -> int:
    """An argparse type: a whole number from 1 to `MOST`."""
    number = whole(text)
    if not 1 <= number <= MOST:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MOST}, got {text!r}")
    return number


def share(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, got {text[:40]!r}")
    return number


def check_parent(path: Path) -> None:
    """Refuse a path to write to that no folder can hold."""
    if blocked := next((folder for folder in path.parents if folder.exists() and not folder.is_dir()), None):
        raise ConfigError(f"{path} cannot be written: {blocked} is not a folder. Name another place.")
