"""The stage itself on comparisons with ties and margins: every objective trains, is stopped, and ends the same."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trivium.base.errors import DataError, Interrupted
from trivium.model import Decoder, save_model
from trivium.optim import OptimConfig
from trivium.preferences.judgement import Judgement, Sample
from trivium.preferences.pairs import ranked_prompts
from trivium.preferences.store import PreferenceStore
from trivium.rewards import RewardModel
from trivium.rewards.learning import RewardLossConfig
from trivium.runs import MetricsLog, RunDir
from trivium.stages import reward
from trivium.stages.comparisons import tokenise
from trivium.stages.stage import ComputeConfig, Context
from trivium.stages.tasks import TaskConfig
from trivium.tokenizer import Tokenizer

TEXTS = ["def add(a, b):\n    return a + b\n", "Write a function that returns the sum of its arguments.\n"] * 4
CONFIG = reward.RewardConfig(
    epochs=2, prompts_per_step=5, seq_len=96, eval_every=3, checkpoint_every=3, normalise_samples=8, max_new_tokens=6,
    tasks=TaskConfig(count=4), allow_chance=True, optim=OptimConfig(kind="muon", lr=1e-3, muon_lr=0.01, warmup_steps=2),
)  # fmt: skip
DAVIDSON = CONFIG.model_copy(update={"loss": RewardLossConfig(ties="davidson", margins=0.5, label_smoothing=0.05)})


def judgements(round: int = 0) -> list[Judgement]:
    """Thirty prompts: a better and a worse answer, or two of three as good; five prompts are held out."""
    made = []
    for n in range(30):
        texts = [f"    return {n} + a\n", f"    return {n}\n", f"    return a + {n}\n"][: 2 + n % 2]
        made.append(
            Judgement(
                prompt=f"def plus_{n}_{round}(a):\n",
                completions=tuple(Sample(text=text, round=round, sample=at) for at, text in enumerate(texts)),
                ranking=((0, 1),) if n % 10 == 4 else ((0,), (1,)) if len(texts) == 2 else ((0, 2), (1,)),
                source="human", annotator=f"person {n % 3}", margin=float(1 + n % 2),
                split="heldout" if n % 6 == 5 else "train",
            )
        )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, make_decoder: Callable[..., Decoder]) -> Path:
    """M1 with random weights."""
    folder, tokenizer = tmp_path_factory.mktemp("start"), Tokenizer.train(TEXTS, vocab_size=300)
    model = make_decoder(vocab_size=tokenizer.vocab_size, max_seq_len=512)
    save_model(model, folder / "M1", pad_id=tokenizer.pad_id, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    tokenizer.save(folder / "M1")
    return folder


def run_stage(
    folder: Path,
    start: Path,
    config: reward.RewardConfig,
    round: int = 0,
    judged: Callable[[int], list[Judgement]] = judgements,
) -> dict[str, Any]:
    run = RunDir(folder)
    folder.mkdir(exist_ok=True)
    if not run.artifact("M1").exists():
        run.artifact("M1").symlink_to(start / "M1")
    context = Context(run, seed=3, compute=ComputeConfig(precision="fp32", device="cpu"))
    if not (collected := reward.collected(context, round)).exists():
        collected.parent.mkdir(parents=True)
        collected.write_text("")
        with PreferenceStore(run.preferences_path) as store:
            store.add_judgements(judged(round))
    previous = folder / "R-1" if round else None
    return reward.run(context, config, round=round, previous=previous, artifact=folder / f"R-{round + 1}")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def logged(path: Path) -> list[dict[str, Any]]:
    """What a stage logged, but for the clock."""
    return [{key: value for key, value in row.items() if key != "time"} for row in rows(path)]


class Stopping(MetricsLog):
    """Presses Ctrl-C once the third step is logged."""

    def log(self, step: int, **values: Any) -> None:
        super().log(step, **values)
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)


def test_rlhf_23_ties_resume_to_the_same_bits(tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_stage(tmp_path / "straight", start, DAVIDSON)
    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="reward stopped after step 3 of 10"):
        patched.setattr(reward, "MetricsLog", Stopping)
        run_stage(stopped, start, DAVIDSON)
    assert not (stopped / "R-1").exists()
    assert run_stage(stopped, start, DAVIDSON) == result
    assert logged(stopped / "reward/metrics.jsonl") == logged(tmp_path / "straight/reward/metrics.jsonl")
    for name in ("model.safetensors", "rm.json"):
        assert (stopped / "R-1" / name).read_bytes() == (tmp_path / "straight/R-1" / name).read_bytes()


def test_nu_is_learnt_saved_and_taken_up_by_the_next_round(tmp_path: Path, start: Path) -> None:
    result = run_stage(tmp_path, start, DAVIDSON)
    figures = json.loads((tmp_path / "R-1/rm.json").read_text())
    seen = [row["nu"] for row in logged(tmp_path / "reward/metrics.jsonl") if "nu" in row]
    assert result["nu"] == figures["nu"] == seen[-1] and len(set(seen)) == len(seen) > 1
    ties = figures["ties"]
    assert 0 < ties["observed"] < 1 and 0 < ties["expected"] < 1 and ties["pairs"] > 0
    assert RewardModel.load(tmp_path / "R-1").figures["nu"] == figures["nu"]
    frozen = DAVIDSON.model_copy(update={"loss": DAVIDSON.loss.model_copy(update={"tie_lr": 0.0})})
    assert run_stage(tmp_path, start, frozen, round=1)["nu"] == pytest.approx(figures["nu"], rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        RewardLossConfig(ranking="plackett_luce"),
        RewardLossConfig(ties="half"),
        RewardLossConfig(margins=1.0),
        RewardLossConfig(label_smoothing=0.2, centering=0.1),
    ],
    ids=["plackett_luce", "half", "margins", "smoothed"],
)
def test_every_objective_reaches_the_weights(tmp_path: Path, start: Path, loss: RewardLossConfig) -> None:
    config = CONFIG.model_copy(update={"epochs": 0.5})
    run_stage(tmp_path / "plain", start, config)
    result = run_stage(tmp_path / "other", start, config.model_copy(update={"loss": loss}))
    assert "nu" not in result and 0 <= result["accuracy"] <= 1
    weights = [(tmp_path / name / "R-1/model.safetensors").read_bytes() for name in ("plain", "other")]
    assert weights[0] != weights[1]


def test_ties_alone_train_nothing(tmp_path: Path, start: Path) -> None:
    def tied(round: int) -> list[Judgement]:
        return [each for each in judgements(round) if len(each.ranking) == 1]

    with pytest.raises(DataError, match="no prompt has both a better and a worse answer"):
        run_stage(tmp_path, start, DAVIDSON, judged=tied)


def test_what_contradicts_itself_counts_as_one_prompt_and_keeps_its_margin() -> None:
    one, other = judgements()[0], judgements()[0].model_copy(update={"ranking": ((1,), (0,)), "annotator": "else"})
    groups, cut = tokenise(ranked_prompts([one, other]), Tokenizer.train(TEXTS, vocab_size=300), 96)
    assert [(group.weight, group.margin, group.tiers) for group in groups] == [(0.5, 1.0, [0, 1]), (0.5, 1.0, [1, 0])]
    assert cut == 0
