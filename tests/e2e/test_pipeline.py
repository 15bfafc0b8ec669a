"""The shortened pipeline from corpus to M2: artefacts, a second run, an interruption, recomputable figures."""

import json
import re
import time
from pathlib import Path

import check_resume
import pytest

from trivium.base.errors import RunDirError
from trivium.base.recipe import load_config
from trivium.objectives.utility import utility
from trivium.report import write_report
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


def test_report_is_one_offline_file(finished: tuple[Path, dict]) -> None:
    page = write_report(finished[0]).read_text()
    assert "<svg" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    for name in ("M0", "M1", "M2"):
        assert name in page


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_stopped_again_and_again_ends_as_the_one_left_alone(
    straight: check_resume.Straight, tmp_path: Path
) -> None:
    """SIGKILL and SIGTERM at random moments of all stages; `make check-resume` does it fifty times."""
    strikes = check_resume.plan(straight, kills=6, terms=4, seed=0)
    last, hits, wrong = check_resume.run_struck(tmp_path, strikes)
    assert last.code == 0, last.lines
    assert wrong == [] and hits.total() == 10
    assert check_resume.differences(straight.run, tmp_path / "runs/small") == []
