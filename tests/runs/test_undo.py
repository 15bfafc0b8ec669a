"""A stage is put back as it was before it was opened, unless work would be lost."""

from pathlib import Path

import pytest

from trivium.base.errors import RunDirError
from trivium.runs import KeptStage, RunDir, StageDir, close_stage, keep_run, open_stage, read_manifest


def opened(stage: StageDir, steps: int = 1, force: bool = False) -> KeptStage:
    kept = KeptStage(stage)
    open_stage(stage, config={"steps": steps}, inputs={}, code="c", seed=0, parents=[], force=force)
    return kept


def tree(run: RunDir) -> dict[str, bytes]:
    return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def test_a_stage_that_was_not_there_goes(run: RunDir) -> None:
    assert opened(run.stage("sft")).restore()
    assert not run.stage("sft").path.exists()


def test_an_interrupted_stage_is_as_it_was(run: RunDir) -> None:
    stage = run.stage("sft")
    opened(stage)
    (stage.checkpoints / "step-00000001").mkdir(parents=True)
    close_stage(stage, "interrupted")
    before = tree(run)
    kept = opened(stage)
    assert tree(run) != before and kept.restore()
    assert tree(run) == before


def test_what_force_replaced_comes_back_or_goes(run: RunDir) -> None:
    stage = run.stage("sft")
    opened(stage)
    (stage.path / "metrics.jsonl").write_text("{}\n")
    close_stage(stage, "done")
    before = tree(run)
    assert opened(stage, steps=2, force=True).restore()
    assert tree(run) == before
    kept = opened(stage, steps=2, force=True)
    assert stage.replaced.exists()
    close_stage(stage, "done")
    kept.forget()
    manifest = read_manifest(stage)
    assert manifest is not None and manifest.config == {"steps": 2}
    assert [path.name for path in run.path.iterdir()] == ["sft"]


@pytest.mark.parametrize("force", [True, False])
def test_checkpoints_are_not_undone(run: RunDir, force: bool) -> None:
    stage = run.stage("sft")
    opened(stage)
    close_stage(stage, "interrupted")
    kept = opened(stage, force=force)
    (stage.checkpoints / "step-00000007").mkdir(parents=True)
    assert not kept.restore()
    kept.forget()
    assert stage.checkpoints.exists() and not stage.replaced.exists()


def test_files_of_the_run_come_back(run: RunDir) -> None:
    run.path.mkdir()
    run.compute_path.write_text("{}")
    kept = keep_run(run)
    run.compute_path.write_text("[]")
    run.lineage_path.write_text("{}")
    kept.restore()
    assert tree(run) == {"compute.json": b"{}"}


def test_a_lock_leaves_no_empty_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs/new")
    with pytest.raises(RunDirError), run.lock():
        raise RunDirError("refused")
    assert not (tmp_path / "runs").exists()
    with run.lock():
        run.recipe_path.write_text("seed = 0\n")
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "recipe.toml"]
