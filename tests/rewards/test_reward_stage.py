"""The stage itself on comparisons with ties and margins: every objective trains, is stopped, and ends the same."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.multiprocessing.spawn import spawn

import trivium as tv
from trivium.base.errors import ConfigError, DataError, Interrupted, StageFailed
from trivium.base.ranks import broadcast
from trivium.model import Decoder, Scorer, save_model
from trivium.optim import OptimConfig
from trivium.preferences.judgement import Judgement, Sample
from trivium.preferences.pairs import ranked_prompts
from trivium.preferences.store import PreferenceStore
from trivium.records import Preference
from trivium.rewards import RewardModel
from trivium.rewards.learning import RewardLossConfig
from trivium.rewards.model import member_folders
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
                source="human", annotator=f"person {n % 4}", margin=float(1 + n % 2),
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
    folder.mkdir(parents=True, exist_ok=True)
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


def test_figures_are_by_split_source_and_annotator(tmp_path: Path, start: Path) -> None:
    run_stage(tmp_path, start, CONFIG)
    figures = json.loads((tmp_path / "R-1/rm.json").read_text())
    people, pairs = figures["annotators"], figures["pairs_heldout"]
    assert set(people) == {"p2", "p4"}  # who judged the held-out prompts, by pseudonym
    assert figures["accuracy"] == pytest.approx(sum(e["accuracy"] * e["pairs"] for e in people.values()) / pairs)
    assert figures["sources"] == {
        "human": {key: figures[key] for key in ("accuracy", "accuracy_ci")} | {"pairs": pairs}
    }
    for parts in (people, figures["length"]["by_gap"]):
        assert sum(each["pairs"] for each in parts.values()) == pairs
    assert figures["train"]["pairs"] == figures["pairs_train"] > pairs  # few enough to be read in full
    assert set(figures["train"]) == {"accuracy", "accuracy_ci", "nll", "ece", "brier", "pairs"}
    assert figures["train"]["nll"] != figures["nll"]
    assert isinstance(figures["format"], dict)


@pytest.mark.parametrize("members", [1, 2])
def test_without_held_out_prompts_nothing_is_claimed(tmp_path: Path, start: Path, members: int) -> None:
    def all_train(round: int) -> list[Judgement]:
        return [each.model_copy(update={"split": "train"}) for each in judgements(round)]

    config = CONFIG.model_copy(update={"ensemble": members, "epochs": 0.5})
    result = run_stage(tmp_path, start, config, judged=all_train)
    assert "accuracy" not in result and result["prompts_heldout"] == 0 and result["train"]["pairs"] > 0
    strict = config.model_copy(update={"allow_chance": False})
    with pytest.raises(StageFailed, match="no prompt was held out, so the reward model's accuracy is unknown"):
        run_stage(tmp_path / "strict", start, strict, judged=all_train)


def test_the_front_door_learns_from_ties_and_margins(start: Path) -> None:
    records = [
        Preference(
            prompt=f"def plus_{n}(a):\n",
            chosen=f"    return a + {n}\n",
            rejected="    return a\n",
            margin=1.5,
            tie=n % 3 == 0,
        )
        for n in range(9)
    ]
    loss = RewardLossConfig(ties="davidson", margins=1.0)
    model = tv.RewardModel.train(start / "M1", records, epochs=2, prompts_per_step=3, loss=loss)
    assert model.figures["nu"] > 0 and type(model.scorer) is Scorer
    plain = tv.RewardModel.train(start / "M1", records, epochs=2, prompts_per_step=3)
    assert plain.figures == {}
    prompts, answers = [records[1].prompt] * 2, [records[1].chosen, records[1].rejected]
    assert not torch.equal(model.batch_evaluate(prompts, answers), plain.batch_evaluate(prompts, answers))


THREE = CONFIG.model_copy(update={"ensemble": 3, "aggregate": "min"})
WEIGHTS = "model.safetensors"


def test_an_ensemble_is_three_models_of_which_the_first_is_the_one_without(tmp_path: Path, start: Path) -> None:
    run_stage(tmp_path / "one", start, CONFIG)
    result = run_stage(tmp_path / "three", start, THREE)
    folder = tmp_path / "three/R-1"
    alone, first = tmp_path / "one/R-1", folder / "members/1"
    weights = [(folder / "members" / str(number) / WEIGHTS).read_bytes() for number in (1, 2, 3)]
    assert len(set(weights)) == 3
    assert (alone / WEIGHTS).read_bytes() == weights[0] == (folder / WEIGHTS).read_bytes()
    assert {key: json.loads((first / "rm.json").read_text())[key] for key in ("mean", "std", "accuracy", "nll")} == {
        key: json.loads((alone / "rm.json").read_text())[key] for key in ("mean", "std", "accuracy", "nll")
    }
    told = json.loads((folder / "rm.json").read_text())["ensemble"]
    assert (told["members"], told["aggregate"], told["sd_coef"]) == (3, "min", 1.0)
    assert [json.loads((folder / f"members/{n}/rm.json").read_text())["nll"] for n in (1, 2, 3)] == told["nll"]
    assert told["disagreement"] > 0 and told["disagreement_M1"] > 0 and 0 <= told["divided"] <= 1
    assert result["ensemble"] | {"members": 3, "aggregate": "min", "sd_coef": 1.0} == told
    assert not (tmp_path / "three/reward/checkpoints").exists()
    assert len(logged(tmp_path / "three/reward/member-3/metrics.jsonl")) == len(
        logged(tmp_path / "three/reward/metrics.jsonl")
    )


@pytest.mark.parametrize("aggregate", ["mean", "min", "mean_minus_sd"])
def test_r_answers_with_the_aggregate_normalised_on_m1(tmp_path: Path, start: Path, aggregate: str) -> None:
    config = CONFIG.model_copy(update={"ensemble": 2, "aggregate": aggregate, "sd_coef": 0.5, "epochs": 0.5})
    run_stage(tmp_path, start, config)
    model = RewardModel.load(tmp_path / "R-1")
    members = [RewardModel.load(folder) for folder in member_folders(tmp_path / "R-1")]
    prompts, responses, owners = [[1, 7, 9], [1]], [[40, 2], [80, 90, 2], [11]], [0, 1, 1]
    one, two = (member.raw_scores(prompts, responses, owners) - member.mean for member in members)
    middle, apart = (one + two) / 2, (one - two).abs() / 2
    wanted = {"mean": middle, "min": middle - apart, "mean_minus_sd": middle - 0.5 * apart}[aggregate]
    torch.testing.assert_close(model.rewards(prompts, responses, owners), (wanted - model.mean) / model.std)
    assert apart.max() > 0


def test_a_shift_keeps_the_unit_and_the_prompts_are_named(tmp_path: Path, start: Path) -> None:
    for kind in ("scale", "shift"):
        run_stage(tmp_path / kind, start, CONFIG.model_copy(update={"normalise": kind}))
    scaled, shifted = (json.loads((tmp_path / kind / "R-1/rm.json").read_text()) for kind in ("scale", "shift"))
    assert scaled["mean"] == shifted["mean"] and scaled["std"] != 1.0 == shifted["std"]
    assert scaled["normalised_prompts"] == shifted["normalised_prompts"] != ""
    rows = [[1, 7, 9]], [[40, 2], [80, 90, 2]], [0, 0]
    one, two = (RewardModel.load(tmp_path / kind / "R-1") for kind in ("scale", "shift"))
    torch.testing.assert_close(one.rewards(*rows) * scaled["std"], two.rewards(*rows))


def test_the_mean_of_weights_is_one_model(tmp_path: Path, start: Path) -> None:
    config = CONFIG.model_copy(update={"ensemble": 2, "aggregate": "weight_average", "epochs": 0.5})
    run_stage(tmp_path, start, config)
    folder = tmp_path / "R-1"
    whole, one, two = (load_file(each / WEIGHTS) for each in (folder, *member_folders(folder)))
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, (one[name] + two[name]) / 2)
    assert any(not torch.equal(one[name], two[name]) for name in whole)
    model = RewardModel.load(folder)
    assert model.ensemble is None  # the members need not be in memory
    model.save(tmp_path / "copy")
    assert member_folders(tmp_path / "copy") == [tmp_path / "copy"]


@pytest.mark.parametrize(("aggregate", "heads"), [("mean", 3), ("weight_average", 1)])
def test_members_begin_with_m1_and_a_head_each_or_one_for_all(
    tmp_path: Path, start: Path, aggregate: str, heads: int
) -> None:
    still = OptimConfig(kind="muon", lr=0.0, muon_lr=0.0)
    run_stage(tmp_path, start, THREE.model_copy(update={"aggregate": aggregate, "optim": still, "epochs": 0.5}))
    members = [load_file(folder / WEIGHTS) for folder in member_folders(tmp_path / "R-1")]
    assert len({tuple(tensors.pop("score.weight").flatten().tolist()) for tensors in members}) == heads
    body = load_file(start / "M1" / WEIGHTS)
    assert all(torch.equal(tensor, body[name]) for tensors in members for name, tensor in tensors.items())


def test_an_ensemble_opens_in_transformers(tmp_path: Path, start: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="parity needs the `hf` extra")
    run_stage(tmp_path, start, THREE.model_copy(update={"epochs": 0.5}))
    for folder in (tmp_path / "R-1", *member_folders(tmp_path / "R-1")):
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            logits = theirs(torch.tensor([[1, 7, 40, 2]])).logits
        first = RewardModel.load(member_folders(folder)[0])
        torch.testing.assert_close(logits[0], first.raw_scores([[1, 7]], [[40, 2]], [0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("member", ["reward", "reward/member-2", "reward/member-3"])
def test_rlhf_23_an_ensemble_resumes_to_the_same_bits_from_any_member(
    tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    config = THREE.model_copy(update={"loss": RewardLossConfig(ties="davidson")})
    run_stage(tmp_path / "straight", start, config)
    stopped = tmp_path / "stopped"

    class StoppingThere(Stopping):
        def log(self, step: int, **values: Any) -> None:
            kind = Stopping if self.path.parent == stopped / member else MetricsLog
            kind.log(self, step, **values)

    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="reward stopped after step 3 of 10"):
        patched.setattr(reward, "MetricsLog", StoppingThere)
        run_stage(stopped, start, config)
    earlier = [path.parent for path in (stopped / "reward").rglob("metrics.jsonl") if path.parent != stopped / member]
    done = {folder: rows(folder / "metrics.jsonl") for folder in earlier}
    assert len(done) == ["reward", "reward/member-2", "reward/member-3"].index(member)
    run_stage(stopped, start, config)
    for folder, times in done.items():
        assert rows(folder / "metrics.jsonl") == times, "a member that had ended was trained again"
    for path in (tmp_path / "straight/R-1").rglob("*.*"):
        if path.is_file():
            other = stopped / "R-1" / path.relative_to(tmp_path / "straight/R-1")
            assert other.read_bytes() == path.read_bytes(), path
    for path in (tmp_path / "straight/reward").rglob("metrics.jsonl"):
        assert logged(path) == logged(stopped / "reward" / path.relative_to(tmp_path / "straight/reward"))


SPREAD = THREE.model_copy(
    update={
        "ensemble": 2, "epochs": 0.6, "normalise_samples": 4, "tasks": TaskConfig(count=2),
        "loss": RewardLossConfig(ties="davidson", margins=0.5),
        "optim": OptimConfig(lr=3e-3, eps=1e-3, warmup_steps=0),  # Adam would magnify the rounding of small gradients
    }
)  # fmt: skip
SPREAD_RUNS = {name: SPREAD.model_copy(update={"aggregate": name}) for name in ("mean_minus_sd", "weight_average")}


def train_on_a_rank(rank: int, folder: Path, start: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for name, config in SPREAD_RUNS.items():
        if rank:
            broadcast(None)  # rank 0 has opened the stage and calls
        run_stage(folder / name, start, config)
        dist.barrier()
    dist.destroy_process_group()


@pytest.mark.distributed
@pytest.mark.timeout(300)
def test_rlhf_18_two_ranks_train_the_same_ensemble(tmp_path: Path, start: Path) -> None:
    """Every member's weights and nu, the aggregate's statistics and figures, and what was logged."""
    for name in SPREAD_RUNS:  # the comparisons are there before two processes look for them
        run_stage(tmp_path / "alone" / name, start, SPREAD_RUNS[name])
        copied = tmp_path / "spread" / name
        (copied / "collect/samples").mkdir(parents=True)
        (copied / "M1").symlink_to(start / "M1")
        shutil.copy(tmp_path / "alone" / name / "preferences.db", copied)
        (copied / "collect/samples/preferences.jsonl").write_text("")
    spawn(train_on_a_rank, (tmp_path / "spread", start), nprocs=2)
    for name in SPREAD_RUNS:
        one, two = (tmp_path / kind / name for kind in ("alone", "spread"))
        folders = ["R-1", "R-1/members/1", "R-1/members/2"]
        for folder in folders:
            mine, theirs = load_file(one / folder / WEIGHTS), load_file(two / folder / WEIGHTS)
            for key, tensor in mine.items():
                torch.testing.assert_close(theirs[key], tensor, atol=1e-5, rtol=0, msg=f"{name} {folder} {key}")
            told, found = (json.loads((run / folder / "rm.json").read_text()) for run in (one, two))
            for key in ("mean", "std", "nll", "accuracy", "nu"):
                assert found[key] == pytest.approx(told[key], abs=1e-4), (name, folder, key)
        body = load_file(start / "M1" / WEIGHTS)
        assert max((mine[key] - tensor).abs().max() for key, tensor in body.items() if key in mine) > 1e-3, "it learnt"
        for part in ("", "member-2/"):
            logs = (logged(run / f"reward/{part}metrics.jsonl") for run in (one, two))
            for row, other in zip(*logs, strict=True):
                assert other == pytest.approx(row, rel=1e-3, abs=1e-4)


def test_a_later_round_goes_on_with_each_member(tmp_path: Path, start: Path) -> None:
    run_stage(tmp_path, start, THREE)
    still = THREE.model_copy(update={"optim": OptimConfig(kind="muon", lr=0.0, muon_lr=0.0)})
    result = run_stage(tmp_path, start, still, round=1)
    before, after = (
        [(folder / WEIGHTS).read_bytes() for folder in member_folders(tmp_path / name)] for name in ("R-1", "R-2")
    )
    assert before == after and len(set(after)) == 3
    assert result["prompts_heldout"] == 2 * json.loads((tmp_path / "R-1/rm.json").read_text())["prompts_heldout"]


def test_a_later_round_of_another_size_is_refused(tmp_path: Path, start: Path) -> None:
    run_stage(tmp_path, start, CONFIG.model_copy(update={"epochs": 0.5}))
    with pytest.raises(ConfigError, match=r"reward.ensemble is 3, but .*R-1 holds 1\. Train the rounds before anew"):
        run_stage(tmp_path, start, THREE, round=1)
