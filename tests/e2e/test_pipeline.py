"""The shortened pipeline from corpus to M2: artefacts, a second run, an interruption, recomputable figures."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trivium.base.errors import RunDirError
from trivium.base.recipe import load_config
from trivium.objectives.utility import utility
from trivium.report import write_report
from trivium.stages.pipeline import Recipe, run_pipeline

SOURCE = Path(__file__).resolve().parents[2] / "src" / "trivium"

FLAGS = f"""
--compute.threads 1 --compute.precision fp32 --data.sources {SOURCE / "objectives"} --tokenizer.vocab_size 400
--model.n_layers 2 --model.d_model 48 --pretrain.steps 6 --pretrain.batch_size 8 --pretrain.eval_every 3
--pretrain.eval_rows 8 --pretrain.checkpoint_every 2 --sft.tasks 120 --sft.eval_every 4 --sft.eval_tasks 4
--sft.batch_size 8 --sft.seq_len 256 --sft.checkpoint_every 2 --collect.tasks.count 24 --collect.later_tasks 12
--collect.samples 4 --collect.judge.type simulated --collect.max_new_tokens 12 --collect.chunk 8
--collect.heldout_fraction 0.3 --reward.allow_chance true --reward.normalise_samples 16 --reward.tasks.count 8
--reward.prompts_per_step 4 --reward.max_new_tokens 12 --reward.checkpoint_every 2 --rl.steps 2 --rl.rounds 2
--rl.prompts_per_step 6 --rl.samples_per_prompt 2 --rl.gold_responses 4 --rl.eval_tasks 4 --rl.tasks.count 40
--rl.max_new_tokens 12 --rl.checkpoint_every 1 --rl.sft_rows 2 --evaluate.tasks.count 6
--evaluate.max_new_tokens 12 --evaluate.utility_prompts 4 --evaluate.bits_per_byte_rows 8
"""


def recipe(folder: Path, name: str = "small", *more: str) -> Recipe:
    return load_config(Recipe, None, [*FLAGS.split(), "--runs_dir", str(folder), "--name", name, *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("runs")
    summary = run_pipeline(recipe(folder))
    return folder / "small", summary


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


def test_second_run_does_nothing_and_a_changed_recipe_is_refused(
    finished: tuple[Path, dict], capsys: pytest.CaptureFixture[str]
) -> None:
    run, summary = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    began = time.monotonic()
    assert run_pipeline(recipe(run.parent)) == summary
    assert time.monotonic() - began < 10
    assert capsys.readouterr().err.count("nothing to do") == 11
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == before
    with pytest.raises(RunDirError, match=r"optim\.lr"):
        run_pipeline(recipe(run.parent, "small", "--sft.optim.lr", "0.5"))


def test_report_is_one_offline_file(finished: tuple[Path, dict]) -> None:
    page = write_report(finished[0]).read_text()
    assert "<svg" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    for name in ("M0", "M1", "M2"):
        assert name in page


def _heed_interrupts() -> None:
    """Whoever started the tests in the background made them, and so their children, deaf to SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_and_resumed_run_ends_in_the_same_weights(finished: tuple[Path, dict], tmp_path: Path) -> None:
    """SIGINT in the middle, again and again; the resumed run's weights are those of the uninterrupted one."""
    run, _ = finished
    command = [sys.executable, "-m", "trivium", "run", *FLAGS.split(), "--runs_dir", str(tmp_path), "--name", "small"]
    for marker in ("pretrain: started", "sft: started", "collect: started", "rl: started", "rl-2: started"):
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=_heed_interrupts
        )
        assert process.stderr is not None
        for line in process.stderr:
            if marker in line or "going on" in line:
                break
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(timeout=120) == 130, said
        assert "Go on with: " in said and "Traceback" not in said
    run_pipeline(recipe(tmp_path))
    for name in ("M0", "M1", "R", "M2"):
        ours, theirs = (load_file(folder / name / "model.safetensors") for folder in (tmp_path / "small", run))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
