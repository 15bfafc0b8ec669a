"""Train the reward model on the collected comparisons; the artifact is R."""

import math
from pathlib import Path
from typing import Any

import torch

from trivium.base.errors import ConfigError, StageFailed
from trivium.base.fingerprint import fingerprint
from trivium.base.log import say
from trivium.base.ranks import is_main
from trivium.base.seeding import derive_seed, python_rng
from trivium.distributed import gathered, shard
from trivium.evaluation.reward_figures import (
    annotator_figures,
    comparison_figures,
    ensemble_figures,
    heldout_figures,
    probe_figures,
)
from trivium.model import Scorer
from trivium.optim import Optimizer
from trivium.preferences.store import PreferenceStore
from trivium.rewards.ensemble import average_weights, score_deviation
from trivium.rewards.learning import RankedTokens, RewardSchedule, RewardStep, as_trained, in_training, learning_rates
from trivium.rewards.model import Ensemble, RewardModel, member_folders
from trivium.runs import MetricsLog, StageDir
from trivium.stages.comparisons import heldout_by_annotator, label_figures, source_weight, tokenise, training_groups
from trivium.stages.judging import answer_tasks, encode_prompt
from trivium.stages.reward_config import RewardConfig
from trivium.stages.stage import Context, note, perform
from trivium.tokenizer import Tokenizer
from trivium.training import Checkpointer, Trainer

MOST_TRAIN = 300
"""Prompts of training whose figures are taken at the end."""

__all__ = ["RewardConfig", "collected", "judged", "run", "tokenise"]


def run(context: Context, config: RewardConfig, *, round: int, previous: Path | None, artifact: Path) -> dict[str, Any]:
    """Round 0 starts from M1's body; later rounds go on from the reward model before."""
    name = "reward" if round == 0 else f"reward-{round + 1}"
    base = context.run.artifact("M1")

    def body(stage: StageDir) -> tuple[dict[str, Any], list[Any]]:
        tokenizer = Tokenizer.load(base)
        train, held = training_groups(context, config, stage, tokenizer, round)
        members = _members(context, config, stage, previous, tokenizer)
        for number, member in enumerate(members):
            _fit(context, config, stage, member, number, train, held, config.later_epochs if round else config.epochs)
        if not is_main():
            return {}, []
        model = _together(config, members)
        _normalise(context, config, model, base)
        figures = _figures(context, config, model, train, held, round)
        model.figures |= figures | {
            "pairs_train": sum(sum(a < b for a in group.tiers for b in group.tiers) for group in train),
            "prompts_train": len(train),
            "prompts_heldout": len(held),
            "labels": label_figures(context, train, round),
            "source_weights": {name: source_weight(config, name) for name in sorted({group.source for group in train})},
        }
        _gate(config, stage, figures)
        _gate_probes(config, stage, figures["probes"])
        model.save(artifact)
        return model.figures | {"mean": model.mean, "std": model.std}, [artifact]

    inputs: dict[str, Path | str] = {
        "M1": base,
        "comparisons": collected(context, round),
        "judgements": judged(context, round),
    }
    if previous is not None:
        inputs["previous"] = previous
    return perform(context, name, __name__, config, inputs=inputs, parents=["M1"], together=True, body=body)


def collected(context: Context, round: int) -> Path:
    """What the round's collection left: the comparisons in the order of the store."""
    name = "collect" if round == 0 else f"collect-{round + 1}"
    return context.run.stage(name).samples / "preferences.jsonl"


def judged(context: Context, round: int) -> str:
    """A name for the judgements to learn from: those of people come after the collection, at any time."""
    if not context.run.preferences_path.exists():
        return ""
    with PreferenceStore(context.run.preferences_path, create=False) as store:
        return store.fingerprint(through_round=round)


def _members(
    context: Context, config: RewardConfig, stage: StageDir, previous: Path | None, tokenizer: Tokenizer
) -> list[RewardModel]:
    """The models to train: those of the round before, or M1's body with a head each; the mean of weights shares one."""
    if previous is not None:
        before = [RewardModel.load(folder) for folder in member_folders(previous)]
        if len(before) != config.ensemble:
            raise ConfigError(
                f"reward.ensemble is {config.ensemble}, but {previous} holds {len(before)}. Train the rounds before "
                "anew with --force, or leave the number as it was."
            )
        starts = [(each.scorer, each.figures.get("nu")) for each in before]
    else:
        body = context.load_model(context.run.artifact("M1"))
        heads = [0 if config.aggregate == "weight_average" else number for number in range(config.ensemble)]
        starts = [(Scorer.from_decoder(body, _generator(context.seed, "reward head", head)), None) for head in heads]
    return [RewardModel(context.place(scorer), tokenizer, figures={"nu": nu} if nu else {}) for scorer, nu in starts]


def _generator(seed: int, purpose: str, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *_numbered(number)))


def _numbered(number: int) -> tuple[int, ...]:
    """Part of a seed: the first member is what a single model would be."""
    return (number,) if number else ()


def _fit(
    context: Context,
    config: RewardConfig,
    stage: StageDir,
    model: RewardModel,
    number: int,
    train: list[RankedTokens],
    held: list[RankedTokens],
    epochs: float,
) -> None:
    """Train a member's scorer; nu, where ties have one, begins and ends in its figures."""
    seed = derive_seed(context.seed, stage.name, *_numbered(number))
    schedule = RewardSchedule(train, config.prompts_per_step, epochs, seed)
    scorer = in_training(model.scorer, config.loss, train, model.figures.get("nu"))
    part = stage.part(f"member-{number + 1}") if number else stage
    if config.ensemble > 1:
        say(f"{stage.name}: member {number + 1} of {config.ensemble}")

    def evaluate(step: int) -> dict[str, float]:
        now, learnt = as_trained(gathered(scorer))
        if not is_main():
            return {}
        figures = comparison_figures(RewardModel(now, model.tokenizer, figures=learnt), held, context.seed)
        return {f"heldout/{key}": figures[key] for key in ("accuracy", "nll", "ece") if key in figures} | learnt

    with MetricsLog(part.metrics_path) as metrics:
        trainer = Trainer(
            scorer,
            Optimizer(shard(scorer), config.optim, schedule.steps, learning_rates(scorer, config.loss)),
            stage=part,
            config=config,
            metrics=metrics,
            keep_end=config.ensemble > 1,
        )
        trainer.fit(
            schedule.steps,
            lambda step: RewardStep(scorer, schedule.examples(step), config.loss).losses(),
            hooks=[(config.eval_every, evaluate)],
            contents=lambda step: [example.name for example in schedule.examples(step)],
        )
    model.scorer, model.figures = as_trained(gathered(scorer))


def _together(config: RewardConfig, members: list[RewardModel]) -> RewardModel:
    """R: the one member, or all of them as one."""
    first = members[0]
    if len(members) == 1:
        return first
    averaged = config.aggregate == "weight_average"
    scorer = average_weights([member.scorer for member in members]) if averaged else first.scorer
    nus = [member.figures["nu"] for member in members if "nu" in member.figures]
    figures = {"nu": math.exp(sum(map(math.log, nus)) / len(nus))} if nus else {}
    ensemble = Ensemble(members, config.aggregate, config.sd_coef)
    return RewardModel(scorer, first.tokenizer, figures=figures, ensemble=ensemble)


def _figures(
    context: Context,
    config: RewardConfig,
    model: RewardModel,
    train: list[RankedTokens],
    held: list[RankedTokens],
    round: int,
) -> dict[str, Any]:
    """What comparisons and probes say of R, and of each member of an ensemble; nothing by name where none is held out.

    Those of training are of a sample of its prompts, as many as are read soon.
    """
    seed = context.seed
    figures = heldout_figures(model, held, seed)
    by_annotator = heldout_by_annotator(context, config, model.tokenizer, round)
    sample = python_rng(seed, "train figures", round).sample(train, min(MOST_TRAIN, len(train)))
    learnt = comparison_figures(model, sample, seed)
    figures |= {
        "annotators": annotator_figures(model, by_annotator),
        "train": {
            key: learnt[key] for key in ("accuracy", "accuracy_ci", "nll", "ece", "brier", "pairs") if key in learnt
        },
        "probes": probe_figures(model, held, seed),
    }
    if model.ensemble is None:
        return figures
    for member in model.ensemble.members:
        member.figures |= comparison_figures(member, held, seed)
    return figures | {"ensemble": model.figures["ensemble"] | ensemble_figures(model, held)}


def _gate(config: RewardConfig, stage: StageDir, figures: dict[str, Any]) -> None:
    """No reward model that cannot tell better from worse is handed on in silence."""
    if "accuracy" not in figures:
        problem = "no prompt was held out, so the reward model's accuracy is unknown"
    elif not figures["accuracy_ci"][0] > 0.5:
        low, high = figures["accuracy_ci"]
        problem = (
            f"held-out accuracy is {figures['accuracy']:.3f}, 95% interval {low:.3f} to {high:.3f}: not above chance"
        )
    else:
        return
    if not config.allow_chance:
        Checkpointer(stage.checkpoints).clear()  # with more comparisons it will be another reward model
        raise StageFailed(f"{stage.name}: {problem}. Collect more pairs, or pass --reward.allow_chance true.")
    note(stage, problem)


def _gate_probes(config: RewardConfig, stage: StageDir, probes: dict[str, dict[str, Any]]) -> None:
    weak = {name: each["accuracy"] for name, each in probes.items() if each["accuracy"] < config.probe_floor}
    if not weak:
        return
    told = ", ".join(f"{name.replace('_', ' ')} {share:.2f}" for name, share in weak.items())
    problem = f"R prefers good answers to damaged copies too rarely ({told}; floor {config.probe_floor})"
    if config.gate_on_probes:
        Checkpointer(stage.checkpoints).clear()
        raise StageFailed(
            f"{stage.name}: {problem}. Collect more pairs, lower reward.probe_floor, or set "
            "reward.gate_on_probes = false."
        )
    note(stage, problem)


def _normalise(context: Context, config: RewardConfig, model: RewardModel, base: Path) -> None:
    """Freeze mean and deviation of the scores of M1's own samples (sampler settings of RL), of each member first."""
    tasks = config.tasks.load(context.seed, "normalise", "train")
    samples = max(1, -(-config.normalise_samples // len(tasks)))
    m1 = context.load_model(base)
    answers = answer_tasks(
        m1,
        model.tokenizer,
        tasks,
        samples=samples,
        seed=context.seed,
        purpose="normalise",
        max_new_tokens=config.max_new_tokens,
    )
    prompts = [encode_prompt(model.tokenizer, task.prompt) for task in tasks]
    owners = [index for index in range(len(tasks)) for _ in range(samples)]
    ids = [answer.sample.ids for answer in answers]
    if model.ensemble is not None:
        for member in model.ensemble.members:
            member.freeze_normalisation(member.raw_scores(prompts, ids, owners), config.normalise)
    model.freeze_normalisation(model.raw_scores(prompts, ids, owners), config.normalise)
    model.figures |= {"normalised_on": len(answers), "normalised_prompts": fingerprint([task.prompt for task in tasks])}
    if model.ensemble is not None:
        deviation = score_deviation(model.member_scores(prompts, ids, owners)) / model.std
        model.figures["ensemble"] = {"disagreement_M1": deviation.mean().item()}
