"""Which stages are begun, resumed, skipped or refused."""

import logging
import os
import time
import tomllib
from pathlib import Path

import pytest

from trivium.base.errors import RunDirError
from trivium.runs import Manifest, RunDir, StageDir, add_warning, close_stage, open_stage, read_manifest, record_machine

CONFIG = {"lr": 0.001, "model": {"d_model": 64, "layers": [1, 2]}, "note": None}


@pytest.fixture
def stage(tmp_path: Path) -> StageDir:
    return RunDir(tmp_path / "quick").stage("pretrain")


def start(stage: StageDir, **changes) -> str:
    arguments = {"config": CONFIG, "inputs": {"corpus": "c1"}, "code": "k1", "seed": 0, "parents": ["tokenizer"]}
    return open_stage(stage, **{**arguments, **changes})


def recorded(stage: StageDir) -> Manifest:
    manifest = read_manifest(stage)
    assert manifest is not None
    return manifest


def test_a_stage_is_fresh_then_resumed_then_done(stage: StageDir) -> None:
    assert start(stage) == "fresh"
    assert recorded(stage).status == "running"
    assert start(stage) == "resume"
    close_stage(stage, "interrupted")
    assert start(stage) == "resume"
    close_stage(stage, "failed", {"error": "loss is NaN at step 3"})
    assert start(stage) == "resume"
    close_stage(stage, "done", {"loss": 1.5})
    assert start(stage) == "done"
    manifest = recorded(stage)
    assert (manifest.status, manifest.result, manifest.resumes) == ("done", {"loss": 1.5}, 3)
    assert manifest.parents == ["tokenizer"]
    assert manifest.versions["python"] and manifest.versions["torch"] and manifest.machine["cores"] >= 1


def test_tuples_and_lists_are_the_same_config(stage: StageDir) -> None:
    start(stage, config={"betas": (0.9, 0.95)})
    assert start(stage, config={"betas": [0.9, 0.95]}) == "resume"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"config": {**CONFIG, "lr": 0.002}}, "config.lr: 0.001 → 0.002"),
        ({"config": {**CONFIG, "model": {"d_model": 96, "layers": [1, 2]}}}, "config.model.d_model: 64 → 96"),
        ({"config": {**CONFIG, "model": {"layers": [1, 2]}}}, "config.model.d_model: 64 → (absent)"),
        ({"config": {**CONFIG, "clip": 1}}, "config.clip: (absent) → 1"),
        ({"inputs": {"corpus": "c2"}}, "input corpus changed"),
        ({"inputs": {"corpus": "c1", "tokenizer": "t"}}, "input tokenizer is new"),
        ({"inputs": {}}, "input corpus is no longer used"),
        ({"code": "k2"}, "code changed"),
        ({"seed": 7}, "seed: 0 → 7"),
    ],
)
def test_other_work_is_refused_with_the_difference(stage: StageDir, changes: dict, expected: str) -> None:
    start(stage)
    close_stage(stage, "done")
    before = stage.manifest_path.read_bytes()
    with pytest.raises(RunDirError) as caught:
        start(stage, **changes)
    message = str(caught.value)
    assert f": {expected}. Start it again with --force" in message  # this difference and no other
    assert str(stage.path) in message and "another name" in message and "\n" not in message
    assert stage.manifest_path.read_bytes() == before


def test_many_differences_are_counted(stage: StageDir) -> None:
    start(stage, config={f"k{index}": 0 for index in range(20)})
    with pytest.raises(RunDirError, match="and 12 more"):
        start(stage, config={f"k{index}": 1 for index in range(20)})


def test_force_wipes_and_says_so(stage: StageDir, caplog: pytest.LogCaptureFixture) -> None:
    start(stage)
    stage.checkpoints.mkdir()
    with caplog.at_level(logging.WARNING):
        assert start(stage, code="k2", force=True) == "fresh"
    assert not stage.checkpoints.exists()
    assert str(stage.path) in caplog.text


def test_missing_output_is_made_again_and_an_altered_one_refused(stage: StageDir) -> None:
    start(stage)
    weights = stage.run.artifact("M0") / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"w")
    close_stage(stage, "done", outputs=[weights.parent])
    assert list(recorded(stage).outputs) == ["M0"]
    assert start(stage) == "done"
    weights.write_bytes(b"v")
    with pytest.raises(RunDirError, match="M0 was altered since the stage pretrain made it"):
        start(stage)
    weights.unlink()
    weights.parent.rmdir()
    assert start(stage) == "resume"
    assert recorded(stage).status == "running"


def test_a_run_can_be_moved(stage: StageDir, tmp_path: Path) -> None:
    start(stage)
    artifact = stage.run.artifact("M0")
    artifact.mkdir()
    (artifact / "config.json").write_text("{}")
    close_stage(stage, "done", outputs=[artifact])
    moved = stage.run.path.rename(tmp_path / "elsewhere")
    assert start(RunDir(moved).stage("pretrain")) == "done"


def test_folder_of_others_is_left_alone(stage: StageDir) -> None:
    stage.path.mkdir(parents=True)
    (stage.path / "thesis.tex").write_text("mine")
    with pytest.raises(RunDirError, match=r"thesis\.tex but no manifest"):
        start(stage)
    assert (stage.path / "thesis.tex").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stage": "pretrain", "status": "asleep", "fingerprint": "f"}'])
def test_broken_manifest_is_one_line(stage: StageDir, content: str) -> None:
    stage.path.mkdir(parents=True)
    stage.manifest_path.write_text(content)
    with pytest.raises(RunDirError, match="is not a manifest") as caught:
        start(stage)
    assert "\n" not in str(caught.value)
    assert start(stage, force=True) == "fresh"


def test_wall_time_is_summed_over_resumes_and_kills(stage: StageDir) -> None:
    start(stage)
    time.sleep(0.05)
    first = close_stage(stage, "interrupted").wall_seconds
    assert 0.05 <= first < 5
    start(stage)  # then killed, its last sign of life 40 s later
    stage.metrics_path.write_text("")
    os.utime(stage.metrics_path, (later := time.time() + 40, later))
    start(stage)
    assert first + 39 < close_stage(stage, "done").wall_seconds < first + 45


def test_config_is_written_as_toml(stage: StageDir) -> None:
    start(stage)
    text = stage.config_path.read_text()
    assert tomllib.loads(text) == {"lr": 0.001, "model": {"d_model": 64, "layers": [1, 2]}}
    assert "# note is not set" in text


def test_facts_on_the_machine_are_added(stage: StageDir) -> None:
    start(stage)
    before = recorded(stage).machine
    record_machine(stage, sandbox="jailed")
    assert recorded(stage).machine == before | {"sandbox": "jailed"}


def test_warnings_are_recorded_once(stage: StageDir) -> None:
    start(stage)
    add_warning(stage, "3 rows dropped")
    add_warning(stage, "3 rows dropped")
    close_stage(stage, "done")
    assert recorded(stage).warnings == ["3 rows dropped"]
