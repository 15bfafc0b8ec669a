"""`trivium run` and the commands of the single stages: load a recipe, run the pipeline, print what came out."""

import sys
from typing import Any

from trivium.cli.arguments import print_json
from trivium.cli.invocation import Invocation

SECTIONS = {
    "tokenizer": ("data", "tokenizer"),
    "data": ("data",),
    "pretrain": ("compute", "model", "pretrain"),
    "sft": ("compute", "sandbox", "sft"),
    "collect": ("compute", "sandbox", "collect"),
    "reward": ("compute", "reward"),
    "rl": ("compute", "sandbox", "rl"),
    "evaluate": ("compute", "sandbox", "evaluate"),
}
"""The sections of a recipe that a stage's help lists."""


def run(invocation: Invocation) -> int:
    """The whole pipeline."""
    return _pipeline(invocation, None)


def run_stage(invocation: Invocation) -> int:
    """The stage that the command is called after."""
    return _pipeline(invocation, invocation.command)


def _pipeline(invocation: Invocation, only: str | None) -> int:
    from trivium.base.log import route_warnings
    from trivium.base.recipe import load_config
    from trivium.cli.options import describe, read_recipe_arguments

    terms = only == "evaluate" and "--utility" in invocation.arguments
    arguments = read_recipe_arguments([each for each in invocation.arguments if not (terms and each == "--utility")])

    from trivium.base.ranks import is_main
    from trivium.stages.pipeline import Recipe, run_pipeline

    recipe = load_config(Recipe, arguments.recipe, [] if arguments.help else arguments.flags)
    if arguments.help:
        from trivium.cli.program import COMMANDS

        extra = " [--utility]" if only == "evaluate" else ""
        usage = f"trivium {invocation.command} [RECIPE.toml]{extra} [--section.field value ...]"
        summary = COMMANDS[invocation.command].summary
        sections = SECTIONS[only] if only else ()
        sys.stdout.write(describe(recipe, usage, summary[0].upper() + summary[1:] + ".", sections))
        return 0
    route_warnings()
    invocation.directory = recipe.directory
    invocation.resumable = True
    summary = run_pipeline(recipe, only=only, force=arguments.force)
    if not is_main():
        return 0
    if "models" in summary:
        from trivium.base.log import say
        from trivium.report import write_report

        say(f"report: {write_report(recipe.directory)}")
    if terms:
        from trivium.cli.utility import recomputed, utility_table
        from trivium.runs import RunDir

        rows = recomputed(RunDir(recipe.directory))
        sys.stdout.write(utility_table(rows)) if not arguments.json else print_json(rows)
    elif arguments.json:
        print_json(summary)
    else:
        sys.stdout.write(format_summary(summary))
    return 0


WIDTH = 110
"""Characters in a line of figures."""


def format_summary(summary: dict[str, Any]) -> str:
    """The pipeline's result as text: the table of models, then what the other parts have to say."""
    lines: list[str] = []
    plain: dict[str, Any] = {}
    for name, value in summary.items():
        if name == "models":
            lines += [*_model_table(value), ""]
        elif isinstance(value, dict):
            lines += _paragraph(f"{name.replace('_', ' ')}: ", value)
        else:
            plain[name] = value
    if plain:
        lines += _paragraph("", plain)
    return "".join(f"{line}\n" for line in lines)


def _model_table(models: dict[str, dict[str, Any]]) -> list[str]:
    rows = [["", "pass@1", "95% interval", "pass@10", "bits/byte", "L_SFT", "L_R", "omega", "U"]]
    for name, row in models.items():
        low, high = row.get("pass_at_1_ci") or (None, None)
        interval = "-" if low is None else f"{_percent(low)} - {_percent(high)}"
        cells = [name, _percent(row.get("pass_at_1")), interval, _percent(row.get("pass_at_10"))]
        cells += [_decimal(row.get(key)) for key in ("bits_per_byte", "L_SFT", "L_R", "omega", "U")]
        rows.append(cells)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _paragraph(head: str, values: dict[str, Any]) -> list[str]:
    """Figures in lines of at most `WIDTH` characters; where one is too little, what is nested has lines of its own."""
    nested = {key: value for key, value in values.items() if isinstance(value, dict)}
    whole = _filled(head, _figures(values))
    if len(whole) < 2 or not nested:
        return whole
    lines = _filled(head, _figures({key: value for key, value in values.items() if key not in nested}))
    for key, value in nested.items():
        lines += _filled(f"  {key.replace('_', ' ')}: ", _figures(value))
    return lines


def _filled(head: str, figures: list[str]) -> list[str]:
    lines = [head.rstrip() if head and not figures else head]
    for figure in figures:
        begins = lines[-1] == head or not lines[-1].strip()
        if not begins and len(lines[-1]) + 2 + len(figure) > WIDTH:
            lines.append("    ")
            begins = True
        lines[-1] += figure if begins else f"  {figure}"
    return lines


def _figures(values: dict[str, Any], above: str = "") -> list[str]:
    """`name value` of each, nested ones after the names above them; tables are left to `--json`."""
    from trivium.base.log import format_number

    found = []
    for key, value in values.items():
        name = above + key.replace("_", " ")
        if isinstance(value, dict):
            found += _figures(value, f"{name} ")
        elif isinstance(value, list):
            if not any(isinstance(item, (dict, list)) for item in value):
                found.append(f"{name} {' - '.join(format_number(item) for item in value)}")
        else:
            found.append(f"{name} {'-' if value is None else format_number(value)}")
    return found
