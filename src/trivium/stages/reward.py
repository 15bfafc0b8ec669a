"""Train the reward model on the collected comparisons; the artifact is R."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from trivium.base.config import MOST
from trivium.base.errors import DataError, StageFailed
from trivium.base.ranks import is_main
from trivium.base.seeding import derive_seed, python_rng
from trivium.distributed import gathered, shard
from trivium.evaluation.intervals import share_interval
from trivium.evaluation.probes import probe_reward_model
from trivium.model import Scorer
from trivium.objectives.preference import brier_score, calibration_error, correlation
from trivium.optim import OptimConfig, Optimizer
from trivium.preferences.judgement import Sample
from trivium.preferences.pairs import RankedPrompt, ranked_from_store
from trivium.preferences.statistics import label_sources
from trivium.preferences.store import PreferenceStore
from trivium.rewards import RewardModel
from trivium.rewards.learning import RankedTokens, RewardLossConfig, RewardSchedule, RewardStep
from trivium.runs import MetricsLog, StageDir
from trivium.stages.judging import answer_tasks, encode_answer, encode_prompt
from trivium.stages.stage import Context, note, perform
from trivium.stages.tasks import TaskConfig
from trivium.tokenizer import Tokenizer
from trivium.training import Checkpointer, TrainConfig, Trainer


class RewardConfig(TrainConfig):
    """How R is trained."""

    epochs: float = Field(default=3.0, gt=0, le=MOST)
    """Passes over the comparisons of the first round."""
    later_epochs: float = Field(default=1.0, gt=0, le=MOST)
    """Passes in each later round, which goes on from the R before, over old and new comparisons."""
    replay: int = Field(default=450, ge=0)
    """Prompts of earlier rounds, drawn by the seed, that a later round goes over again."""
    prompts_per_step: int = Field(default=32, ge=1, le=MOST)
    """Prompts of one optimiser step; each with all its completions."""
    max_completions: int = Field(default=4, ge=2)
    """Completions a prompt in training, passing and failing in balance."""
    seq_len: int = Field(default=256, ge=8)
    """Longest prompt with one completion, in tokens; a longer prompt loses its beginning."""
    source_weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """How much a comparison counts in the ranking term by who judged, as `{human = 2.0}`; sources not named count 1."""
    loss: RewardLossConfig = RewardLossConfig()
    """The objective."""
    optim: OptimConfig = OptimConfig(kind="muon", lr=1e-3, muon_lr=0.01, warmup_steps=10, decay_fraction=0.7)
    """The optimiser."""
    eval_every: int = Field(default=50, ge=1)
    """Steps between evaluations on held-out prompts."""
    normalise_samples: int = Field(default=1024, ge=2, le=MOST)
    """Samples of M1 whose scores' mean and deviation are frozen in R."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Cap on those samples, in tokens."""
    tasks: TaskConfig = TaskConfig(count=256)
    """Prompts of those samples."""
    probe_floor: float = Field(default=0.6, ge=0, le=1)
    """Share of good answers that must score above a damaged copy of themselves, in each probe."""
    gate_on_probes: bool = False
    """Fail where a probe lies below that; otherwise it is a warning."""
    allow_chance: bool = False
    """Hand on an R whose held-out accuracy is not above chance; otherwise the stage fails."""

    adjustable: ClassVar[frozenset[str]] = TrainConfig.adjustable | {"allow_chance", "probe_floor", "gate_on_probes"}


MOST_PROBED = 500
"""Answers of a probe."""


def tokenise(groups: Sequence[RankedPrompt], tokenizer: Tokenizer, seq_len: int) -> tuple[list[RankedTokens], int]:
    """Groups as ids: sampled ids as drawn, imported text encoded and ended; and how many prompts were cut.

    Too long a prompt loses its beginning, never a compared answer; a group with an answer that leaves no room
    for any prompt is dropped (and counted as cut).
    """
    result, cut = [], 0
    for group in groups:
        completions = [_ids(sample, tokenizer) for sample in group.completions]
        if (largest := max(map(max, completions))) >= tokenizer.vocab_size:
            raise DataError(
                f"an answer to {group.prompt[:40]!r} has the token id {largest}, but M1 knows {tokenizer.vocab_size}. "
                "Leave the ids out: the text is enough."
            )
        prompt = encode_prompt(tokenizer, group.prompt)
        room = seq_len - max(map(len, completions))
        if room < len(prompt):
            cut += 1
            if room < 2:
                continue
            prompt = prompt[:1] + prompt[len(prompt) - room + 1 :]
        outcomes = [math.nan if label is None else float(label) for label in group.labels]
        result.append(
            RankedTokens(prompt, completions, list(group.tiers), outcomes, f"prompt {group.id}", group.source)
        )
    return result, cut


def _ids(sample: Sample, tokenizer: Tokenizer) -> list[int]:
    return encode_answer(tokenizer, sample.text, sample.ids)


def group_scores(model: RewardModel, groups: Sequence[RankedTokens]) -> list[torch.Tensor]:
    """Raw scores of every group's completions."""
    prompts = [group.prompt for group in groups]
    owners = [index for index, group in enumerate(groups) for _ in group.completions]
    scores = model.raw_scores(prompts, [ids for group in groups for ids in group.completions], owners)
    return list(scores.split([len(group.completions) for group in groups]))


def heldout_figures(model: RewardModel, groups: Sequence[RankedTokens], seed: int) -> dict[str, Any]:
    """Accuracy with an interval clustered by prompt, NLL, calibration and length bias over all held-out pairs."""
    better, worse, shorter, clusters, scores, lengths = [], [], [], [], [], []
    for index, (group, values) in enumerate(zip(groups, group_scores(model, groups), strict=True)):
        scores += values.tolist()
        lengths += [len(ids) for ids in group.completions]
        for i, tier in enumerate(group.tiers):
            for j, other in enumerate(group.tiers):
                if 0 <= tier < other:
                    better.append(values[i].item())
                    worse.append(values[j].item())
                    shorter.append(len(group.completions[i]) - len(group.completions[j]))
                    clusters.append(index)
    high, low = torch.tensor(better), torch.tensor(worse)
    right = ((high > low).float() + 0.5 * (high == low).float()).tolist()
    interval = share_interval(right, clusters)
    flip = torch.rand(len(high), generator=torch.Generator().manual_seed(derive_seed(seed, "pair order"))) < 0.5
    gap = torch.where(flip, low - high, high - low)
    probability, outcome = torch.sigmoid(gap), (~flip).float()
    unequal = [value > 0 for value in shorter if value]
    sources = [groups[index].source for index in clusters]
    return {
        "accuracy": interval.value,
        "accuracy_ci": interval.bounds,
        "nll": torch.nn.functional.softplus(low - high).mean().item(),
        "ece": calibration_error(probability, outcome).item(),
        "brier": brier_score(probability, outcome).item(),
        "calibration": _calibration(probability, outcome),
        "length": {
            "longer_wins_accuracy": sum(unequal) / len(unequal) if unequal else None,
            "corr": correlation(torch.tensor(scores), torch.tensor(lengths).float()).item(),
        },
        "pairs_heldout": len(high),
        "sources": {name: _source_figures(name, sources, right, clusters) for name in sorted(set(sources))},
    }


def _source_figures(name: str, sources: list[str], right: list[float], clusters: list[int]) -> dict[str, Any]:
    rows = [index for index, source in enumerate(sources) if source == name]
    interval = share_interval([right[index] for index in rows], [clusters[index] for index in rows])
    return {"accuracy": interval.value, "accuracy_ci": interval.bounds, "pairs": len(rows)}


def probe_figures(model: RewardModel, groups: Sequence[RankedTokens], seed: int) -> dict[str, dict[str, Any]]:
    """Probes on the best answer of each held-out prompt that is not known to fail; at most `MOST_PROBED`."""
    good = [
        (group.prompt, ids)
        for group in groups
        for ids, tier, outcome in zip(group.completions, group.tiers, group.outcomes, strict=True)
        if tier == 0 and outcome != 0
    ][:MOST_PROBED]
    return probe_reward_model(model, [p for p, _ in good], [ids for _, ids in good], seed) if good else {}


def _calibration(probability: torch.Tensor, outcome: torch.Tensor, bins: int = 15) -> list[dict[str, float]]:
    order = probability.argsort()
    return [
        {"predicted": probability[part].mean().item(), "observed": outcome[part].mean().item(), "n": len(part)}
        for part in order.tensor_split(min(bins, len(order)))
        if len(part)
    ]


def run(context: Context, config: RewardConfig, *, round: int, previous: Path | None, artifact: Path) -> dict[str, Any]:
    """Round 0 starts from M1's body; later rounds go on from the reward model before."""
    name = "reward" if round == 0 else f"reward-{round + 1}"
    base = context.run.artifact("M1")

    def body(stage: StageDir) -> tuple[dict[str, Any], list[Any]]:
        tokenizer = Tokenizer.load(base)
        train, held = _groups(context, config, stage, tokenizer, round)
        generator = torch.Generator().manual_seed(derive_seed(context.seed, "reward head"))
        scorer = (
            context.load_scorer(previous)
            if previous is not None
            else context.place(Scorer.from_decoder(context.load_model(base), generator))
        )
        model = RewardModel(scorer, tokenizer)
        _fit(context, config, stage, model, train, held, config.epochs if round == 0 else config.later_epochs)
        if not is_main():
            return {}, []
        figures = heldout_figures(model, held, context.seed) if held else {}
        pairs = sum(sum(a < b for a in group.tiers for b in group.tiers) for group in train)
        probes = probe_figures(model, held, context.seed)
        model.figures = figures | {
            "probes": probes,
            "pairs_train": pairs,
            "prompts_train": len(train),
            "prompts_heldout": len(held),
            "labels": _labels(context, train, round),
            "source_weights": {name: _weight(config, name) for name in sorted({group.source for group in train})},
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


def _groups(
    context: Context, config: RewardConfig, stage: StageDir, tokenizer: Tokenizer, round: int
) -> tuple[list[RankedTokens], list[RankedTokens]]:
    with PreferenceStore(context.run.preferences_path, create=False) as store:
        train = _ranked(context, config, store, round)
        for earlier in range(round):
            old = _ranked(context, config, store, earlier)
            order = python_rng(context.seed, "replay", round, earlier).sample(range(len(old)), len(old))
            train += [old[index] for index in order[: config.replay]]
        held = [group for each in range(round + 1) for group in ranked_from_store(store, "heldout", round=each)]
    train_ids, cut = tokenise(train, tokenizer, config.seq_len)
    held_ids, _ = tokenise(held, tokenizer, config.seq_len)
    train_ids = [replace(group, weight=_weight(config, group.source)) for group in train_ids]
    if absent := sorted(set(config.source_weights) - {group.source for group in train_ids}):
        note(stage, f"reward.source_weights names {', '.join(absent)}, of which there is no comparison to train on")
    if cut:
        note(stage, f"{cut} of {len(train)} training prompts were longer than reward.seq_len and lost their beginning")
    if not train:
        raise DataError(
            "there is no comparison to train on: no prompt has both a better and a worse answer. Collect more, or "
            "import pairs."
        )
    if not train_ids:
        raise DataError(
            f"each of the {len(train)} prompts to train on has an answer that fills reward.seq_len = {config.seq_len}. "
            "Raise it."
        )
    return train_ids, held_ids


def _labels(context: Context, train: Sequence[RankedTokens], round: int) -> dict[str, Any]:
    """Where the labels came from: per source its judgements, annotators and pairs to train on."""
    with PreferenceStore(context.run.preferences_path, create=False) as store:
        found = label_sources(store, round)
    for name, part in found.items():
        part["pairs_train"] = sum(
            a < b for each in train if each.source == name for a in each.tiers for b in each.tiers
        )
    return found


def _weight(config: RewardConfig, source: str) -> float:
    return float(config.source_weights.get(source, 1.0))


def _ranked(context: Context, config: RewardConfig, store: PreferenceStore, round: int) -> list[RankedPrompt]:
    return ranked_from_store(store, "train", round=round, max_completions=config.max_completions, seed=context.seed)


def _fit(
    context: Context,
    config: RewardConfig,
    stage: StageDir,
    model: RewardModel,
    train: list[RankedTokens],
    held: list[RankedTokens],
    epochs: float,
) -> None:
    schedule = RewardSchedule(train, config.prompts_per_step, epochs, derive_seed(context.seed, stage.name))

    def evaluate(step: int) -> dict[str, float]:
        plain = RewardModel(gathered(model.scorer), model.tokenizer)
        if not held or not is_main():
            return {}
        figures = heldout_figures(plain, held, context.seed)
        return {"heldout/accuracy": figures["accuracy"], "heldout/nll": figures["nll"], "heldout/ece": figures["ece"]}

    with MetricsLog(stage.metrics_path) as metrics:
        trainer = Trainer(
            model.scorer,
            Optimizer(shard(model.scorer), config.optim, schedule.steps),
            stage=stage,
            config=config,
            metrics=metrics,
        )
        trainer.fit(
            schedule.steps,
            lambda step: RewardStep(model.scorer, schedule.examples(step), config.loss).losses(),
            hooks=[(config.eval_every, evaluate)],
            contents=lambda step: [example.name for example in schedule.examples(step)],
        )
    model.scorer = gathered(model.scorer)


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
