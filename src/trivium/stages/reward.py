"""Train the reward model on the collected comparisons; the artifact is R."""

from pathlib import Path
from typing import Any

import torch

from trivium.base.errors import StageFailed
from trivium.base.ranks import is_main
from trivium.base.seeding import derive_seed
from trivium.distributed import gathered, shard
from trivium.evaluation.reward_figures import comparison_figures, probe_figures
from trivium.model import Scorer
from trivium.optim import Optimizer
from trivium.preferences.store import PreferenceStore
from trivium.rewards import RewardModel
from trivium.rewards.learning import RankedTokens, RewardSchedule, RewardStep, as_trained, in_training, learning_rates
from trivium.runs import MetricsLog, StageDir
from trivium.stages.comparisons import source_weight, tokenise, training_groups
from trivium.stages.judging import answer_tasks, encode_prompt
from trivium.stages.reward_config import RewardConfig
from trivium.stages.stage import Context, note, perform
from trivium.tokenizer import Tokenizer
from trivium.training import Checkpointer, Trainer

__all__ = ["RewardConfig", "collected", "judged", "run", "tokenise"]


def run(context: Context, config: RewardConfig, *, round: int, previous: Path | None, artifact: Path) -> dict[str, Any]:
    """Round 0 starts from M1's body; later rounds go on from the reward model before."""
    name = "reward" if round == 0 else f"reward-{round + 1}"
    base = context.run.artifact("M1")

    def body(stage: StageDir) -> tuple[dict[str, Any], list[Any]]:
        tokenizer = Tokenizer.load(base)
        train, held = training_groups(context, config, stage, tokenizer, round)
        before = RewardModel.load(previous) if previous is not None else None
        generator = torch.Generator().manual_seed(derive_seed(context.seed, "reward head"))
        scorer = before.scorer if before else Scorer.from_decoder(context.load_model(base), generator)
        nu = before.figures.get("nu") if before else None
        model = RewardModel(context.place(scorer), tokenizer, figures={"nu": nu} if nu else {})
        _fit(context, config, stage, model, train, held, config.epochs if round == 0 else config.later_epochs)
        if not is_main():
            return {}, []
        figures = comparison_figures(model, held, context.seed)
        probes = probe_figures(model, held, context.seed)
        model.figures |= figures | {
            "probes": probes,
            "pairs_train": sum(sum(a < b for a in group.tiers for b in group.tiers) for group in train),
            "prompts_train": len(train),
            "prompts_heldout": len(held),
            "source_weights": {name: source_weight(config, name) for name in sorted({group.source for group in train})},
        }
        _gate(config, stage, figures)
        _gate_probes(config, stage, probes)
        _normalise(context, config, model, base)
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


def _fit(
    context: Context,
    config: RewardConfig,
    stage: StageDir,
    model: RewardModel,
    train: list[RankedTokens],
    held: list[RankedTokens],
    epochs: float,
) -> None:
    """Train the model's scorer; nu, where ties have one, begins and ends in its figures."""
    schedule = RewardSchedule(train, config.prompts_per_step, epochs, derive_seed(context.seed, stage.name))
    scorer = in_training(model.scorer, config.loss, train, model.figures.get("nu"))

    def evaluate(step: int) -> dict[str, float]:
        now, learnt = as_trained(gathered(scorer))
        if not is_main():
            return {}
        figures = comparison_figures(RewardModel(now, model.tokenizer, figures=learnt), held, context.seed)
        return {f"heldout/{key}": figures[key] for key in ("accuracy", "nll", "ece") if key in figures} | learnt

    with MetricsLog(stage.metrics_path) as metrics:
        trainer = Trainer(
            scorer,
            Optimizer(shard(scorer), config.optim, schedule.steps, learning_rates(scorer, config.loss)),
            stage=stage,
            config=config,
            metrics=metrics,
        )
        trainer.fit(
            schedule.steps,
            lambda step: RewardStep(scorer, schedule.examples(step), config.loss).losses(),
            hooks=[(config.eval_every, evaluate)],
            contents=lambda step: [example.name for example in schedule.examples(step)],
        )
    model.scorer, model.figures = as_trained(gathered(scorer))


def _gate(config: RewardConfig, stage: StageDir, figures: dict[str, Any]) -> None:
    """No reward model that cannot tell better from worse is handed on in silence."""
    if not figures:
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
    """Freeze mean and deviation of the scores of M1's own samples (sampler settings of RL)."""
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
    model.freeze_normalisation(model.raw_scores(prompts, [answer.sample.ids for answer in answers], owners))
    model.figures |= {"normalised_on": len(answers)}
