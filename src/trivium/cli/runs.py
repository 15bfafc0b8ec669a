"""`trivium runs` and `trivium report`: what was run, from what, and the page about it."""

from pathlib import Path
from typing import Any

from trivium.cli.arguments import Arguments, print_json
from trivium.cli.invocation import Invocation


def run(invocation: Invocation) -> int:
    """The table of runs, or the stages of one run."""
    parser = Arguments("runs", "List runs with their stages and parents, or the stages of one run.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs"), help="of runs, or one run [%(default)s]")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.read(invocation.arguments)

    from trivium.runs import RunDir, gather_lineage, list_runs, runs_table

    one = RunDir(options.folder)
    if one.stages():
        lineage = gather_lineage(one)
        print_json(lineage) if options.json else print(_stage_table(lineage))
        return 0
    rows = list_runs(options.folder)
    if options.json:
        print_json(rows)
    else:
        print(runs_table(rows) if rows else f"{options.folder} holds no run yet; `trivium run` makes one")
    return 0


def _stage_table(lineage: dict[str, Any]) -> str:
    from trivium.base.log import format_duration

    rows = [("stage", "status", "wall time", "from")]
    notes = []
    for name, manifest in lineage["stages"].items():
        parents = ", ".join(manifest["parents"]) or "-"
        rows.append((name, manifest["status"], format_duration(manifest["wall_seconds"]), parents))
        notes += [f"{name}: {warning}" for warning in manifest["warnings"]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def report(invocation: Invocation) -> int:
    """Write a run's report."""
    parser = Arguments("report", "Write a run's report.html: one file that opens offline.")
    parser.add_argument(
        "run", type=Path, nargs="?", default=Path("runs/quickstart"), help="run directory [%(default)s]"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.read(invocation.arguments)

    from trivium.report import write_report

    path = write_report(options.run)
    print_json({"path": str(path)}) if options.json else print(path)
    return 0
