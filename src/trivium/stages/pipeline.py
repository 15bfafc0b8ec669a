"""The whole chain: tokenizer, data, M0, M1, then rounds of collect, reward and rl, then evaluation."""

import time
from pathlib import Path
from typing import Any

from pydantic import field_validator, model_validator

from trivium.base import ranks
from trivium.base.config import Config
from trivium.base.errors import ConfigError, InputError
from trivium.base.files import write_json, write_jsonl, write_text
from trivium.base.log import say, silence
from trivium.base.toml import dump_toml
from trivium.data.config import DataConfig
from trivium.model import ModelConfig
from trivium.model.hf import read_config
from trivium.runs import RunDir, StageDir, keep_run, read_manifest, read_metrics, write_lineage
from trivium.runs.directory import SIMPLE_NAME
from trivium.runs.outstanding import outstanding, owe_all
from trivium.stages import collect, data, dial, evaluate, pretrain, reward, rl, sft, tokenizer
from trivium.stages.collect import CollectConfig
from trivium.stages.confinement import SandboxConfig
from trivium.stages.evaluate import EvaluateConfig
from trivium.stages.preflight import check_inputs, check_lengths
from trivium.stages.pretrain import PretrainConfig
from trivium.stages.reward import RewardConfig
from trivium.stages.rl import RLConfig
from trivium.stages.sft import SFTConfig
from trivium.stages.stage import ComputeConfig, Context, freeze_compute
from trivium.tokenizer import Tokenizer, TokenizerConfig

STAGES = ("tokenizer", "data", "pretrain", "sft", "collect", "reward", "rl", "evaluate")
"""In order; collect, reward and rl are gone through once a round."""

MAX_NAME = 100
"""Characters of a run's name: file systems take 255, and reports and temporary files add to it."""


class Recipe(Config):
    """A run from corpus to M2."""

    name: str = "quickstart"
    """Name of the run; its directory is `runs_dir/name`."""
    runs_dir: str = "runs"
    """Folder of all runs."""
    seed: int = 0
    """Of everything random."""
    compute: ComputeConfig = ComputeConfig()
    """Device, precision, threads."""
    sandbox: SandboxConfig = SandboxConfig()
    """How model-written programs are confined."""
    data: DataConfig = DataConfig()
    """The corpus."""
    tokenizer: TokenizerConfig = TokenizerConfig(vocab_size=2048)
    """The tokenizer."""
    model: ModelConfig = ModelConfig()
    """The model's shape; the vocabulary's size is the tokenizer's."""
    pretrain: PretrainConfig = PretrainConfig()
    """M0."""
    sft: SFTConfig = SFTConfig()
    """M1."""
    collect: CollectConfig = CollectConfig()
    """Preferences."""
    reward: RewardConfig = RewardConfig()
    """R."""
    rl: RLConfig = RLConfig()
    """M2."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured."""

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not SIMPLE_NAME.fullmatch(value) or len(value) > MAX_NAME:
            raise ValueError(
                f"{value[:MAX_NAME]!r} cannot name a run: it takes up to {MAX_NAME} letters, digits, '.', '_' and '-', "
                "the first a letter or digit"
            )
        return value

    @model_validator(mode="after")
    def _sequences_fit(self) -> "Recipe":
        """Lengths that the model cannot hold; a parent from elsewhere has a context of its own, known when read."""
        limit, name = self.model.max_seq_len, "model.max_seq_len"
        problem = _excess("pretrain.seq_len", self.pretrain.seq_len, limit, name)
        if not (problem or self.sft.parent):
            problem = self.too_long(limit, name) or self.too_wide(self.model)
        if problem:
            raise ValueError(problem)
        return self

    def implied(self) -> dict[str, Any]:
        """What follows from the size dial."""
        return dial.implied(self)

    def too_long(self, limit: int, name: str) -> str | None:
        """The first length that the model to fine-tune cannot hold, with `name` for its context of `limit` tokens."""
        lengths = {f"{part}.seq_len": getattr(self, part).seq_len for part in ("sft", "reward", "evaluate")}
        answering = ("sft", "collect", "reward", "rl", "evaluate")
        lengths |= {f"{part}.max_new_tokens": getattr(self, part).max_new_tokens for part in answering}
        return next((text for key, length in lengths.items() if (text := _excess(key, length, limit, name))), None)

    def too_wide(self, shape: ModelConfig) -> str | None:
        """The first rank of adapters that exceeds a matrix of the model to fine-tune."""
        return self.sft.lora.too_wide(shape, "sft.lora") or self.rl.lora.too_wide(shape, "rl.lora")

    @property
    def parameter_count(self) -> int:
        """Of M0, with as many tokens as the tokenizer may have."""
        return self.model.model_copy(update={"vocab_size": self.tokenizer.vocab_size}).parameter_count

    @property
    def directory(self) -> Path:
        """Where the run is."""
        return Path(self.runs_dir) / self.name


def _excess(name: str, length: int, limit: int, of: str) -> str | None:
    """What is wrong with a length; an answer as long as the context leaves no room for a prompt."""
    if name.endswith("max_new_tokens") and length >= limit:
        return f"{name} = {length} leaves no room for a prompt in {of} = {limit}. Lower it"
    return f"{name} = {length} exceeds {of} = {limit}. Lower it" if length > limit else None


def run_pipeline(recipe: Recipe, only: str | None = None, force: bool = False) -> dict[str, Any]:
    """Run every stage that is not done, or just one; returns what `summary.json` holds, or the stage's figures.

    Under `torchrun` all ranks call it; rank 0 returns the figures, the others nothing.

    Args:
        only: one of `STAGES`; its inputs must exist.
        force: do it again, overwriting.
    """
    ranks.join()
    if not ranks.is_main():
        return _help(recipe)
    summary = _run_pipeline(recipe, only, force)
    ranks.broadcast(None)
    return summary


def _help(recipe: Recipe) -> dict[str, Any]:
    """What the other ranks do: take part in the stages that rank 0 calls out, until there are none."""
    silence()
    run = RunDir(recipe.directory)
    while (call := ranks.broadcast(None)) is not None:
        context = Context(run, recipe.seed, ComputeConfig.model_validate(call["compute"]))
        context.set_up()
        stage, _, number = call["stage"].partition("-")
        if stage in STAGES[4:7]:
            _round(stage, context, recipe, int(number or 1) - 1)
        else:
            _single(stage, context, recipe)
    return {}


def _run_pipeline(recipe: Recipe, only: str | None, force: bool) -> dict[str, Any]:
    if only is not None and only not in STAGES:
        raise ConfigError(f"there is no stage {only!r}; known: {', '.join(STAGES)}.")
    if recipe.rl.rounds > 1 and recipe.collect.path:
        say("preferences are imported, so there is one round: later ones need a judge for the policy's new answers")
    if recipe.model.depth is not None:
        say(dial.told(recipe))
    run = RunDir(recipe.directory)
    to_come = {stage for stage in STAGES if only in (None, stage) and (force or not _is_done(run, stage))}
    to_come |= {stage for stage in outstanding(run) if only is None and stage in STAGES}
    check_inputs(recipe, to_come)
    with run.lock():
        began = time.monotonic()
        kept, results = keep_run(run), {}
        context = Context(run, recipe.seed, recipe.compute, force)
        try:
            freeze_compute(run, context)
            resolved = dump_toml(recipe.model_dump(mode="json"))
            if not run.recipe_path.exists():
                write_text(run.recipe_path, resolved)
            if force and only is None:
                owe_all(run)
            _go_through(context, recipe, only, to_come, results)
        except BaseException as error:
            if isinstance(error, InputError) and not context.changed:
                kept.restore()
            else:
                write_lineage(run)
            raise
        write_lineage(run)
        if only is None:
            run.outstanding_path.unlink(missing_ok=True)  # of stages that this recipe does not have
        write_text(run.recipe_path, resolved)  # not before: a recipe that was refused is not the run's
        if only not in (None, "evaluate"):
            return {only: results[only]}
        say(f"{recipe.name}: everything is done ({time.monotonic() - began:.0f} s this time)")
        return _summarise(run, recipe, results["evaluate"])


def _is_done(run: RunDir, stage: str) -> bool:
    manifest = read_manifest(run.stage(stage))
    return manifest is not None and manifest.status == "done"


def _go_through(context: Context, recipe: Recipe, only: str | None, to_come: set[str], results: dict[str, Any]) -> None:
    """Stage by stage; the figures of each are put into `results` as it ends."""
    for stage in STAGES[:4]:
        if only in (None, stage):
            results[stage] = _single(stage, context, recipe)
        if stage == "tokenizer":
            _check_lengths(context, recipe, to_come)
    for round in range(_rounds(recipe)):
        for stage in STAGES[4:7]:
            if only in (None, stage) and _is_due(stage, context, recipe, round, only):
                results[stage] = _round(stage, context, recipe, round)
    if only in (None, "evaluate"):
        results["evaluate"] = _single("evaluate", context, recipe)


def _check_lengths(context: Context, recipe: Recipe, to_come: set[str]) -> None:
    """As soon as there is a tokenizer to count with."""
    parent = Path(recipe.sft.parent) if recipe.sft.parent else None
    folder = parent or context.run.artifact("tokenizer")
    if (folder / "tokenizer.json").is_file():
        limit = read_config(parent).max_seq_len if parent else recipe.model.max_seq_len
        check_lengths(recipe, to_come, Tokenizer.load(folder), limit)


def _is_due(stage: str, context: Context, recipe: Recipe, round: int, only: str | None) -> bool:
    """Stage by stage, a later round's turn comes when what it starts from is there."""
    if only is None or round == 0:
        return True
    last = round == _rounds(recipe) - 1
    needs = {
        "collect": _policy(context, round - 1),
        "reward": context.run.stage(f"collect-{round + 1}").samples / "preferences.jsonl",
        "rl": context.run.artifact("R") if last else _reward(context, round),
    }
    if not needs[stage].exists():
        say(f"{stage}: round {round + 1} comes after the round before: collect, reward, rl, and again")
        return False
    return True


def _rounds(recipe: Recipe) -> int:
    """Rounds to go: imported comparisons make one, for nobody is there to compare the policy's new answers."""
    return 1 if recipe.collect.path else recipe.rl.rounds


def _single(stage: str, context: Context, recipe: Recipe) -> dict[str, Any]:
    match stage:
        case "tokenizer":
            return tokenizer.run(context, recipe.tokenizer, recipe.data)
        case "data":
            return data.run(context, recipe.data)
        case "pretrain":
            return pretrain.run(context, recipe.pretrain, recipe.model)
        case "sft":
            return sft.run(context, recipe.sft, recipe.sandbox)
        case _:
            return evaluate.run(context, recipe.evaluate, recipe.rl, recipe.sft, recipe.sandbox)


def _round(stage: str, context: Context, recipe: Recipe, round: int) -> dict[str, Any]:
    """A stage of one round: each starts from what the round before left; the last leaves R and M2."""
    last = round == _rounds(recipe) - 1
    policy = context.run.artifact("M1") if round == 0 else _policy(context, round - 1)
    judge = context.run.artifact("R") if last else _reward(context, round)
    match stage:
        case "collect":
            return collect.run(context, recipe.collect, recipe.sandbox, policy=policy, round=round)
        case "reward":
            previous = _reward(context, round - 1) if round else None
            return reward.run(context, recipe.reward, round=round, previous=previous, artifact=judge)
        case _:
            target = context.run.artifact("M2") if last else _policy(context, round)
            return rl.run(
                context,
                recipe.rl,
                recipe.sft,
                recipe.sandbox,
                round=round,
                policy=policy,
                reward=judge,
                artifact=target,
            )


def _policy(context: Context, round: int) -> Path:
    """The policy that a round before the last left."""
    return context.run.stage("rl" if round == 0 else f"rl-{round + 1}").path / "policy"


def _reward(context: Context, round: int) -> Path:
    """The reward model that a round before the last left."""
    return context.run.stage("reward" if round == 0 else f"reward-{round + 1}").path / "model"


def _summarise(run: RunDir, recipe: Recipe, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Gather `summary.json` and `utility.jsonl` from what the stages recorded."""
    manifests = {stage.name: manifest for stage in run.stages() if (manifest := read_manifest(stage)) is not None}
    seconds = {name: manifest.wall_seconds for name, manifest in manifests.items()}
    made_by = {"M0": ("pretrain",), "M1": ("sft",), "M2": ("collect", "reward", "rl")}
    models = {}
    for name, figures in evaluation["models"].items():
        own = [stage for stage in seconds if stage.split("-")[0] in made_by[name]]
        tokens = sum(int(manifests[stage].result.get("tokens", 0)) for stage in own)
        models[name] = {
            "pass_at_1": figures["pass_at_1"],
            "pass_at_1_ci": figures["pass_at_1_ci"],
            "pass_at_10": figures.get("pass_at_10"),
            "greedy_pass_at_1": figures["greedy_pass_at_1"],
            "bits_per_byte": figures.get("bits_per_byte"),
            "L_SFT": figures["utility/sft"],
            "L_R": figures["utility/reward"],
            "omega": figures["utility/omega"],
            "U": figures["utility/total"],
            "parameters": figures["parameters"],
            "train_seconds": round(sum(seconds[stage] for stage in own), 1),
            "tokens": tokens,
        }
    rounds, rewards = (
        [manifests[name].result for name in sorted(manifests, key=_round_of) if name.split("-")[0] == stage]
        for stage in ("rl", "reward")
    )
    keys = ("accuracy", "accuracy_ci", "pairs_train", "pairs_heldout", "ece")
    summary = {
        "models": models,
        "reward_model": {key: rewards[-1].get(key) for key in keys}
        | {"accuracy_by_round": [result.get("accuracy") for result in rewards]},
        "rl": {
            "algorithm": recipe.rl.algorithm,
            "steps": _rounds(recipe) * recipe.rl.steps,
            "rounds": _rounds(recipe),
            "kl": rounds[-1].get("kl_sequence_last"),
            "reward_before": rounds[0].get("reward_mean_first"),
            "reward_after": rounds[-1].get("reward_mean_last"),
            "gold_before": rounds[0].get("gold_mean_first"),
            "gold_after": rounds[-1].get("gold_mean_last"),
        },
        "wall_seconds": round(sum(seconds.values()), 1),
        "seed": recipe.seed,
    }
    write_json(run.summary_path, summary)
    write_jsonl(run.utility_path, _utility_rows(run, evaluation))
    write_lineage(run)
    return summary


def _round_of(stage: str) -> int:
    """1 for `rl`, 2 for `rl-2`."""
    return int(stage.partition("-")[2] or 1)


def _utility_rows(run: RunDir, evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """U and its parts of every evaluation: during RL, and of the models at the end."""

    def plain(figures: dict[str, Any]) -> dict[str, Any]:
        return {k.removeprefix("utility/"): v for k, v in figures.items() if k.startswith("utility/")}

    rows = []
    for stage in run.stages():
        if stage.name.split("-")[0] == "rl":
            measured = [row for row in read_metrics(stage.metrics_path) if "utility/total" in row]
            named = {"model": "policy", "stage": stage.name} | _measured_with(stage)
            rows += [named | {"step": row["step"]} | plain(row) for row in measured]
    named = {"stage": "evaluate"} | _measured_with(run.stage("evaluate"))
    return rows + [{"model": name} | named | plain(each) for name, each in evaluation["models"].items()]


def _measured_with(stage: StageDir) -> dict[str, str | None]:
    """Fingerprints of what U was measured with: two rows of equal ones may be compared."""
    manifest = read_manifest(stage)
    assert manifest is not None
    found = {"reference": manifest.inputs.get("M1"), "reward_model_weights": manifest.inputs.get("R")}
    return found | {"prompts": manifest.result.get("utility_prompts")}
