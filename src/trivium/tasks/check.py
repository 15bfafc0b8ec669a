"""Run completions against their tasks' tests, in the sandbox."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trivium.records import Task
from trivium.sandbox import Job, Limits, Result, Sandbox
from trivium.tasks.extract import program

CHECK_LIMITS = Limits(wall_seconds=10.0, cpu_seconds=2.0)
"""A loop ends by its CPU time, which does not depend on how busy the machine is; the wall clock is for sleepers."""


@dataclass(frozen=True)
class Outcome:
    """What the tests say about one completion."""

    passed: bool | None
    """All tests passed; None where nothing could be found out, which is no fault of the completion."""
    verdict: str
    """The sandbox's verdict: `passed`, `failed`, `error`, `timeout`, ... or `invalid`."""
    reason: str
    """The sandbox's reason: `assertion`, `load`, `wall`, ..., empty for a pass."""
    tests_passed: int
    tests_total: int
    message: str = ""
    """What the first unsuccessful test raised, at most 200 characters."""


def check_completions(
    tasks: Sequence[Task],
    completions: Sequence[str],
    sandbox: Sandbox,
    limits: Limits = CHECK_LIMITS,
    progress: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Run each completion against the tests of the task at the same place.

    Completions are run as given; `extract_completion` takes them out of a model's raw answer. What is the same program
    with the same tests is executed once.

    Args:
        tasks: one for each completion; a task may come many times.
        completions: what follows each task's prompt.
        sandbox: runs them, on all its workers.
        limits: of each program.
        progress: called with the number of distinct programs done.
    Returns:
        Outcomes in the completions' order.
    Raises:
        ValueError: the two lists differ in length.
        SandboxError: the sandbox is closed.
    """
    if len(tasks) != len(completions):
        raise ValueError(f"{len(tasks)} tasks and {len(completions)} completions, expected as many of both")
    places: dict[tuple[str, tuple[str, ...], str], int] = {}
    order = [
        places.setdefault((program(task, completion), task.tests, task.setup), len(places))
        for task, completion in zip(tasks, completions, strict=True)
    ]
    jobs = (Job(source, tests, prelude, None, limits) for source, tests, prelude in places)
    outcomes = [
        _outcome(result, len(tests))
        for result, (_, tests, _) in zip(sandbox.run_many(jobs, progress), places, strict=True)
    ]
    return [outcomes[place] for place in order]


def _outcome(result: Result, tests: int) -> Outcome:
    undecided = result.verdict == "invalid" or result.reason == "bad_test"
    return Outcome(
        passed=None if undecided else result.passed,
        verdict=result.verdict,
        reason=result.reason,
        tests_passed=sum(test.status == "passed" for test in result.tests),
        tests_total=tests,
        message=next((test.message for test in result.tests if test.status != "passed"), ""),
    )
