"""Lineage of one run, and the list of runs."""

import json
from pathlib import Path

import pytest

from trivium.base.errors import RunDirError
from trivium.base.files import write_json
from trivium.runs import RunDir, close_stage, gather_lineage, list_runs, open_stage, runs_table, write_lineage


def make_run(path: Path) -> RunDir:
    run = RunDir(path)
    for name, parents in (("tokenizer", []), ("pretrain", ["tokenizer"]), ("sft", ["../base/M0"])):
        open_stage(run.stage(name), config={"lr": 1}, inputs={"x": "y"}, code="k", seed=3, parents=parents)
        if name != "sft":
            close_stage(run.stage(name), "done")
    return run


def test_lineage_holds_every_manifest(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    lineage = json.loads(write_lineage(run).read_text())
    assert lineage == gather_lineage(run)
    assert set(lineage["stages"]) == {"tokenizer", "pretrain", "sft"}
    assert lineage["stages"]["pretrain"]["inputs"] == {"x": "y"} and lineage["stages"]["pretrain"]["seed"] == 3
    assert lineage["wall_seconds"] == pytest.approx(sum(s["wall_seconds"] for s in lineage["stages"].values()))


def test_list_and_table(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    write_json(run.summary_path, {"models": {"M0": {"pass_at_1": 0.031}, "M1": {"pass_at_1": 0.52}}})
    make_run(tmp_path / "b").stage("sft").manifest_path.write_text("{")
    (tmp_path / "not-a-run").mkdir()
    rows = list_runs(tmp_path)
    by_name = {row["name"]: row for row in rows}
    assert set(by_name) == {"a", "b"}
    assert by_name["a"]["stages"] == {"pretrain": "done", "sft": "running", "tokenizer": "done"}
    assert by_name["a"]["parents"] == ["../base/M0"]
    assert by_name["a"]["pass_at_1"] == {"M0": 0.031, "M1": 0.52, "M2": None}
    assert "not a manifest" in by_name["b"]["problem"]
    json.dumps(rows)
    table = runs_table(rows)
    assert "sft(running)" in table and "3.1% → 52.0% → -" in table and "../base/M0" in table
    assert len(table.splitlines()) == 3


def test_missing_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="not a folder of runs"):
        list_runs(tmp_path / "none")
