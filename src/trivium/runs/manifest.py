"""A stage's manifest: what it was made from, where it stands, and whether it need be done again."""

import json
import logging
import os
import platform
import sys
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from trivium.base.errors import RunDirError
from trivium.base.files import write_json, write_text
from trivium.base.fingerprint import fingerprint, fingerprint_path
from trivium.base.toml import dump_toml
from trivium.runs.directory import StageDir

Status = Literal["running", "done", "interrupted", "failed"]
Decision = Literal["fresh", "resume", "done"]

MAX_DIFFERENCES = 8
MAX_VALUE_CHARACTERS = 60

log = logging.getLogger(__name__)


class Manifest(BaseModel):
    """`manifest.json`. Fields of later versions are kept out of the way rather than refused."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    stage: str
    status: Status
    fingerprint: str
    """Digest of stage, config, inputs, code and seed: equal fingerprints mean the same work."""
    config: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    """Name to fingerprint of the content that went in."""
    code: str = ""
    """Fingerprint of the source of all modules that the stage uses."""
    seed: int = 0
    parents: list[str] = Field(default_factory=list)
    """Artifacts that the stage started from: `M0`, or a path for another run's."""
    outputs: dict[str, str] = Field(default_factory=dict)
    """Path relative to the run directory, to fingerprint, as they were when the stage was done."""
    versions: dict[str, str | None] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(default_factory=dict)
    started: str = ""
    """ISO 8601 time of the first start."""
    session_started: str = ""
    """ISO 8601 time of the last start or resume."""
    finished: str | None = None
    wall_seconds: float = 0.0
    """Time at work, summed over resumes; of a killed session, up to its last written file."""
    resumes: int = 0
    result: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    """Rows dropped, prompts truncated, sandbox level, fallbacks."""

    @field_validator("started", "session_started")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        if value:
            _parse(value)
        return value


def read_manifest(stage: StageDir) -> Manifest | None:
    """The stage's manifest, or None where the stage was never begun.

    Raises:
        RunDirError: the file is not a manifest.
    """
    try:
        return Manifest.model_validate_json(stage.manifest_path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunDirError(
            f"{stage.manifest_path} cannot be read: {error.strerror}. Look at what stands there."
        ) from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise RunDirError(
            f"{stage.manifest_path} is not a manifest ({where + ': ' if where else ''}{problem['msg']}). "
            "Start the stage again with --force, or give the run another name."
        ) from error


def open_stage(
    stage: StageDir,
    *,
    config: dict[str, Any],
    inputs: dict[str, str],
    code: str,
    seed: int,
    parents: list[str],
    adjustable: Collection[str] = (),
    force: bool = False,
) -> Decision:
    """Decide whether a stage is begun, resumed or already done, and record that it is running.

    Call it with the run locked. Values are compared as JSON, so tuples and lists are alike.

    Args:
        config: the resolved config, JSON-able (`Config.model_dump(mode="json")`).
        inputs: name to fingerprint of everything read.
        code: `fingerprint_modules` of the stage's module.
        parents: artifacts that the stage starts from, for lineage only: their content belongs in `inputs`.
        adjustable: keys of `config` that may differ from those the stage was begun with.
        force: delete the stage's folder and begin again.
    Returns:
        `fresh` (empty folder), `resume` (go on from the newest checkpoint) or `done` (nothing to do).
    Raises:
        RunDirError: the folder holds the work of another config, other inputs or other code, a done stage's
            output was altered, or the folder is not a stage's.
    """
    config = json.loads(json.dumps(config, allow_nan=False))
    fixed = {key: value for key, value in config.items() if key not in adjustable}
    identity = {"stage": stage.name, "config": fixed, "inputs": inputs, "code": code, "seed": seed}
    wanted = fingerprint(identity)
    if force:
        _wipe(stage)
    manifest = read_manifest(stage)
    now = _now()
    if manifest is not None and manifest.fingerprint != wanted and _achieved_nothing(stage, manifest):
        _wipe(stage)  # there is nothing that a corrected recipe or file would overwrite
        manifest = None
    if manifest is None:
        _refuse_foreign_folder(stage)
        manifest = Manifest(**identity, status="running", fingerprint=wanted, parents=parents, started=now)
        decision: Decision = "fresh"
    else:
        if manifest.fingerprint != wanted:
            begun = {key: value for key, value in manifest.config.items() if key not in adjustable}
            raise RunDirError(_difference_message(stage, manifest.model_copy(update={"config": begun}), identity))
        if manifest.status == "done" and _outputs_whole(stage, manifest):
            return "done"
        seconds = manifest.wall_seconds + _unrecorded_seconds(stage, manifest)
        manifest = manifest.model_copy(update={"wall_seconds": seconds, "resumes": manifest.resumes + 1})
        decision = "resume"
    update = {"status": "running", "session_started": now, "finished": None, "config": config}
    update |= {"versions": _versions(), "machine": _machine()}
    _write(stage, manifest.model_copy(update=update))
    write_text(stage.config_path, dump_toml(config))
    return decision


def close_stage(
    stage: StageDir,
    status: Literal["done", "interrupted", "failed"],
    result: dict[str, Any] | None = None,
    *,
    outputs: Iterable[Path] = (),
) -> Manifest:
    """Record how a stage ended.

    Args:
        result: JSON-able figures for tables and the report; None keeps what was recorded before.
        outputs: files and folders in the run directory that the stage made and nobody writes to afterwards (so
            not `preferences.db`). Should one be missing later, the stage is not done; altered, it is refused.
    """
    manifest = read_manifest(stage)
    if manifest is None:
        raise RunDirError(f"{stage.manifest_path} vanished while the stage ran. Start it again.")
    root = stage.run.path.resolve()
    recorded = {path.resolve().relative_to(root).as_posix(): fingerprint_path(path) for path in outputs}
    seconds = (_parse(_now()) - _parse(manifest.session_started)).total_seconds()
    manifest = manifest.model_copy(
        update={
            "status": status,
            "result": manifest.result if result is None else result,
            "outputs": recorded,
            "finished": _now(),
            "wall_seconds": round(manifest.wall_seconds + max(0.0, seconds), 3),
        }
    )
    _write(stage, manifest)
    return manifest


def add_warning(stage: StageDir, message: str) -> None:
    """Record, once, what a reader of the results must know: dropped rows, sandbox level, fallbacks."""
    manifest = read_manifest(stage)
    if manifest is None:
        raise RunDirError(f"{stage.path} has no manifest to record a warning in. Open the stage first.")
    if message not in manifest.warnings:
        _write(stage, manifest.model_copy(update={"warnings": [*manifest.warnings, message]}))


def record_machine(stage: StageDir, **facts: Any) -> None:
    """Add to what the manifest says of the machine that this session runs on."""
    manifest = read_manifest(stage)
    if manifest is None:
        raise RunDirError(f"{stage.path} has no manifest to record the machine in. Open the stage first.")
    _write(stage, manifest.model_copy(update={"machine": manifest.machine | facts}))


def _write(stage: StageDir, manifest: Manifest) -> None:
    write_json(stage.manifest_path, manifest.model_dump(mode="json"))


def _achieved_nothing(stage: StageDir, manifest: Manifest) -> bool:
    return manifest.status == "failed" and not any(stage.checkpoints.glob("*"))


def _wipe(stage: StageDir) -> None:
    """Put the folder aside: it is deleted when the new one stands, and comes back should the input be bad."""
    if stage.path.exists():
        log.warning("replacing %s: the stage starts again", stage.path)
        stage.path.rename(stage.replaced)


def _refuse_foreign_folder(stage: StageDir) -> None:
    """A stage writes its manifest first, so other files in a folder without one are not its own."""
    if stage.path.exists() and not stage.path.is_dir():
        raise RunDirError(f"{stage.path} is not a folder, so the stage cannot be there. Give the run another name.")
    names = sorted(path.name for path in stage.path.glob("*") if not path.name.startswith("."))
    if names:
        raise RunDirError(
            f"{stage.path} holds {names[0]} but no manifest.json, so it is not this stage's work. "
            "Delete the folder with --force, or give the run another name."
        )


def _outputs_whole(stage: StageDir, manifest: Manifest) -> bool:
    for name, recorded in manifest.outputs.items():
        path = stage.run.path / name
        if not path.exists():
            log.warning("%s is missing: the stage %s makes it again", path, stage.name)
            return False
        if fingerprint_path(path) != recorded:
            raise RunDirError(
                f"{path} was altered since the stage {stage.name} made it. "
                "Make it again with --force, or give the run another name to keep it."
            )
    return True


def _difference_message(stage: StageDir, manifest: Manifest, identity: dict[str, Any]) -> str:
    old_config = dict(_flat(manifest.config, "config"))
    new_config = dict(_flat(identity["config"], "config"))
    found = [
        f"{key}: {_shown(old_config, key)} → {_shown(new_config, key)}"
        for key in [*old_config, *(key for key in new_config if key not in old_config)]
        if key not in old_config or key not in new_config or old_config[key] != new_config[key]
    ]
    if manifest.seed != identity["seed"]:
        found.append(f"seed: {manifest.seed} → {identity['seed']}")
    for name in sorted({*manifest.inputs, *identity["inputs"]}):
        before, after = manifest.inputs.get(name), identity["inputs"].get(name)
        if before != after:
            what = "is new" if before is None else "is no longer used" if after is None else "changed"
            found.append(f"input {name} {what}")
    if manifest.code != identity["code"]:
        found.append("code changed")
    shown = "; ".join(found[:MAX_DIFFERENCES] or ["its manifest was edited"])
    more = f"; and {len(found) - MAX_DIFFERENCES} more" if len(found) > MAX_DIFFERENCES else ""
    return (
        f"{stage.path} holds a stage ({manifest.status}) made otherwise: {shown}{more}. "
        "Start it again with --force, or give this run another name."
    )


def _flat(value: Any, path: str) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}")
    else:
        yield path, value


def _shown(config: dict[str, Any], key: str) -> str:
    if key not in config:
        return "(absent)"
    text = json.dumps(config[key], ensure_ascii=False)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 1] + "…"


def _unrecorded_seconds(stage: StageDir, manifest: Manifest) -> float:
    """Time a killed session was at work: it could not write its end, but its newest file tells nearly as much."""
    if manifest.status != "running":
        return 0.0
    places = [stage.metrics_path, stage.checkpoints, stage.samples]
    newest = max((path.stat().st_mtime for path in places if path.exists()), default=0.0)
    return round(max(0.0, newest - _parse(manifest.session_started).timestamp()), 3)


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("trivium", "torch", "tokenizers", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _machine() -> dict[str, Any]:
    # torch is asked only where the stage has loaded it: a table of runs must not wait for its import.
    torch = sys.modules.get("torch")
    cuda = torch is not None and torch.cuda.is_available()
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": cores,
        "threads": torch.get_num_threads()
        if torch is not None
        else int(os.environ.get("OMP_NUM_THREADS") or 0) or cores,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "accelerator": torch.cuda.get_device_name() if torch is not None and cuda else None,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _parse(text: str) -> datetime:
    return datetime.fromisoformat(text)
