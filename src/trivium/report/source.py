"""Reading a run directory: each file that is missing or broken is noted and left out."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivium.base.errors import RunDirError
from trivium.report.values import mapping, rows
from trivium.runs import RunDir, gather_lineage, read_metrics

STAGES = ("pretrain", "sft", "reward", "rl")
"""Stages whose metrics are drawn; `reward` and `rl` come once a round: `rl`, `rl-2`, `rl-3`, ..."""


@dataclass(frozen=True)
class Round:
    """What one round of a stage recorded."""

    number: int
    """From 1."""
    metrics: list[dict[str, Any]]
    result: dict[str, Any]
    """The figures in its manifest."""


@dataclass
class RunData:
    """What a run directory holds, as far as it can be read."""

    name: str
    recipe: str = ""
    """recipe.toml as text."""
    lineage: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Stage folder to rows of metrics.jsonl."""
    utility: list[dict[str, Any]] = field(default_factory=list)
    reward_model: dict[str, Any] = field(default_factory=dict)
    """R/rm.json."""
    answers: list[dict[str, Any]] = field(default_factory=list)
    """Held-out prompts with each model's answer."""
    problems: dict[str, str] = field(default_factory=dict)
    """File, relative to the run, to the reason why it is left out."""

    @property
    def manifests(self) -> dict[str, dict[str, Any]]:
        stages = mapping(self.lineage.get("stages"))
        return {name: mapping(manifest) for name, manifest in stages.items()}

    def rounds(self, stage: str) -> list[Round]:
        """The rounds of `collect`, `reward` or `rl` that left something, in order."""
        manifests = self.manifests
        numbers = {_round_number(name, stage): name for name in [*manifests, *self.metrics]}
        return [
            Round(number, self.metrics.get(name, []), mapping(mapping(manifests.get(name)).get("result")))
            for number, name in sorted(numbers.items())
            if number and (name in manifests or self.metrics.get(name))
        ]


def read_run(path: Path) -> RunData:
    """Gather everything that a report shows.

    Raises:
        RunDirError: `path` is not a folder, or holds no trace of a run.
    """
    run = RunDir(path)
    data = RunData(name=run.name)
    if not path.is_dir():
        raise RunDirError(f"{path} is not a run directory. `trivium runs` lists those there are.")
    data.recipe = _read(data, run, run.recipe_path, lambda file: file.read_text(encoding="utf-8", errors="replace"), "")
    data.summary = mapping(_read(data, run, run.summary_path, _json, {}))
    data.lineage = mapping(_read(data, run, run.lineage_path, _json, {})) or _lineage_from_manifests(data, run)
    data.utility = rows(_read(data, run, run.utility_path, _json_lines, []))
    data.reward_model = mapping(_read(data, run, run.artifact("R") / "rm.json", _json, {}))
    data.answers = rows(_read(data, run, run.stage("evaluate").samples / "answers.jsonl", _json_lines, []))
    later = [folder.name for folder in sorted(path.glob("*-*")) if _is_later_round(folder.name)]
    for stage in [*STAGES, *later]:
        rows_of_stage = _read(data, run, run.stage(stage).metrics_path, read_metrics, [])
        data.metrics[stage] = sorted(rows_of_stage, key=lambda row: row["step"])
    found = [data.recipe, data.summary, data.manifests, data.utility, data.reward_model, data.answers]
    if not any([*found, *data.metrics.values()]):
        raise RunDirError(f"{path} holds no run to report on. `trivium runs` lists those there are.")
    return data


def _read(data: RunData, run: RunDir, path: Path, reader: Callable[[Path], Any], default: Any) -> Any:
    name = path.relative_to(run.path).as_posix()
    try:
        if path.exists():
            return reader(path)
        data.problems[name] = f"{name} is missing"
    except (OSError, ValueError, RecursionError) as error:  # RunDirError is a ValueError
        data.problems[name] = f"{name} cannot be read ({' '.join(str(error).split())})"
    return default


def _round_number(name: str, stage: str) -> int:
    """1 for `rl`, 2 for `rl-2`; 0 for what is no round of the stage."""
    if name == stage:
        return 1
    match = re.fullmatch(re.escape(stage) + r"-([1-9][0-9]{0,3})", name)
    return int(match[1]) if match else 0


def _is_later_round(name: str) -> bool:
    return any(_round_number(name, stage) > 1 for stage in ("reward", "rl"))


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _json_lines(path: Path) -> list[Any]:
    """All lines but a last one that is still being written."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1] if line.strip()]


def _lineage_from_manifests(data: RunData, run: RunDir) -> dict[str, Any]:
    try:
        return gather_lineage(run)
    except RunDirError as error:
        data.problems["manifest.json"] = str(error)
        return {}
