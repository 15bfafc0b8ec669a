"""The shortened pipeline from corpus to M2: artefacts, a second run, an interruption, recomputable figures."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import check_resume
import pytest

from trivium.base.errors import RunDirError, StageFailed
from trivium.base.recipe import load_config
from trivium.cli import main
from trivium.cli.utility import recomputed
from trivium.objectives.utility import utility
from trivium.report import write_report
from trivium.runs import RunDir, read_manifest, read_metrics
from trivium.stages.pipeline import Recipe, run_pipeline


def recipe(*more: str) -> Recipe:
    return load_config(Recipe, None, [*check_resume.FLAGS.split(), "--runs_dir", "runs", "--name", "small", *more])


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> check_resume.Straight:
    """The pipeline through the command line, once, left alone."""
    return check_resume.run_straight(tmp_path_factory.mktemp("straight"))


@pytest.fixture(scope="module")
def finished(straight: check_resume.Straight) -> tuple[Path, dict]:
    return straight.run, json.loads(straight.trial.output)


def test_every_artefact_of_the_contract_is_there(finished: tuple[Path, dict]) -> None:
    run, summary = finished
    for name in ("M0", "M1", "M2", "R"):
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in (run / name).iterdir()}
    for name in ("recipe.toml", "lineage.json", "preferences.db", "utility.jsonl", "summary.json"):
        assert (run / name).stat().st_size > 0
    assert json.loads((run / "summary.json").read_text()) == summary
    assert set(summary) == {"models", "reward_model", "rl", "wall_seconds", "seed"}
    wanted = {"pass_at_1", "pass_at_1_ci", "pass_at_10", "bits_per_byte", "L_SFT", "L_R", "omega", "U", "parameters"}
    assert all(wanted | {"train_seconds", "tokens"} <= set(figures) for figures in summary["models"].values())
    assert not [path for path in run.rglob("*") if path.suffix in (".pt", ".bin", ".pkl") and "shards" not in str(path)]
    assert not list(run.rglob("*.tmp"))
    levels = {json.loads(path.read_text())["machine"].get("sandbox") for path in run.rglob("evaluate/manifest.json")}
    assert levels and levels <= {"jailed", "isolated"}


def test_artefacts_open_in_transformers(finished: tuple[Path, dict]) -> None:
    transformers = pytest.importorskip("transformers", reason="parity needs the `hf` extra")
    run, _ = finished
    text = "def solve(xs):\n"
    for name in ("M0", "M1", "M2"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(run / name)
        model = transformers.AutoModelForCausalLM.from_pretrained(run / name)
        assert model(**tokenizer(text, return_tensors="pt")).logits.isfinite().all()
    scorer = transformers.AutoModelForSequenceClassification.from_pretrained(run / "R")
    assert scorer(**transformers.AutoTokenizer.from_pretrained(run / "R")(text, return_tensors="pt")).logits.shape == (
        1,
        1,
    )


def test_utility_is_recomputable_and_m1_is_its_own_reference(finished: tuple[Path, dict]) -> None:
    run, _ = finished
    rows = [json.loads(line) for line in (run / "utility.jsonl").read_text().splitlines()]
    assert {row["model"] for row in rows} == {"policy", "M0", "M1", "M2"}
    for row in rows:
        total = utility(row["sft"], row["reward"], row["omega"], row["alpha"], row["beta"], row["gamma"])
        assert abs(total - row["total"]) < 1e-9
    (m1,) = (row for row in rows if row["model"] == "M1")
    assert abs(m1["omega"]) <= 1e-6
    assert abs(m1["reward_model"]) < 0.5  # R's normalisation is by M1's own answers to other prompts
    named = ("reference", "reward_model_weights", "prompts")
    measured_with = [tuple(row[name] for name in named) for row in rows]
    assert all(isinstance(each, str) for row in measured_with for each in row)
    at_the_end = {each for row, each in zip(rows, measured_with, strict=True) if row["stage"] == "evaluate"}
    assert len(at_the_end) == 1, "the three models are measured with the same reference, R and prompts"
    assert {each[0] for each in measured_with} == {each[0] for each in at_the_end}


def test_second_run_does_nothing_and_a_changed_recipe_is_refused(
    finished: tuple[Path, dict], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, summary = finished
    monkeypatch.chdir(run.parents[1])
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    began = time.monotonic()
    assert run_pipeline(recipe()) == summary
    assert time.monotonic() - began < 10
    assert capsys.readouterr().err.count("nothing to do") == 11
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == before
    with pytest.raises(RunDirError, match=r"optim\.lr"):
        run_pipeline(recipe("--sft.optim.lr", "0.5"))


def test_the_utility_table_is_computed_again_from_what_is_stored(
    finished: tuple[Path, dict], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, summary = finished
    monkeypatch.chdir(run.parents[1])
    command = [each for each in check_resume.command()[1:] if each != "--json"]
    assert main(["evaluate", *command, "--utility"]) == 0
    text = capsys.readouterr().out
    m2 = next(line for line in text.splitlines() if line.split()[:2] == ["M2", "evaluate"])
    assert f"{summary['models']['M2']['U']:.4f}" in m2 and "agrees to 1e-9" in text
    rows = recomputed(RunDir(run))
    assert {row["model"]: row["recomputed"] for row in rows}["M2"] == pytest.approx(summary["models"]["M2"]["U"])
    rows[-1]["total"] += 1e-6
    changed = RunDir(tmp_path)
    changed.utility_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(StageFailed, match="U of M2 in evaluate is stored as"):
        recomputed(changed)
    changed.utility_path.write_text('{"model": "M2"}\n')
    with pytest.raises(RunDirError, match="is damaged"):
        recomputed(changed)


def test_report_is_one_offline_file(finished: tuple[Path, dict]) -> None:
    page = write_report(finished[0]).read_text()
    assert "<svg" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    for name in ("M0", "M1", "M2"):
        assert name in page


def beginning(straight: check_resume.Straight, folder: Path) -> Path:
    """A run in `folder` that has got as far as the corpus; the working directory of what follows."""
    for name in ("tokenizer", "data"):
        shutil.copytree(straight.run / name, folder / "runs/small" / name)
    shutil.copy(straight.run / "compute.json", folder / "runs/small")
    return folder


def test_a_run_that_another_process_holds_is_refused(
    finished: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = finished
    monkeypatch.chdir(run.parents[1])
    with RunDir(run).lock():
        assert main(check_resume.command()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"runs/small is in use by process {os.getpid()}. Wait until it ends" in line


def test_a_run_on_a_read_only_file_system_is_refused(finished: tuple[Path, dict]) -> None:
    folder = finished[0].parents[1]
    mount = f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "sh", "-c", mount]).returncode:
        pytest.skip("this machine lets nobody mount anything")
    process = check_resume.start(
        folder,
        check_resume.command(),
        before=["unshare", "-rm", "sh", "-c", f'{mount} && cd {folder} && exec "$0" "$@"'],
    )
    trial = check_resume.attend(process)
    assert trial.code == 2
    ((_, line),) = trial.lines
    assert "cannot write to the run directory runs/small: Read-only file system" in line


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_an_exploding_loss_names_its_documents(
    straight: check_resume.Straight,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    action: str,
) -> None:
    """A rate far too high: the first update is made, the second batch's loss is absurd."""
    monkeypatch.chdir(beginning(straight, tmp_path))
    flags = ["--pretrain.optim.kind", "adamw", "--pretrain.optim.lr", "10", "--pretrain.optim.warmup_steps", "0"]
    flags += ["--pretrain.checkpoint_every", "1", "--pretrain.on_nonfinite", action]
    code = main(["pretrain", *check_resume.command(*flags)[1:]])
    said = capsys.readouterr().err.splitlines()
    stage = RunDir("runs/small").stage("pretrain")
    rows = [json.loads(line) for line in (stage.path / "faults.jsonl").read_text().splitlines()]
    documents = {f"objectives: {path}" for path in (check_resume.ROOT / "src/trivium/objectives").glob("*.py")}
    assert rows[0]["step"] == 2 and set(rows[0]["documents"]) <= documents
    manifest = read_manifest(stage)
    assert manifest is not None
    if action == "stop":
        assert code == 1 and manifest.status == "failed" and len(rows) == 1
        assert re.search(
            "the loss is .*, far above its level of .* at step 2, on objectives: .*objectives/.*py", said[-1]
        )
        assert (
            "The weights were not updated. The last good checkpoint is runs/small/pretrain/checkpoints/step-00000001"
            in said[-1]
        )
    else:
        assert code == 0 and manifest.warnings == [
            "batches of 5 steps (2, 3, 4, 5, ...) were skipped; see faults.jsonl"
        ]
        logged = read_metrics(stage.metrics_path)
        assert [row["step"] for row in logged if row.get("skipped")] == [2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside_and_the_run_ends_the_same(
    straight: check_resume.Straight, tmp_path: Path
) -> None:
    folder = beginning(straight, tmp_path)
    arguments = ["pretrain", *check_resume.command()[1:]]
    at_the_end = check_resume.Strike("pretrain", "file", 0.0, ("os.mkdir", "M0"), 1, signal.SIGKILL)
    assert check_resume.stop(folder, arguments, at_the_end).code == -signal.SIGKILL
    checkpoints = folder / "runs/small/pretrain/checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000002", "step-00000004"]
    with open(checkpoints / "step-00000004/tensors.safetensors", "r+b") as file:
        file.truncate(10_000)
    trial = check_resume.attend(check_resume.start(folder, arguments))
    assert trial.code == 0
    (line,) = [line for _, line in trial.lines if line.startswith("warning: checkpoint")]
    assert "step-00000004 is damaged" in line and "kept as damaged-step-00000004, step 2 goes on" in line
    name = "M0/model.safetensors"
    assert (folder / "runs/small" / name).read_bytes() == (straight.run / name).read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_stopped_again_and_again_ends_as_the_one_left_alone(
    straight: check_resume.Straight, tmp_path: Path
) -> None:
    """SIGKILL, SIGTERM and full disks at random moments of all stages; `make check-resume` does it fifty times."""
    strikes = check_resume.plan(straight, kills=5, terms=2, full=2, seed=0)
    last, hits, wrong = check_resume.run_struck(tmp_path, strikes)
    assert last.code == 0, last.lines
    assert wrong == [] and hits.total() == 9
    assert check_resume.differences(straight.run, tmp_path / "runs/small") == []


def test_a_forced_run_that_is_interrupted_goes_on_without_force(
    finished: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the old recipe left is replaced when its turn comes, and only once."""
    run, _ = finished
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "runs/small")
    changed = recipe("--sft.optim.lr", "1e-3")

    def leave(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopping, pytest.raises(KeyboardInterrupt):
        stopping.setattr("trivium.stages.collect.run", leave)
        run_pipeline(changed, force=True)
    owed = json.loads(Path("runs/small/outstanding.json").read_text())
    assert "collect" in owed and "evaluate" in owed and "sft" not in owed
    with monkeypatch.context() as stopping, pytest.raises(KeyboardInterrupt):
        stopping.setattr("trivium.stages.reward.run", leave)
        run_pipeline(changed)
    first = read_manifest(RunDir("runs/small").stage("collect"))
    run_pipeline(changed)
    assert not Path("runs/small/outstanding.json").exists()
    done = read_manifest(RunDir("runs/small").stage("collect"))
    assert first is not None and done is not None and done.started == first.started
    for stage in RunDir(run).stages():
        before, after = read_manifest(stage), read_manifest(RunDir("runs/small").stage(stage.name))
        assert before is not None and after is not None and after.started > before.started
