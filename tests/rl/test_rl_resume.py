"""The stage itself, stopped by Ctrl-C and started again, leaves the same model."""

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trivium.base.errors import DataError, Interrupted, RunDirError, StageFailed
from trivium.base.recipe import load_config
from trivium.model import Decoder, LoRAConfig, Scorer, load_model, save_model
from trivium.model.lora import load_adapter, merged, twin
from trivium.optim import OptimConfig
from trivium.preferences.judgement import Judgement, Sample
from trivium.preferences.store import PreferenceStore
from trivium.rewards import ExecutionPart, FunctionPart, LengthPart, ModelPart, RewardModel
from trivium.rewards.model import Ensemble
from trivium.rl import ALGORITHMS
from trivium.rl.departures import departures
from trivium.rl.learner import Learner, LearnerConfig
from trivium.rl.rollout import Rollout
from trivium.runs import MetricsLog, RunDir, read_manifest
from trivium.sandbox import Sandbox
from trivium.stages import rl
from trivium.stages.confinement import SandboxConfig
from trivium.stages.pipeline import Recipe
from trivium.stages.scoring import open_rewards, read_statistics, statistics_path
from trivium.stages.sft import SFTConfig
from trivium.stages.stage import ComputeConfig, Context
from trivium.stages.tasks import TaskConfig
from trivium.tokenizer import Tokenizer

TEXTS = ["def add(a, b):\n    return a + b\n", "Write a function that returns the sum of its arguments.\n"] * 4
CONFIG = rl.RLConfig(
    rounds=1, steps=4, prompts_per_step=3, samples_per_prompt=2, max_new_tokens=6, tasks=TaskConfig(count=8),
    gold_responses=0, eval_every=2, eval_tasks=2, keep="lowest_u", checkpoint_every=3,
    learner=LearnerConfig(alpha=0.1, gamma=0.05, kl_target=0.5, kl_horizon=20, epochs=2),
)  # fmt: skip
SFT = SFTConfig(tasks=20, seq_len=320, batch_size=2)
RARE = ("time", "tokens_per_second")


@pytest.fixture(scope="module")
def parents(
    tmp_path_factory: pytest.TempPathFactory,
    make_decoder: Callable[..., Decoder],
    make_scorer: Callable[..., Scorer],
) -> Path:
    """M1 and R with random weights, and a tokenizer of hardly more than bytes."""
    folder, tokenizer = tmp_path_factory.mktemp("parents"), Tokenizer.train(TEXTS, vocab_size=300)
    shape = {"vocab_size": tokenizer.vocab_size, "max_seq_len": 512}
    save_model(
        make_decoder(**shape),
        folder / "M1",
        pad_id=tokenizer.pad_id,
        bos_id=tokenizer.bos_id or 0,
        eos_id=tokenizer.eos_id,
    )
    tokenizer.save(folder / "M1")
    RewardModel(make_scorer(seed=1, **shape), tokenizer, 0.1, 1.5).save(folder / "R")
    return folder


def run_stage(folder: Path, parents: Path, **changes: Any) -> dict[str, Any]:
    run = RunDir(folder)
    for name in ("M1", "R"):
        run.artifact(name).parent.mkdir(exist_ok=True)
        if not run.artifact(name).exists():
            run.artifact(name).symlink_to(parents / name)
    context = Context(run, seed=3, compute=ComputeConfig(precision="fp32", device="cpu"))
    return rl.run(
        context, CONFIG.model_copy(update=changes), SFT, SandboxConfig(workers=1, minimum="limited"),
        round=0, policy=run.artifact("M1"), reward=run.artifact("R"), artifact=run.artifact("M2"),
    )  # fmt: skip


def logged(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "rl/metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in RARE} for row in rows]


def test_rlhf_23_an_interrupted_stage_ends_in_the_same_model(
    tmp_path: Path, parents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_stage(tmp_path / "straight", parents, save_rollouts=True)
    rows = logged(tmp_path / "straight")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    first = rows[0]
    assert first["ratio/first_deviation"] < 1e-5 and first["sampler/gap_max"] < 1e-4
    assert [key for key in ("utility/total", "utility/omega") if key in rows[1]] != []

    class Stopping(MetricsLog):
        """Presses Ctrl-C once the second step is logged."""

        def log(self, step: int, **values: Any) -> None:
            super().log(step, **values)
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="rl stopped after step 2 of 4"):
        patched.setattr(rl, "MetricsLog", Stopping)
        run_stage(stopped, parents, save_rollouts=True)
    assert len(logged(stopped)) == 2 and not (stopped / "M2").exists()
    assert run_stage(stopped, parents, save_rollouts=True) == result
    assert logged(stopped) == rows
    files = sorted(path.name for path in (stopped / "rl/samples").iterdir())
    assert files == [f"rollouts-{step:06d}.jsonl" for step in (1, 2, 3, 4)]
    for name in files:
        assert (stopped / "rl/samples" / name).read_bytes() == (tmp_path / "straight/rl/samples" / name).read_bytes()
    weights = "M2/model.safetensors"
    assert (stopped / weights).read_bytes() == (tmp_path / "straight" / weights).read_bytes()
    assert not (stopped / "rl/checkpoints").exists()
    assert torch.isfinite(torch.tensor([row["loss/policy"] for row in rows])).all()


def test_the_critic_starts_from_r_in_units_of_the_reward(tmp_path: Path, parents: Path) -> None:
    """V of the state before each token is β·r/s of what was read so far."""
    learner = CONFIG.learner.model_copy(update={"beta": 2.0})
    run_stage(tmp_path, parents, steps=1, eval_every=1, learner=learner, save_rollouts=True)
    reward = RewardModel.load(parents / "R")
    (row, *_) = map(json.loads, (tmp_path / "rl/samples/rollouts-000001.jsonl").read_text().splitlines())
    with torch.no_grad():
        raw = reward.scorer.scores(reward.scorer.hidden(torch.tensor([row["ids"]])))[0, row["prompt_len"] - 1 : -1]
    assert row["version"] == 0 and row["values"] == pytest.approx((2.0 / reward.std * raw).tolist(), abs=1e-4)


def test_composite_rewards_are_frozen_logged_and_measured(tmp_path: Path, parents: Path) -> None:
    (tmp_path / "mine.py").write_text("def colons(completions, **_):\n    return [c.count(':') for c in completions]\n")
    parts = (
        ModelPart(weight=0.5),
        ExecutionPart(grading="graded"),
        LengthPart(weight=0.1),
        FunctionPart(path=f"{tmp_path / 'mine.py'}:colons", weight=0.2, mean=0.0, std=2.0),
    )
    run = RunDir(tmp_path / "run")
    learner = CONFIG.learner.model_copy(update={"missing_eos": "none"})
    changes = {"rewards": parts, "steps": 2, "normalise_samples": 12, "learner": learner}
    result = run_stage(run.path, parents, **changes)
    frozen = json.loads(statistics_path(run).read_text())
    assert frozen["responses"] == 12 and frozen["statistics"]["colons"] == [0.0, 2.0]
    assert -1 <= frozen["statistics"]["execution"][0] <= -0.3 and frozen["statistics"]["length"][0] < 0
    means = {name: mean for name, (mean, _) in frozen["statistics"].items()}
    stds = {name: std for name, (_, std) in frozen["statistics"].items()}
    for row in logged(run.path):
        by_hand = sum(
            part.weight * (row[f"reward/{part.label}"] - means[part.label]) / stds[part.label] for part in parts
        )
        assert row["reward/mean"] == pytest.approx(by_hand, abs=1e-5) and row["reward/length"] < 0
        assert row["gold/n"] == 6, "what was run for the reward measures too"
    last = logged(run.path)[-1]
    assert (
        last["utility/reward_model"] != pytest.approx(-last["utility/reward"], abs=1e-3) and result["responses"] == 12
    )
    with Sandbox(workers=1, minimum="limited") as sandbox:
        again = open_rewards(CONFIG.model_copy(update=changes), RewardModel.load(parents / "R"), sandbox, seed=3)
        read_statistics(again, run)
    assert {name: list(each) for name, each in again.statistics.items()} == frozen["statistics"]
    statistics_path(run).write_text("{}")
    with pytest.raises(RunDirError, match=r"rewards.json does not hold the rewards' statistics"):
        read_statistics(again, run)


def write_tasks(path: Path, tests: Callable[[int], str], count: int = 16) -> TaskConfig:
    """Tasks in a file, whose n-th to be drawn has the test `tests(n)`."""
    lines = [
        {"id": f"t{n}", "prompt": 'def f():\n    """Do."""\n', "entry_point": "f", "tests": ["assert True"]}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    order = [task.id for task in TaskConfig(path=str(path)).load(3, "rl", "train")]
    for line in lines:
        line["tests"] = [tests(order.index(line["id"]))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return TaskConfig(path=str(path))


@pytest.mark.parametrize("on_alarm", ["warn", "stop"])
def test_over_optimisation_raises_the_alarm_and_may_end_the_round(tmp_path: Path, parents: Path, on_alarm: str) -> None:
    """The reward rises with each step while the tests of later steps cannot be passed."""
    (tmp_path / "rising.py").write_text(
        "calls = []\ndef rising(completions, **_):\n    calls.append(1)\n    return [len(calls)] * len(completions)\n"
    )
    rewards = (FunctionPart(path=f"{tmp_path / 'rising.py'}:rising", mean=0.0, std=1.0),)
    learner = CONFIG.learner.model_copy(update={"missing_eos": "none"})
    tasks = write_tasks(tmp_path / "tasks.jsonl", lambda place: "assert True" if place < 8 else "assert False")
    changes = {"rewards": rewards, "tasks": tasks, "steps": 8, "prompts_per_step": 2, "samples_per_prompt": 4}
    changes |= {"gold_responses": 8, "eval_every": 2, "learner": learner, "on_alarm": on_alarm, "keep": "highest_gold"}
    result = run_stage(tmp_path / "run", parents, **changes)
    rows = logged(tmp_path / "run")
    looked = {row["step"]: row["gauge/alarm"] for row in rows if "gauge/alarm" in row}
    first = min(step for step, raised in looked.items() if raised)
    assert 5 <= first == result["alarm_step"] and looked[4] == 0.0
    assert len(rows) == (first if on_alarm == "stop" else 8)
    manifest = read_manifest(RunDir(tmp_path / "run").stage("rl"))
    assert manifest is not None
    (told,) = [text for text in manifest.warnings if "over-optimisation" in text]
    assert ("the round ends here" in told) == (on_alarm == "stop")
    held = {row["step"]: row["heldout/gold"] for row in rows if "heldout/gold" in row}
    assert result["highest_gold"] == max(held.values()) and held[result["highest_gold_step"]] == max(held.values())


def test_adapters_train_on_m1_and_resume_to_the_same_bits(
    tmp_path: Path, parents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M2 is M1 and its adapter/; the reference, whose tensors the policy shares, stays M1."""
    changes = {"lora": LoRAConfig(rank=2, targets=("q_proj", "o_proj", "up_proj")), "keep": "last"}
    changes |= {"learner": CONFIG.learner.model_copy(update={"optim": OptimConfig(lr=3e-3, kind="muon")})}
    result = run_stage(tmp_path / "straight", parents, **changes)
    rows = logged(tmp_path / "straight")
    assert result["trained_parameters"] == 2 * 2 * ((32 + 32) + (32 + 32) + (32 + 48))
    assert rows[0]["kl/sequence"] == pytest.approx(0, abs=1e-4) and rows[0]["sampler/gap_max"] < 1e-4
    assert rows[-1]["utility/omega"] > 1e-4
    before, after = (load_model(folder) for folder in (parents / "M1", tmp_path / "straight/M2"))
    model = twin(before)
    changes["lora"].attach(model)
    load_adapter(model, tmp_path / "straight/M2/adapter")
    assert all(torch.equal(after.state_dict()[name], tensor) for name, tensor in merged(model).state_dict().items())
    changed = {
        name for name, tensor in before.state_dict().items() if not torch.equal(after.state_dict()[name], tensor)
    }
    targets = changes["lora"].targets
    assert changed == {name for name in before.state_dict() if name.removesuffix(".weight").endswith(targets)}

    class Crash(Exception):
        pass

    class Dying(Learner):
        """Dies in the fourth step."""

        def update(self, rollout: Rollout, step: int, *arguments: Any) -> dict[str, float]:
            if step == 3:
                raise Crash
            return super().update(rollout, step, *arguments)

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patched, pytest.raises(Crash):  # which waits for the checkpoint under way
        patched.setattr(rl, "Learner", Dying)
        run_stage(stopped, parents, **changes)
    (checkpoint,) = (stopped / "rl/checkpoints").glob("step-*")
    kept = [name for name in load_file(checkpoint / "tensors.safetensors") if name.startswith("policy:")]
    assert len(kept) == 2 * 2 * 3 and all("lora_" in name for name in kept)
    assert run_stage(stopped, parents, **changes) == result and logged(stopped) == rows
    for name in ("model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        assert (stopped / "M2" / name).read_bytes() == (tmp_path / "straight/M2" / name).read_bytes()


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_algorithm_runs_as_a_stage(tmp_path: Path, parents: Path, algorithm: str) -> None:
    learner = CONFIG.learner.model_copy(update={"missing_eos": "none"})  # no response ends here: all would earn -1
    result = run_stage(tmp_path / "run", parents, algorithm=algorithm, steps=1, eval_every=1, learner=learner)
    (row,) = logged(tmp_path / "run")
    assert result["algorithm"] == algorithm and result["departures"]
    assert row["kl/sequence"] == pytest.approx(0, abs=1e-4) and math.isfinite(row["utility/total"])
    assert ("explained_variance" in row) == (algorithm == "ppo")
    before, after = (load_model(folder).state_dict() for folder in (parents / "M1", tmp_path / "run/M2"))
    assert not all(torch.equal(after[name], tensor) for name, tensor in before.items())


def collect_comparisons(run: RunDir, count: int) -> None:
    """What a round's collection leaves: judged answers in the store, and its rows on disk."""
    judged = [
        Judgement(
            prompt=f"Write f{index}.",
            completions=(Sample(text="def f(): return 1", round=0), Sample(text="def f(): pass", round=0)),
            ranking=((0,), (1,)),
            split="train",
        )
        for index in range(count)
    ]
    with PreferenceStore(run.preferences_path) as store:
        store.add_judgements(judged)
    folder = run.stage("collect").samples
    folder.mkdir(parents=True)
    (folder / "preferences.jsonl").write_text("".join(f"{index}\n" for index in range(count)))


def test_an_ensemble_serves_as_r(tmp_path: Path, parents: Path, make_scorer: Callable[..., Scorer]) -> None:
    tokenizer, first = Tokenizer.load(parents / "M1"), RewardModel.load(parents / "R")
    other = make_scorer(seed=9, vocab_size=tokenizer.vocab_size, max_seq_len=512)
    members = [first, RewardModel(other, tokenizer, 0.4, 1.2)]
    (tmp_path / "run").mkdir()
    RewardModel(first.scorer, tokenizer, 0.0, 1.5, {}, Ensemble(members, "min")).save(tmp_path / "run/R")
    shape = {"steps": 1, "eval_every": 1, "learner": CONFIG.learner.model_copy(update={"missing_eos": "none"})}
    run_stage(tmp_path / "run", parents, **shape)
    run_stage(tmp_path / "alone", parents, **shape)
    (row,), (alone,) = logged(tmp_path / "run"), logged(tmp_path / "alone")
    # the same responses: their lower score of two is no higher than the first's alone, from its mean and of one scale
    assert row["length/mean"] == alone["length/mean"]
    assert row["reward/mean"] < alone["reward/mean"] + 1e-5 and math.isfinite(row["utility/total"])


@pytest.mark.parametrize("algorithm", ["dpo", "ipo"])
def test_the_offline_route_runs_as_a_stage(tmp_path: Path, parents: Path, algorithm: str) -> None:
    run = RunDir(tmp_path / "run")
    collect_comparisons(run, 5)
    result = run_stage(run.path, parents, algorithm=algorithm, steps=3, eval_every=3, sft_rows=1)
    rows = logged(run.path)
    assert result["algorithm"] == algorithm and result["departures"]
    assert rows[0]["dpo/reward_margin"] < rows[-1]["dpo/reward_margin"] and math.isfinite(rows[-1]["utility/total"])
    assert rows[0]["dpo/beta"] == pytest.approx(CONFIG.learner.gamma * 1.5)  # γ·s/β
    assert "reward/mean" not in rows[0] and "loss/sft" in rows[0]
    before, after = (load_model(folder).state_dict() for folder in (parents / "M1", run.artifact("M2")))
    assert not all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_offline_route_without_comparisons_says_so(tmp_path: Path, parents: Path) -> None:
    collect_comparisons(RunDir(tmp_path / "run"), 0)
    with pytest.raises(DataError, match="no comparison to learn from"):
        run_stage(tmp_path / "run", parents, algorithm="dpo")


def test_the_exact_recipe_departs_from_u_in_nothing() -> None:
    recipe = load_config(Recipe, Path(__file__).parents[2] / "recipes/quickstart/exact.toml")
    assert departures(recipe.rl.algorithm, recipe.rl.ppo, recipe.rl.learner) == []
    default = Recipe().rl
    assert any("gae_lambda" in each for each in departures("ppo", default.ppo, default.learner))


def test_a_rollout_without_finite_rewards_stops_the_stage_or_is_skipped(tmp_path: Path, parents: Path) -> None:
    """R's scores overflow, so every rollout is broken: going on with `skip` leaves M1's weights as they were."""
    broken = tmp_path / "parents"
    shutil.copytree(parents, broken)
    reward = RewardModel.load(broken / "R")
    with torch.no_grad():
        reward.scorer.score.weight.fill_(3e38)
    reward.save(broken / "R")
    with pytest.raises(
        StageFailed, match=r"rl: a reward .* not finite at step 1, on \S+, .*There is no checkpoint yet"
    ):
        run_stage(tmp_path / "run", broken)
    result = run_stage(tmp_path / "run", broken, on_nonfinite="skip", checkpoint_every=100)
    manifest = read_manifest(RunDir(tmp_path / "run").stage("rl"))
    assert manifest is not None and manifest.resumes == 1
    assert [text for text in manifest.warnings if "skipped" in text] == [
        "batches of 4 steps (1, 2, 3, 4) were skipped; see faults.jsonl"
    ]
    assert [row.get("skipped") for row in logged(tmp_path / "run")] == [1.0] * 4 and "lowest_u" not in result
    before, after = (load_model(folder).state_dict() for folder in (parents / "M1", tmp_path / "run/M2"))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
