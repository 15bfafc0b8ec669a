"""Where results come from: the stages' manifests in one file, and the table of runs under a folder."""

import json
from pathlib import Path
from typing import Any

from trivium.base.errors import RunDirError
from trivium.base.files import write_json
from trivium.runs.directory import RunDir
from trivium.runs.manifest import read_manifest

MODELS = ("M0", "M1", "M2")


def gather_lineage(run: RunDir) -> dict[str, Any]:
    """`{"run", "stages": {name: manifest}, "wall_seconds"}`, the stages in the order in which they were begun."""
    manifests = [manifest for stage in run.stages() if (manifest := read_manifest(stage)) is not None]
    manifests.sort(key=lambda manifest: (manifest.started, manifest.stage))
    return {
        "run": run.name,
        "stages": {manifest.stage: manifest.model_dump(mode="json") for manifest in manifests},
        "wall_seconds": round(sum(manifest.wall_seconds for manifest in manifests), 3),
    }


def write_lineage(run: RunDir) -> Path:
    """Write `lineage.json` from the manifests as they stand."""
    write_json(run.lineage_path, gather_lineage(run))
    return run.lineage_path


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs under `folder`, oldest first, ready for JSON.

    Returns:
        rows `{"name", "path", "stages": {name: status}, "parents": [paths of other runs' artifacts],
        "pass_at_1": {"M0": x or None, ...}, "wall_seconds", "started", "problem": str or None}`.
    Raises:
        RunDirError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunDirError(f"{folder} is not a folder of runs. Name one, or make the first run with `trivium run`.")
    candidates = [RunDir(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    rows = [_row(run) for run in candidates if run.recipe_path.exists() or run.stages()]
    return sorted(rows, key=lambda row: (row["started"], row["name"]))


def runs_table(rows: list[dict[str, Any]]) -> str:
    """`list_runs` as aligned text."""
    header = ["run", "stages", "parents", "pass@1 M0 → M1 → M2", "wall time"]
    cells = [header]
    for row in rows:
        stages = " ".join(name if status == "done" else f"{name}({status})" for name, status in row["stages"].items())
        passes = " → ".join(_percent(row["pass_at_1"][model]) for model in MODELS)
        known = any(row["pass_at_1"][model] is not None for model in MODELS)
        line = [row["name"], row["problem"] or stages or "-", ", ".join(row["parents"]) or "-"]
        cells.append([*line, passes if known else "-", _duration(row["wall_seconds"])])
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(lines)


def _row(run: RunDir) -> dict[str, Any]:
    row: dict[str, Any] = {"name": run.name, "path": str(run.path), "stages": {}, "parents": [], "problem": None}
    row |= {"pass_at_1": dict.fromkeys(MODELS), "wall_seconds": 0.0, "started": ""}
    try:
        lineage = gather_lineage(run)
    except RunDirError as error:  # one broken run must not hide the others
        row["problem"] = str(error)
        return row
    stages = lineage["stages"]
    row["stages"] = {name: manifest["status"] for name, manifest in stages.items()}
    # An artifact of the same run has a bare name; what has a folder in it comes from elsewhere.
    outside = [parent for manifest in stages.values() for parent in manifest["parents"] if "/" in parent]
    row["parents"] = list(dict.fromkeys(outside))
    row["pass_at_1"] = _pass_at_1(run)
    row["wall_seconds"] = lineage["wall_seconds"]
    row["started"] = min((manifest["started"] for manifest in stages.values()), default="")
    return row


def _pass_at_1(run: RunDir) -> dict[str, float | None]:
    """From summary.json, which a run that is still going does not have yet."""
    found: dict[str, float | None] = dict.fromkeys(MODELS)
    try:
        models = json.loads(run.summary_path.read_bytes())["models"]
        found |= {model: models[model].get("pass_at_1") for model in MODELS if model in models}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return found


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {whole % 60:02d}s"
