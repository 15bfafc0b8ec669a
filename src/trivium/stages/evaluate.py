"""Evaluate M0, M1 and M2 on the same held-out tasks, prompts and documents."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from trivium.base.config import MOST, Config
from trivium.base.errors import DataError
from trivium.base.files import write_jsonl
from trivium.base.fingerprint import fingerprint
from trivium.base.log import say
from trivium.base.ranks import broadcast, is_main
from trivium.data.drops import Drops
from trivium.data.examples import ExampleLoader
from trivium.data.loader import CorpusLoader
from trivium.evaluation.pass_at_k import TaskCounts, estimate_pass_at_k
from trivium.evaluation.utility import measure_utility
from trivium.model import Decoder
from trivium.records import Task
from trivium.rewards import RewardModel
from trivium.runs import MetricsLog, StageDir
from trivium.sandbox import Sandbox
from trivium.stages.confinement import SandboxConfig, open_sandbox
from trivium.stages.judging import Answer, answer_and_judge, encode_prompt
from trivium.stages.pretrain import heldout_bits_per_byte
from trivium.stages.rl_config import RLConfig
from trivium.stages.scoring import open_rewards, read_statistics, statistics_inputs
from trivium.stages.sft import SFTConfig, split_examples
from trivium.stages.stage import Context, note, perform
from trivium.stages.tasks import TaskConfig
from trivium.tokenizer import Tokenizer
from trivium.training import Checkpointer


class EvaluateConfig(Config):
    """What is measured."""

    tasks: TaskConfig = TaskConfig(count=240)
    """Held-out tasks for pass@k and U; a file's tasks are taken as they are."""
    samples: int = Field(default=10, ge=1, le=MOST)
    """Answers a task, sampled at `temperature`; at least 10 for pass@10."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Cap on an answer, in tokens."""
    utility_prompts: int = Field(default=100, ge=2)
    """Prompts, of the same tasks, on whose answers L_R and Ω are measured; all answers of each count."""
    seq_len: int = Field(default=128, ge=2)
    """Tokens a row of held-out documents."""
    bits_per_byte_rows: int = Field(default=256, ge=0)
    """Held-out rows a source for bits per byte; 0 leaves it out."""
    shown: int = Field(default=12, ge=0)
    """Prompts whose answers by all models go into the report."""


def run(
    context: Context,
    config: EvaluateConfig,
    rl: RLConfig,
    sft: SFTConfig,
    sandbox_config: SandboxConfig,
    models: Sequence[str] = ("M0", "M1", "M2"),
) -> dict[str, Any]:
    """Figures of each model; `utility/*` rows go to metrics.jsonl, answers to samples/."""
    folders = {name: context.run.artifact(name) for name in models}
    reward_folder, shards = context.run.artifact("R"), context.run.stage("data").path / "shards"
    weights = {
        key: getattr(rl.learner, key)
        for key in ("alpha", "beta", "gamma", "missing_eos", "overlong_buffer", "length_penalty")
    }

    def body(stage: StageDir) -> tuple[dict[str, Any], list[Any]]:
        checkpointer = Checkpointer(stage.checkpoints)
        before = checkpointer.latest()
        done, found = (before.step, before.state) if before else (0, {"results": {}, "shown": {}, "counts": []})
        done = broadcast(done)
        with open_sandbox(stage, sandbox_config) as sandbox, MetricsLog(stage.metrics_path) as metrics, checkpointer:
            bench = _Bench(context, config, rl, sft, stage, sandbox, reward_folder, shards)
            metrics.truncate_after(done - 1)
            for step, (name, folder) in list(enumerate(folders.items()))[done:]:
                value, answers = bench.measure(folder)
                if not is_main():
                    continue
                metrics.log(step, **{k: v for k, v in value.items() if isinstance(v, float)})
                say(f"evaluate: {name} pass@1 {100 * value['pass_at_1']:.1f}%, U {value['utility/total']:.3f}")
                found["results"][name] = value
                found["counts"] += _counts_rows(name, answers)
                _show(found["shown"], name, answers, config)
                checkpointer.save(step + 1, {}, found)
        if not is_main():
            return {}, []
        write_jsonl(stage.samples / "answers.jsonl", found["shown"].values())
        write_jsonl(stage.samples / "counts.jsonl", found["counts"])
        return {"models": found["results"], "utility_prompts": bench.utility_prompts}, [stage.samples]

    inputs: dict[str, Path | str] = {**folders, "R": reward_folder, "corpus": shards} | config.tasks.inputs
    inputs |= {"weights": str(weights), "sft": sft.model_dump_json()} | rl.reward_inputs
    inputs |= statistics_inputs(context.run, rl)
    return perform(
        context, "evaluate", __name__, config, inputs=inputs, parents=[*folders, "R"], together=True, body=body
    )


class _Bench:
    """What all models are measured with."""

    def __init__(
        self,
        context: Context,
        config: EvaluateConfig,
        rl: RLConfig,
        sft: SFTConfig,
        stage: StageDir,
        sandbox: Sandbox,
        reward_folder: Path,
        shards: Path,
    ):
        self.context, self.config, self.learner, self.sandbox = context, config, rl.learner, sandbox
        self.tokenizer = Tokenizer.load(reward_folder)
        reward = RewardModel.load(reward_folder)
        context.place(reward.scorer)
        self.rewards = open_rewards(rl, reward, sandbox, context.seed)
        read_statistics(self.rewards, context.run)
        self.reference = context.load_model(context.run.artifact("M1"))
        self.tasks: list[Task] = config.tasks.load(context.seed, "evaluate", "heldout")
        self.prompts = [encode_prompt(self.tokenizer, task.prompt) for task in self.tasks]
        room = self.reference.config.max_seq_len - config.max_new_tokens
        fits = [len(prompt) <= room for prompt in self.prompts]
        if not all(fits):
            note(stage, f"{fits.count(False)} of {len(fits)} tasks left out: their prompts exceed {room} tokens")
            self.tasks = [task for task, fit in zip(self.tasks, fits, strict=True) if fit]
            self.prompts = [prompt for prompt, fit in zip(self.prompts, fits, strict=True) if fit]
        if not self.tasks:
            raise DataError(
                f"no task is left to evaluate: the prompts of all {len(fits)} exceed {room} tokens. Lower "
                "evaluate.max_new_tokens, raise model.max_seq_len, or give shorter tasks."
            )
        _, heldout = split_examples(sft, context.seed, Drops(sft.on_error))
        self.examples = (
            ExampleLoader(heldout, self.tokenizer, sft.seq_len, 64, context.seed, Drops("skip")) if heldout else None
        )
        rows = config.bits_per_byte_rows
        self.corpus = CorpusLoader(shards, "train", config.seq_len, 64, context.seed) if rows else None

    def measure(self, folder: Path) -> tuple[dict[str, Any], list[Answer]]:
        """All figures of one model, and its answers; on ranks other than the first the answers alone."""
        config, model = self.config, self.context.load_model(folder)

        def answered(purpose: str, samples: int, temperature: float) -> list[Answer]:
            return answer_and_judge(
                model,
                self.tokenizer,
                self.tasks,
                self.sandbox,
                samples=samples,
                seed=self.context.seed,
                purpose=purpose,
                max_new_tokens=config.max_new_tokens,
                temperature=temperature,
            )

        answers = answered("evaluate", config.samples, config.temperature)
        greedy = answered("evaluate-greedy", 1, 0.0)
        if not is_main():
            return {}, answers
        counts = _counts(answers)
        first = estimate_pass_at_k(counts, 1)
        result: dict[str, Any] = {"pass_at_1": first.value, "pass_at_1_ci": first.bounds}
        if config.samples >= 10:
            tenth = estimate_pass_at_k(counts, 10)
            result |= {"pass_at_10": tenth.value, "pass_at_10_ci": tenth.bounds}
        result["greedy_pass_at_1"] = estimate_pass_at_k(_counts(greedy), 1).value
        if self.corpus is not None:
            by_source = heldout_bits_per_byte(model, self.corpus, config.bits_per_byte_rows)
            shares = {source.name: source.weight for source in self.corpus.corpus.sources if source.name in by_source}
            total = sum(shares.values())
            result["bits_per_byte"] = sum(by_source[name] * share / total for name, share in shares.items())
            result |= {f"bits_per_byte/{name}": value for name, value in by_source.items()}
        result |= self._utility(model)
        result["parameters"] = model.parameter_count()
        return result, answers

    @property
    def utility_prompts(self) -> str:
        """Fingerprint of the prompts on which U is measured."""
        return fingerprint([task.prompt for task in self.tasks[: self.config.utility_prompts]])

    def _utility(self, model: Decoder) -> dict[str, float]:
        config, learner = self.config, self.learner
        count = min(config.utility_prompts, len(self.prompts))
        measured = measure_utility(
            model,
            self.reference,
            self.rewards,
            self.tasks[:count],
            self.prompts[:count],
            self.examples,
            alpha=learner.alpha,
            beta=learner.beta,
            gamma=learner.gamma,
            seed=self.context.seed,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            full_reward=learner.full_reward,
            samples=4,
        )
        return measured.row


def _counts(answers: Sequence[Answer]) -> list[TaskCounts]:
    """Passing and tried answers a task; answers whose tests could not be run are left out."""
    tally: dict[str, list[int]] = {}
    for answer in answers:
        n_c = tally.setdefault(answer.task.id, [0, 0])
        if answer.outcome is not None and answer.outcome.passed is not None:
            n_c[0] += 1
            n_c[1] += answer.outcome.passed
    return [TaskCounts(task, n, c) for task, (n, c) in tally.items() if n]


def _counts_rows(name: str, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """What every pass@k can be recomputed from."""
    return [{"model": name, "task_id": counts.task, "n": counts.n, "passed": counts.c} for counts in _counts(answers)]


def _show(rows: dict[str, Any], name: str, answers: Sequence[Answer], config: EvaluateConfig) -> None:
    """Add a model's answers to the rows of the prompts that the report shows."""
    for answer in answers[:: config.samples][: config.shown]:
        row = rows.setdefault(answer.task.id, {"task_id": answer.task.id, "prompt": answer.task.prompt, "answers": {}})
        outcome = answer.outcome
        row["answers"][name] = {"text": answer.text, "passed": None if outcome is None else outcome.passed}
