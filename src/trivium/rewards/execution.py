"""The tests as a source of rewards."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from trivium.base.seeding import derive_seed
from trivium.records import Task
from trivium.rewards.source import Answers, RewardPart, Tools
from trivium.sandbox import Sandbox
from trivium.tasks.check import Outcome, check_completions
from trivium.tasks.extract import extract_completion

Grading = Literal["binary", "graded", "share"]


class ExecutionPart(RewardPart):
    """What the task's tests say, run in the sandbox."""

    kind: Literal["execution"] = "execution"
    grading: Grading = "binary"
    """`binary`: 1 if all tests pass, else 0. `graded` (CodeRL): -1 does not load, -0.6 raises or is stopped, -0.3 fails
    a test, 1 passes. `share` (RLTF): as graded, but -0.3 + 1.3 times the share of tests passed."""
    hidden: float = Field(default=0.0, ge=0, lt=1)
    """Share of each task's tests that the reward does not see: what passes the others and fails these exploits the
    tests, which `hack/rate` tells."""

    def open(self, tools: Tools) -> "ExecutionReward":
        """Runs tests in the stage's sandbox."""
        return ExecutionReward(tools.sandbox, self.grading, self.hidden)


@dataclass(frozen=True)
class ExecutionReward:
    """See `ExecutionPart`. With each grading 1 means that all tests it sees pass, and nothing else does."""

    sandbox: Sandbox
    grading: Grading = "binary"
    hidden: float = 0.0

    def score(self, answers: Answers) -> list[float | None]:
        """Graded outcomes; None where the tests could not be run."""
        owners = [visible_part(answers.task(row), self.hidden) for row in range(len(answers))]
        programs = [extract_completion(task.prompt, text) for task, text in zip(owners, answers.texts, strict=True)]
        return [grade(outcome, self.grading) for outcome in check_completions(owners, programs, self.sandbox)]


def visible_part(task: Task, hidden: float) -> Task:
    """The task with the tests that a reward sees, at least one; which are hidden is a function of task and test."""
    kept = max(1, len(task.tests) - round(hidden * len(task.tests)))
    if kept == len(task.tests):
        return task
    order = sorted(range(len(task.tests)), key=lambda at: derive_seed(0, "hidden tests", task.id, at))
    return task.model_copy(update={"tests": tuple(task.tests[at] for at in sorted(order[:kept]))})


def grade(outcome: Outcome, grading: Grading) -> float | None:
    """An outcome as a number (Le et al. 2022, arXiv:2207.01780; Liu et al. 2023, arXiv:2307.04349)."""
    if outcome.passed is None:
        return None
    if grading == "binary" or outcome.passed:
        return float(outcome.passed)
    if outcome.reason == "load":
        return -1.0
    if grading == "share" and (outcome.verdict == "failed" or outcome.tests_passed):
        return -0.3 + 1.3 * outcome.tests_passed / max(outcome.tests_total, 1)
    return -0.3 if outcome.verdict == "failed" else -0.6
