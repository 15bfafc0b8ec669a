"""Run the benchmarks that compare and write RESULTS.md and results.json beside this file.

    make bench
    make bench ARGS=--quick        does all of it run? writes nothing beside this file

Each script runs in a process of its own. A script that fails is named and the others still run. Baselines that are not
installed are named too.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from turns import Result, table

HERE = Path(__file__).parent
RACE = "time_to_quality.py"
SCRIPTS = ("train.py", "growth.py", "generate.py", "tokenizer.py", "rlhf.py", RACE)


def run(script: str, flags: list[str]) -> dict[str, Any] | None:
    """One script's record, None where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        command = [sys.executable, str(HERE / script), "--results", str(file), *flags]
        if subprocess.run(command, check=False).returncode or not file.exists():
            return None
        return json.loads(file.read_text())


def machine() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "a processor that does not tell its name"


def page(
    found: list[Result],
    ceilings: dict[str, dict[str, float]],
    failed: list[str],
    seconds: float,
    left_out: Sequence[str] = (),
) -> str:
    """RESULTS.md."""
    first = found[0]
    names = list(next(iter(ceilings.values())))
    libraries = ", ".join(f"{name} {version}" for name, version in first.versions.items() if version)
    lines = [
        "# Benchmarks",
        "",
        f"Written by `make bench` on {machine()}, {first.settings['threads']} threads, in {seconds / 60:.0f} minutes.",
        f"{libraries}.",
        "",
        "Contestants take turns; a ratio is the median of the turns' ratios, with the lowest and the highest. Rates",
        "are medians. The last column is the ratio that the products of weights alone would allow, all at the rate of",
        "a large product in bf16 below: what is missed beyond it, no engine with the same arithmetic reaches here.",
        "",
        table(found),
        "",
        "## What the hardware does, measured in the same process",
        "",
        "| script | " + " | ".join(names) + " |",
        "|---|" + "---:|" * len(names),
    ]
    for script, figures in ceilings.items():
        lines.append(f"| {script} | " + " | ".join(f"{figures[name]:.0f}" for name in names) + " |")
    lines += ["", "## Settings", ""]
    settings = {each.name: each.settings for each in found}
    for name, values in settings.items():
        lines.append(f"- {name}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
    if failed:
        lines += ["", f"Not measured, because the script failed: {', '.join(failed)}."]
    if left_out:
        lines += ["", "## Left out", "", *(f"- {each}" for each in left_out)]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run all, write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two turns of small work each; writes nothing")
    parser.add_argument("--turns", type=int, help="turns of each contestant; the race to quality is always one")
    chosen = parser.parse_args()
    flags = ["--quick"] * chosen.quick
    turns = ["--turns", str(chosen.turns)] if chosen.turns else []
    began, failed = time.perf_counter(), []
    found: list[Result] = []
    ceilings: dict[str, dict[str, float]] = {}
    left_out: list[str] = []
    for script in SCRIPTS:
        print(f"== {script}", flush=True)
        record = run(script, flags if script == RACE else flags + turns)
        if record is None:
            failed.append(script)
            continue
        found += [Result(**each) for each in record["results"]]
        ceilings[script] = record["ceiling"]
        left_out += record["left_out"]
    if found and not chosen.quick:
        (HERE / "results.json").write_text(json.dumps([vars(each) for each in found], indent=2) + "\n")
        (HERE / "RESULTS.md").write_text(page(found, ceilings, failed, time.perf_counter() - began, left_out))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
