"""`trivium evaluate --utility`: U of every evaluation, computed again from the terms that the run has stored."""

import math
from typing import Any

from trivium.base.errors import RunDirError, StageFailed
from trivium.base.jsonl import read_json_records
from trivium.runs import RunDir

TERMS = ("sft", "reward", "omega", "total")
TOLERANCE = 1e-9


def recomputed(run: RunDir) -> list[dict[str, Any]]:
    """The rows of `utility.jsonl`, each with U computed again from its terms and weights as `recomputed`.

    Raises:
        RunDirError: the file is missing or damaged.
        StageFailed: a stored U is not that of its terms.
    """
    from trivium.objectives.utility import utility

    path = run.utility_path
    try:
        rows = [record.value for record in read_json_records(path)]
        for row in rows:
            weights = [float(row[name]) for name in ("alpha", "beta", "gamma")]
            row["recomputed"] = utility(*(float(row[name]) for name in TERMS[:3]), *weights)
            row["total"] = float(row["total"])
    except (KeyError, TypeError, ValueError):
        raise RunDirError(f"{path} is damaged. Evaluate again: trivium evaluate --force.") from None
    for row in rows:
        if not math.isclose(row["recomputed"], row["total"], rel_tol=0, abs_tol=TOLERANCE):
            raise StageFailed(
                f"{path}: U of {row['model']} in {row['stage']} is stored as {row['total']}, but its terms give "
                f"{row['recomputed']}. Evaluate again: trivium evaluate --force."
            )
    return rows


def utility_table(rows: list[dict[str, Any]]) -> str:
    """The rows as text: each term with its standard error."""
    table = [["", "stage", "step", "L_SFT", "L_R", "omega", "U", "n"]]
    for row in rows:
        cells = [f"{row[name]:.4f} ± {_error(row.get(f'{name}_se'))}" for name in TERMS]
        table.append([row["model"], row["stage"], str(row.get("step", "")), *cells, str(int(row["n"]))])
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    last = rows[-1]
    weights = f"{last['alpha']:g} · L_SFT + {last['beta']:g} · L_R + {last['gamma']:g} · omega"
    lines.append(f"U = {weights}; each of the {len(rows)} U was computed again from its terms and agrees to 1e-9.")
    return "".join(f"{line}\n" for line in lines)


def _error(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "?"
