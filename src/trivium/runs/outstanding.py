"""Stages that a forced run has still to replace: interrupted, it goes on without a second `--force`."""

import json

from trivium.base.files import write_json
from trivium.runs.directory import RunDir


def outstanding(run: RunDir) -> list[str]:
    """Names of the stages that are there from before and are to be begun anew when their turn comes."""
    try:
        return json.loads(run.outstanding_path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return []


def owe_all(run: RunDir) -> None:
    """A run is forced: whatever stages it has are to be replaced."""
    if names := [stage.name for stage in run.stages()]:
        write_json(run.outstanding_path, names)


def settle(run: RunDir, name: str) -> None:
    """A stage has been begun anew."""
    names = outstanding(run)
    if name in names:
        names.remove(name)
        if names:
            write_json(run.outstanding_path, names)
        else:
            run.outstanding_path.unlink()
