"""Collect preferences: several completions a prompt from a model, compared by a judge, into preferences.db."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from trivium.base.config import MOST, Config
from trivium.base.errors import StageFailed
from trivium.base.fingerprint import fingerprint_path
from trivium.base.log import Progress, say
from trivium.base.ranks import broadcast, is_main
from trivium.model import Decoder
from trivium.preferences.chat_judge import HttpJudge
from trivium.preferences.export import export_preferences
from trivium.preferences.formats import ImportReport, import_preferences
from trivium.preferences.judgement import Judgement, Sample
from trivium.preferences.judges import ExecutionJudge, SimulatedJudge, judge_samples
from trivium.preferences.store import PreferenceStore
from trivium.records import Task
from trivium.runs import StageDir
from trivium.sandbox import Sandbox
from trivium.stages.confinement import SandboxConfig, open_sandbox
from trivium.stages.judging import Answer, answer_and_judge, pass_share
from trivium.stages.stage import Context, note, perform
from trivium.stages.tasks import TaskConfig, collected_tasks
from trivium.tokenizer import Tokenizer


class CollectConfig(Config):
    """How preferences are collected."""

    path: str = ""
    """Preference file (JSONL or Parquet) to import instead of sampling and judging."""
    on_error: Literal["stop", "skip"] = "stop"
    """At a bad record of that file: stop, or leave it out and count it."""
    tasks: TaskConfig = TaskConfig(count=2750)
    """Prompts of the first round."""
    later_tasks: int = Field(default=750, ge=1, le=MOST)
    """Prompts of each later round, sampled from the policy of that time."""
    samples: int = Field(default=4, ge=2, le=MOST)
    """Completions a prompt."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Cap on a completion, in tokens."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling."""
    judge: Annotated[ExecutionJudge | SimulatedJudge | HttpJudge, Field(discriminator="type")] = ExecutionJudge()
    """Who compares them."""
    heldout_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of prompts whose comparisons only measure the reward model."""
    chunk: int = Field(default=250, ge=1, le=MOST)
    """Prompts sampled, judged and stored at a time; what is stored is not sampled again after an interruption."""


def run(
    context: Context, config: CollectConfig, sandbox_config: SandboxConfig, *, policy: Path, round: int
) -> dict[str, Any]:
    """One round; round 0 samples M1, later ones the policy as it is then."""
    name = "collect" if round == 0 else f"collect-{round + 1}"
    database, forced = context.run.preferences_path, context.forces(name)

    def body(stage: StageDir) -> tuple[dict[str, Any], list[Any]]:
        sampler = None if config.path else _load(context, config, policy, round)
        if not is_main():
            if sampler is not None:
                _help_sampling(context, config, sandbox_config, stage, sampler, round)
            return {}, []
        if forced and round == 0:
            _set_aside(database)
        with PreferenceStore(database, heldout_fraction=config.heldout_fraction) as store:
            if sampler is None:
                report = import_preferences(Path(config.path), store, config.on_error)
                result = {"prompts": store.counts()["prompts"]} | _imported(stage, report)
            else:
                result = _sample_and_judge(context, config, sandbox_config, stage, store, sampler, policy, round)
            result |= {f"store_{key}": value for key, value in store.counts().items()}
            export_preferences(store, stage.samples / "preferences.jsonl")
        return result, []

    inputs: dict[str, Path | str] = {"policy": policy} | config.tasks.inputs
    if config.path:
        inputs["preferences"] = Path(config.path)
    parents = [policy.name]
    return perform(context, name, __name__, config, inputs=inputs, parents=parents, together=True, body=body)


def _load(context: Context, config: CollectConfig, policy: Path, round: int) -> tuple[Decoder, Tokenizer, list[Task]]:
    """Who answers, and the tasks of the round."""
    tasks = collected_tasks(config.tasks, config.later_tasks, context.seed, round)
    return context.load_model(policy), Tokenizer.load(policy), tasks


def _imported(stage: StageDir, report: ImportReport) -> dict[str, Any]:
    """The figures of an import; what was left out is told."""
    for line in report.lines():
        say(f"collect: {line}")
    if report.skipped:
        note(stage, f"{len(report.skipped)} bad preference records were left out, the first: {report.skipped[0]}")
    return {"imported": asdict(report)}


def _set_aside(database: Path) -> None:
    """A forced collection starts an empty file; what people judged is never deleted."""
    if database.exists():
        kept = database.with_name(f"preferences-{time.strftime('%Y%m%d-%H%M%S')}.db")
        for suffix in ("", "-wal", "-shm"):
            part = database.with_name(database.name + suffix)
            if part.exists():
                part.rename(kept.with_name(kept.name + suffix))
        say(f"collect: the preferences so far are kept in {kept}; `trivium prefs export` and `import` move them")


def _sample_and_judge(
    context: Context,
    config: CollectConfig,
    sandbox_config: SandboxConfig,
    stage: StageDir,
    store: PreferenceStore,
    sampler: tuple[Decoder, Tokenizer, list[Task]],
    policy: Path,
    round: int,
) -> dict[str, Any]:
    tasks = sampler[2]
    weights = fingerprint_path(policy)
    ids = store.add_prompts((task.prompt, task.id, "") for task in tasks)
    done = store.sampled(weights, round)
    todo = {name: task for name, task in zip(ids, tasks, strict=True) if len(done.get(name, ())) < config.samples}
    finished = len(set(ids)) - len(todo)
    names = list(todo)
    place = {name: index for index, name in enumerate(ids)}
    broadcast([place[name] for name in names])
    with (
        open_sandbox(stage, sandbox_config) as sandbox,
        Progress(stage.name, len(set(ids)), "prompt", start=finished) as progress,
    ):
        for start in range(0, len(names), config.chunk):
            part = names[start : start + config.chunk]
            answers = _answers(context, config, sampler, [todo[name] for name in part], sandbox, round)
            samples, judgements = _judged(config, context.seed, part, answers, weights, round)
            if isinstance(config.judge, HttpJudge) and start == 0 and not judgements:
                raise StageFailed(
                    f"{stage.name}: {config.judge.url} judged none of {len(part)} prompts. See that it serves "
                    f"{config.judge.model}; `trivium prefs judge` with the same settings tells why."
                )
            with store.transaction():  # a prompt that has answers counts as done, so its judgement comes with them
                store.add_samples(samples)
                store.add_judgements(judgements)
            progress.update(finished + start + len(part), passing=pass_share(answers) or 0.0)
    outcomes = [stored.sample.passed for stored in store.completions(round=round, model=weights)]
    known = [passed for passed in outcomes if passed is not None]
    if not known:
        raise StageFailed("collect: no completion's tests could be run. See `trivium doctor` for the sandbox.")
    if len(known) < len(outcomes):
        note(stage, f"{len(outcomes) - len(known)} completions have no outcome (tests could not be run)")
    if isinstance(config.judge, HttpJudge) and (missing := store.unjudged(config.judge.source, round)):
        note(
            stage,
            f"{len(missing)} prompts have no judgement by {config.judge.source}",
        )
    return {"round": round, "prompts": len(set(ids)), "passing": sum(known) / len(known)}


def _answers(
    context: Context,
    config: CollectConfig,
    sampler: tuple[Decoder, Tokenizer, list[Task]],
    tasks: Sequence[Task],
    sandbox: Sandbox,
    round: int,
) -> list[Answer]:
    return answer_and_judge(
        *sampler[:2],
        tasks,
        sandbox,
        samples=config.samples,
        seed=context.seed,
        purpose=f"collect-{round}",
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
    )


def _help_sampling(
    context: Context,
    config: CollectConfig,
    sandbox_config: SandboxConfig,
    stage: StageDir,
    sampler: tuple[Decoder, Tokenizer, list[Task]],
    round: int,
) -> None:
    """What the other ranks do: their share of the answers to each chunk that rank 0 stores."""
    tasks = sampler[2]
    places: list[int] = broadcast(None)
    with open_sandbox(stage, sandbox_config) as sandbox:
        for start in range(0, len(places), config.chunk):
            chunk = [tasks[place] for place in places[start : start + config.chunk]]
            _answers(context, config, sampler, chunk, sandbox, round)


def _judged(
    config: CollectConfig,
    seed: int,
    names: Sequence[str],
    answers: Sequence[Answer],
    weights: str,
    round: int,
) -> tuple[list[tuple[str, Sample]], list[Judgement]]:
    """What goes to the store: samples by prompt, and the judge's word on them, which may take long."""
    every, judgements = [], []
    for index, name in enumerate(names):
        group = answers[index * config.samples : (index + 1) * config.samples]
        samples = [_sample(answer, weights, round, place) for place, answer in enumerate(group)]
        every += [(name, sample) for sample in samples]
        distinct = list({sample.content: sample for sample in reversed(samples)}.values())[::-1]
        judgement = judge_samples(config.judge, group[0].task.prompt, distinct, seed) if len(distinct) > 1 else None
        if judgement is not None:
            judgements.append(judgement.model_copy(update={"round": round}))
    return every, judgements


def _sample(answer: Answer, weights: str, round: int, place: int) -> Sample:
    outcome = answer.outcome
    assert outcome is not None
    return Sample(
        text=answer.text,
        ids=tuple(answer.sample.ids),
        finish=answer.sample.finish,
        passed=outcome.passed,
        tests_passed=outcome.tests_passed,
        tests_total=outcome.tests_total,
        verdict=outcome.verdict,
        model=weights,
        round=round,
        sample=place,
    )
