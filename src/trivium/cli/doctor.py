"""`trivium doctor`: what is in order and what is not, with what to do about it."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from trivium.cli.arguments import Arguments, positive, print_json
from trivium.cli.checks import Check, check_machine, check_model, check_sandbox
from trivium.cli.invocation import Invocation

DESCRIPTION = """\
Check the machine and its sandbox; with arguments, something else:
  trivium doctor RECIPE.toml [--section.field value ...]   a recipe
  trivium doctor model DIR                                 a model directory
  trivium doctor data FILE.jsonl --model DIR               which tokens of a data set carry loss
"""


def run(invocation: Invocation) -> int:
    """Check what the first argument names; the machine without one."""
    first, *rest = invocation.arguments or [""]
    if first in ("--help", "-h"):
        print(
            f"usage: trivium doctor [RECIPE.toml | model DIR | data FILE --model DIR] [--json]\n\n{DESCRIPTION}", end=""
        )
        return 0
    if first == "model":
        return _model(rest)
    if first == "data":
        return _data(rest)
    if first and not first.startswith("-"):
        return _recipe(invocation)
    parser = Arguments("doctor", "Check the machine and its sandbox.")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.read(invocation.arguments)
    return _show(_both(check_machine(), check_sandbox()), options.json, failure=1)


def _both(*parts: Iterable[Check]) -> Iterator[Check]:
    for part in parts:
        yield from part


def _show(checks: Iterable[Check], as_json: bool, failure: int) -> int:
    """Print findings as they come; `failure` is the exit code if one is a problem."""
    found = []
    for check in checks:
        found.append(check)
        if not as_json:
            print(check, flush=True)
    if as_json:
        print_json([asdict(check) for check in found])
    return failure if any(check.status == "problem" for check in found) else 0


def _recipe(invocation: Invocation) -> int:
    from trivium.base.recipe import dump_config, load_config
    from trivium.cli.options import read_recipe_arguments
    from trivium.stages.pipeline import Recipe

    arguments = read_recipe_arguments(invocation.arguments)
    recipe = load_config(Recipe, arguments.recipe, arguments.flags)
    if arguments.json:
        print_json(recipe.model_dump(mode="json"))
    else:
        sys.stdout.write(dump_config(recipe))
        print(f"\n{Check('recipe', f'{arguments.recipe} is valid; all its settings are above')}")
    return 0


def _model(arguments: list[str]) -> int:
    parser = Arguments("doctor model", "Check a model directory: files, weights, tokenizer, a forward pass.")
    parser.add_argument("folder", type=Path, help="model directory")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.read(arguments)
    return _show(check_model(options.folder), options.json, failure=2)


def _data(arguments: list[str]) -> int:
    parser = Arguments("doctor data", "Show which tokens of an SFT data set carry loss, and what would be left out.")
    parser.add_argument("file", type=Path, help="JSONL of prompts and responses, instructions or messages")
    parser.add_argument("--model", type=Path, required=True, help="model or tokenizer directory")
    parser.add_argument("--rows", type=positive, default=3, help="records shown [%(default)s]")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.read(arguments)

    from trivium.cli.loss_view import show_loss

    return show_loss(options.file, options.model, options.rows, options.json)
