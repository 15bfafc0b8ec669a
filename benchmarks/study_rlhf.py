"""A study on the quickstart's family: pretraining, algorithms, the weights of U, reward models, comparisons.

    python benchmarks/study_rlhf.py runs/learning-0 runs/learning-1 runs/learning-2 --parts algorithms
    python benchmarks/study_rlhf.py runs/quickstart --parts weights pairs

Each run named is a finished quickstart; its M1 and the R of its first round are the start of every variant, so that
variants of one run differ in nothing but what is studied. Every M2 is measured on the same held-out tasks, and its U
under the default weights whatever it was trained with. Rows go to `study.jsonl` as they come; a second call goes on
from there. `scripts/study_page.py` draws them.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from check_learning import trivium, variant

from trivium.base.recipe import load_config
from trivium.data.drops import Drops
from trivium.data.examples import ExampleLoader
from trivium.evaluation.intervals import mean_interval, paired_difference
from trivium.evaluation.pass_at_k import TaskCounts, estimate_pass_at_k, pass_rates
from trivium.evaluation.reward_figures import comparison_figures
from trivium.evaluation.utility import measure_utility
from trivium.preferences.pairs import ranked_from_store
from trivium.preferences.store import PreferenceStore
from trivium.rewards import Composite, RewardModel, Tools
from trivium.rewards.learned import ModelPart
from trivium.runs import RunDir
from trivium.sandbox import Sandbox
from trivium.stages.comparisons import tokenise
from trivium.stages.judging import Answer, answer_tasks, encode_prompt, judge_answers
from trivium.stages.pipeline import Recipe
from trivium.stages.sft import split_examples
from trivium.stages.stage import Context
from trivium.stages.tasks import TaskConfig

TASKS, SAMPLES = 240, 8
"""Held-out tasks, and answers to each, of every measurement."""
FIRST = ("ppo", "rloo", "grpo", "dpo")
OTHERS = ("ipo", "dr_grpo", "dapo", "reinforce", "gspo", "cispo")
ALPHAS, BETAS, GAMMAS = (0.0, 1.0, 10.0), (0.3, 1.0, 3.0), (0.05, 0.2, 0.8)
PROMPTS = (100, 300, 900)
"""Prompts of the smaller collections; the run's own is the largest."""
EXAMPLES = (3000, 4500, 6000, 8500)
"""Tasks that M1 is fine-tuned on, from M0 and from random weights."""


@dataclass(frozen=True)
class Variant:
    """One training to be done."""

    part: str
    label: str
    flags: tuple[str, ...]
    prompts: int | None = None
    """Collect so many prompts anew and train another R on them."""
    model: str = "M2"
    """What is measured."""


def variants(part: str) -> Iterator[Variant]:
    """What a part of the study trains."""
    if part in ("algorithms", "other-algorithms"):
        for name in FIRST if part == "algorithms" else OTHERS:
            yield Variant(part, name, ("--rl.algorithm", name, "--rl.steps", "20"))
    elif part == "weights":
        for alpha, beta, gamma in product(ALPHAS, BETAS, GAMMAS):
            weights = {"alpha": alpha, "beta": beta, "gamma": gamma}
            flags = [text for name, value in weights.items() for text in (f"--rl.learner.{name}", str(value))]
            yield Variant(part, json.dumps(weights), (*flags, "--rl.steps", "10", "--rl.prompts_per_step", "48"))
    elif part == "pretraining":
        for count, init in product(EXAMPLES, ("parent", "random")):
            flags = ("--sft.tasks", str(count), "--sft.init", init)
            yield Variant(part, f"{count} {init}", flags, model="M1")
    else:
        for count in (*PROMPTS, None):
            yield Variant(part, str(count or "all"), ("--rl.steps", "20"), count)


class Bench:
    """What all variants of one run are measured with."""

    def __init__(self, folder: Path):
        self.folder, self.run = folder, RunDir(folder)
        self.recipe = load_config(Recipe, folder / "recipe.toml")
        self.context = Context(self.run, seed=self.recipe.seed, compute=self.recipe.compute)
        self.reward = self.reward_model(folder / "reward" / "model")
        self.tokenizer = self.reward.tokenizer
        self.tasks = TaskConfig(count=TASKS).load(self.recipe.seed, "study", "heldout")
        _, heldout = split_examples(self.recipe.sft, self.recipe.seed, Drops("stop"))
        self.examples = ExampleLoader(heldout, self.tokenizer, self.recipe.sft.seq_len, 64, 0, Drops("skip"))
        with PreferenceStore(self.run.preferences_path, create=False) as store:
            ranked = ranked_from_store(store, "heldout", round=0)
        self.heldout, _ = tokenise(ranked, self.tokenizer, self.recipe.reward.seq_len)

    def reward_model(self, folder: Path) -> RewardModel:
        """An R, where the run's models are."""
        reward = RewardModel.load(folder)
        reward.scorer.to(self.context.device).compute_dtype = self.context.dtype
        return reward

    @cached_property
    def start(self) -> list[TaskCounts]:
        """How M1 does."""
        return self.counts(self.folder / "M1")

    def counts(self, folder: Path, temperature: float = 1.0) -> list[TaskCounts]:
        """Passing answers a task."""
        answers = answer_tasks(
            self.context.load_model(folder),
            self.tokenizer,
            self.tasks,
            samples=SAMPLES if temperature else 1,
            seed=self.recipe.seed,
            purpose="study",
            max_new_tokens=self.recipe.rl.max_new_tokens,
            temperature=temperature,
        )
        with Sandbox(workers=2) as sandbox:
            return tallied(judge_answers(answers, sandbox))

    def measure(self, folder: Path) -> dict[str, Any]:
        """Pass rate, its gain on M1 task by task, and U under the default weights."""
        counts, learner = self.counts(folder), Recipe().rl.learner
        value, gain = estimate_pass_at_k(counts, 1), paired_difference(pass_rates(counts), pass_rates(self.start))
        prompts = [encode_prompt(self.tokenizer, task.prompt) for task in self.tasks[:100]]
        with Sandbox(workers=1) as sandbox:
            utility = measure_utility(
                self.context.load_model(folder),
                self.context.load_model(self.folder / "M1"),
                Composite((ModelPart(),), Tools(self.reward, sandbox, self.recipe.seed)),
                self.tasks[:100],
                prompts,
                self.examples,
                alpha=learner.alpha,
                beta=learner.beta,
                gamma=learner.gamma,
                seed=self.recipe.seed,
                max_new_tokens=self.recipe.rl.max_new_tokens,
                temperature=1.0,
                full_reward=learner.full_reward,
                samples=4,
            )
        return {
            "pass_at_1": value.value,
            "pass_at_1_ci": value.bounds,
            "gain": gain.value,
            "gain_ci": gain.bounds,
            "greedy": mean_interval(pass_rates(self.counts(folder, temperature=0.0))).value,
        } | {key: utility.row[f"utility/{key}"] for key in ("total", "sft", "reward", "omega")}

    def accuracy(self, folder: Path) -> dict[str, Any]:
        """An R on the held-out comparisons of the run, whatever it was trained on."""
        figures = comparison_figures(self.reward_model(folder), self.heldout, self.recipe.seed)
        return {f"reward_{key}": figures[key] for key in ("accuracy", "accuracy_ci", "nll", "ece")}


def tallied(answers: Sequence[Answer]) -> list[TaskCounts]:
    """Answers whose tests could be run, by task."""
    tally: dict[str, list[int]] = {}
    for answer in answers:
        counted = tally.setdefault(answer.task.id, [0, 0])
        if answer.outcome is not None and answer.outcome.passed is not None:
            counted[0] += 1
            counted[1] += answer.outcome.passed
    return [TaskCounts(task, n, c) for task, (n, c) in tally.items()]


def train(bench: Bench, each: Variant, folder: Path) -> Path:
    """The variant's run, trained."""
    source, seed, label = bench.folder, bench.recipe.seed, f"{each.part}-{each.label}"
    if each.model == "M1":
        target = folder / f"{source.name}-{label.replace(' ', '-')}"
        shutil.rmtree(target, ignore_errors=True)
        common = ("--seed", str(seed), "--name", target.name, "--runs_dir", str(folder))
        trivium("sft", *common, "--sft.parent", str(source / "M0"), *each.flags)
        return target
    if each.prompts is None:
        return variant(seed, source.name, str(source.parent), "study", *each.flags)
    target = folder / f"{source.name}-{label}"
    shutil.rmtree(target, ignore_errors=True)
    left_out = shutil.ignore_patterns("rl*", "collect*", "reward*", "evaluate", "R", "M2", "preferences.db*")
    shutil.copytree(source, target, ignore=left_out)
    common = ["--seed", str(seed), "--name", target.name, "--runs_dir", str(folder), "--rl.rounds", "1", *each.flags]
    common += ["--collect.tasks.count", str(each.prompts), "--reward.allow_chance", "true"]
    for stage in ("collect", "reward", "rl"):
        trivium(stage, *common)
    return target


def study(bench: Bench, each: Variant, folder: Path) -> dict[str, Any]:
    """Train and measure one variant; its run is removed afterwards."""
    began = time.monotonic()
    target = train(bench, each, folder)
    seconds = time.monotonic() - began
    row = {"part": each.part, "label": each.label, "run": bench.folder.name, "seed": bench.recipe.seed}
    row |= {"flags": each.flags, "seconds": seconds} | bench.measure(target / each.model)
    if each.model == "M2":
        last = json.loads((target / "rl" / "metrics.jsonl").read_text().splitlines()[-1])
        row |= {"kl": last.get("kl/sequence")} | bench.accuracy(target / "R")
        with PreferenceStore(target / "preferences.db", create=False) as store:
            row["train_pairs"] = sum(len(group.pairs) for group in ranked_from_store(store, "train", round=0))
    shutil.rmtree(target)
    return row


def main() -> int:
    """Train, measure, write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="finished quickstart runs")
    parser.add_argument("--parts", nargs="+", default=["algorithms", "weights", "pairs"])
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--quick", action="store_true", help="the first variant of each part, to see that it works")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "study.jsonl"
    done = {
        (row["part"], row["label"], row["run"])
        for row in (map(json.loads, path.read_text().splitlines()) if path.exists() else ())
    }
    for part in options.parts:
        for folder in options.runs:
            wanted = [each for each in variants(part) if (part, each.label, folder.name) not in done]
            bench = Bench(folder) if wanted else None
            for each in wanted[:1] if options.quick else wanted:
                assert bench is not None
                row = study(bench, each, options.out)
                with path.open("a") as rows:
                    rows.write(json.dumps(row) + "\n")
                print(f"{part} {each.label} {folder.name}: pass@1 {100 * row['pass_at_1']:.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
