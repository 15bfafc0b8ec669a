"""Arguments of the commands that take no recipe: argparse, with errors in one line and near misses named."""

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from trivium.base.errors import ConfigError


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
            near = get_close_matches(unknown[0].partition("=")[0], _option_names(self), n=1)
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


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return number
