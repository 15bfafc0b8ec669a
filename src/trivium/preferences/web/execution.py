"""Answers against their tasks' tests while somebody looks on: always in the sandbox, never in the page's process."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from trivium.base.errors import SandboxError
from trivium.records import Task
from trivium.sandbox import Job, Level, Result, Sandbox
from trivium.tasks.check import CHECK_LIMITS
from trivium.tasks.extract import extract_completion, program

KEPT = 1000
"""Results remembered; a pair that is loaded again is not run again."""
SHOWN_FAILURE = 500
SHOWN_ERRORS = 2000
"""Characters of standard error, its end."""


@dataclass(frozen=True)
class Trial:
    """What came of one answer."""

    failure: str
    """The first unsuccessful test and what it raised; empty where all passed."""
    stderr: str
    seconds: float | None
    """None where it could not be run."""


class Runner:
    """A sandbox with one worker that starts when it is first needed: the page answers many, the machine has few cores.

    Args:
        minimum: weakest confinement accepted.
    """

    def __init__(self, minimum: Level = "isolated") -> None:
        self._minimum: Level = minimum
        self._lock = threading.Lock()
        self._sandbox: Sandbox | None = None

    def run(self, job: Job) -> Result:
        """Run one program. Raises SandboxError: this machine cannot confine it."""
        with self._lock:
            self._sandbox = self._sandbox or Sandbox(workers=1, minimum=self._minimum)
            return self._sandbox.run_job(job)

    def close(self) -> None:
        """End the worker; the next program starts another."""
        with self._lock:
            if self._sandbox is not None:
                self._sandbox.close()
                self._sandbox = None


class Trials:
    """Runs answers when they are asked for.

    Args:
        tasks: gives the tasks with their tests, asked once, at the first need.
        minimum: weakest confinement accepted.
    """

    def __init__(self, tasks: Callable[[], Iterable[Task]], minimum: Level = "isolated") -> None:
        self._read = tasks
        self.runner = Runner(minimum)
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], Trial] = {}

    @cached_property
    def _tasks(self) -> dict[str, Task]:
        return {task.prompt: task for task in self._read()}

    def run(self, prompt: str, texts: Sequence[str]) -> list[Trial | None]:
        """A trial of each answer; None where the prompt belongs to no task."""
        with self._lock:  # one pair at a time: two people with the same one need a single run
            task = self._tasks.get(prompt)
            if task is None:
                return [None] * len(texts)
            return [self._trial(task, text) for text in texts]

    def _trial(self, task: Task, text: str) -> Trial:
        key = (task.prompt, text)
        if key not in self._known:
            source = program(task, extract_completion(task.prompt, text))
            try:
                result = self.runner.run(Job(source, task.tests, task.setup, None, CHECK_LIMITS))
            except SandboxError as error:
                return Trial(f"programs cannot be run here: {error}", "", None)
            if len(self._known) >= KEPT:
                self._known.clear()
            self._known[key] = _trial_of(task, result)
        return self._known[key]

    def close(self) -> None:
        """End the sandbox."""
        self.runner.close()


def _trial_of(task: Task, result: Result) -> Trial:
    failure = "" if result.passed else str(result.reason or result.verdict)
    for test, found in zip(task.tests, result.tests, strict=False):  # a checker that was stopped has fewer results
        if found.status != "passed":
            failure = f"{test}: {found.message or found.status}"
            break
    return Trial(failure[:SHOWN_FAILURE], result.stderr[-SHOWN_ERRORS:], result.wall_seconds)
