"""`Sandbox`: run untrusted programs against tests, confined by the kernel, at hundreds a second."""

import asyncio
import queue
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Self

from trivium.base.errors import SandboxError

from . import machine
from .jail.enclosure import MISSING
from .job import Case, Job, same_output, script_frame
from .limits import MIB, Limits
from .remedies import remedy
from .result import LEVELS, Finding, Level, Result
from .stream import in_order, in_order_async
from .verdict import combine, compose, invalid, wrong_output
from .worker import LevelRefused, Worker, WorkerLost

_DEFAULTS = Limits()
PROGRAMS_PER_WORKER = 2000
"""A worker is replaced after this many, so that nothing can add up in it."""
AHEAD_PER_WORKER = 64
_CLOSED = "The sandbox is closed. Run programs inside its with block."


class NotConfined(UserWarning):
    """The sandbox is at level `limited`, as it was asked to be."""


class Sandbox:
    """Workers that run untrusted programs. A context manager; may be used from many threads.

    The level in force is the strongest that this machine proves at start: `jailed` (namespaces, seccomp, Landlock),
    `isolated` (seccomp, Landlock) or `limited` (resource limits alone: not safe).
    """

    def __init__(self, workers: int = 2, minimum: Level = "isolated", scratch_bytes: int = 16 * MIB) -> None:
        """Start the workers and prove their level.

        Args:
            workers: programs that run at a time.
            minimum: refuse to start below this level; `limited` must be asked for by name.
            scratch_bytes: size of each program's scratch directory.
        Raises:
            SandboxError: the machine does not reach `minimum`; says what is missing and how to get it.
        """
        if workers < 1:
            raise SandboxError(f"workers is {workers}, expected at least 1. Set workers = 2.")
        if minimum not in LEVELS:
            raise SandboxError(f"minimum is {minimum!r}, expected one of {', '.join(LEVELS)}.")
        self._scratch_bytes = scratch_bytes
        self._minimum: Level = minimum
        self.workers = self._places = workers
        self.level: Level = "limited"
        """The level in force."""
        self.why: list[Finding] = []
        """What was found while the level was proved."""
        self._closed = False
        self._living: set[Worker] = set()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        first = self._start_best()
        for worker in (first, *[None] * (workers - 1)):  # the others start when first needed
            self._idle.put(worker)
        while self._idle.queue[-1] is not first:  # the started one is taken first
            self._idle.queue.reverse()

    def run(
        self,
        program: str,
        tests: Sequence[str | Case],
        *,
        prelude: str = "",
        entry_points: Sequence[str] | None = None,
        limits: Limits = _DEFAULTS,
    ) -> Result:
        """Run one program against its tests; see `Job` for the arguments. Waits for a free worker.

        Raises:
            SandboxError: the sandbox is closed. Whatever the program does ends in a `Result`.
        """
        return self.run_job(Job(program, tests, prelude, entry_points, limits))

    def run_job(self, job: Job) -> Result:
        """Run one job. Raises SandboxError if the sandbox is closed, DataError if a case is not plain data."""
        if not job.tests:
            return invalid("no_tests", "there are no tests", self.level)
        if not job.scripts:
            return self._run(job, job.source_frame(script=False), job.tests_frame())
        source, results = job.source_frame(script=True), []
        for case in job.scripts:
            result = self._run(job, source, script_frame(), case)
            if result.passed and not same_output(result.stdout, case.stdout, case.tolerance):
                result = wrong_output(result)
            results.append(result)
        return combine(results)

    def _run(self, job: Job, source: bytes, order: bytes, case: Case | None = None) -> Result:
        """One pair of processes, tried again once if the worker is lost."""
        limits, problem = job.limits, ""
        if case is not None:  # what is kept must suffice for the comparison
            limits = replace(limits, output_bytes=max(limits.output_bytes, 2 * len(case.stdout.encode()) + 4096))
        for _ in range(2):
            worker = self._take()
            try:
                worker = worker or self._start(self.level)
                outcome = worker.run(limits, source, order, None if case is None else case.stdin)
                spent = not outcome.report["clean"] or worker.programs >= PROGRAMS_PER_WORKER
                worker = self._replace(worker) if spent else worker
                return compose(outcome, len(job.tests) if case is None else 1, limits, self.level)
            except (WorkerLost, SandboxError) as error:
                problem = str(error)
                worker = self._replace(worker)
            except BaseException:
                worker = self._replace(worker)
                raise
            finally:
                self._idle.put(worker)
        return invalid("worker_lost", problem, self.level)

    def run_many(self, jobs: Iterable[Job], progress: Callable[[int], None] | None = None) -> list[Result]:
        """Run jobs on all workers; results in the jobs' order.

        Args:
            jobs: drawn as `stream` draws them.
            progress: called with the number of results so far after each.
        Raises:
            SandboxError: the sandbox is closed.
        """
        results: list[Result] = []
        for result in self.stream(jobs):
            results.append(result)
            if progress is not None:
                progress(len(results))
        return results

    def stream(self, jobs: Iterable[Job], ahead: int | None = None) -> Iterator[Result]:
        """Run jobs on all workers and yield their results in the jobs' order.

        Args:
            jobs: may be endless; drawn as long as fewer than `ahead` results are outstanding, so memory is bounded.
            ahead: 64 for each worker if None. A program that takes long holds up the results behind it, not the work.
        Raises:
            SandboxError: the sandbox is closed.
        """
        return in_order(self._submit, jobs, self._ahead(ahead))

    async def run_async(
        self,
        program: str,
        tests: Sequence[str | Case],
        *,
        prelude: str = "",
        entry_points: Sequence[str] | None = None,
        limits: Limits = _DEFAULTS,
    ) -> Result:
        """`run` for an event loop. If it is cancelled, a program that has started runs on to its end or limit."""
        return await asyncio.wrap_future(self._submit(Job(program, tests, prelude, entry_points, limits)))

    def stream_async(self, jobs: Iterable[Job] | AsyncIterable[Job], ahead: int | None = None) -> AsyncIterator[Result]:
        """`stream` for an event loop, from an ordinary or an asynchronous iterable."""
        return in_order_async(self._submit, jobs, self._ahead(ahead))

    def _ahead(self, ahead: int | None) -> int:
        if ahead is not None and ahead < 1:
            raise SandboxError(f"ahead is {ahead}, expected at least 1. Leave it out for 64 jobs a worker.")
        return AHEAD_PER_WORKER * self.workers if ahead is None else ahead

    def _submit(self, job: Job) -> Future[Result]:
        """Have a thread of ours run the job. Raises SandboxError if the sandbox is closed."""
        try:
            return self._threads.submit(self.run_job, job)
        except RuntimeError:
            raise SandboxError(_CLOSED) from None

    def close(self) -> None:
        """End the workers. Programs that still run are finished first."""
        self._closed = True
        for _ in range(self._places):
            worker = self._idle.get()
            if worker is not None:
                self._living.discard(worker)
                worker.close()
        if self._places:
            self._idle.put(None)  # wakes those who wait for a worker, one after the other
        self._places = 0
        self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # Ctrl-C or a failure: no result is waited for
            self._closed = True
            for worker in list(self._living):
                worker.interrupt()
        self.close()

    def _replace(self, worker: Worker | None) -> None:
        """End a worker; the place that it leaves is filled when it is next needed."""
        if worker is not None:
            self._living.discard(worker)
            worker.kill()

    def _take(self) -> Worker | None:
        """A free worker, None for a place whose worker is yet to be started. Raises SandboxError: it is closed."""
        if self._closed:
            raise SandboxError(_CLOSED)
        worker = self._idle.get()
        if self._closed:  # in the meantime
            self._idle.put(worker)
            raise SandboxError(_CLOSED)
        return worker

    def _start(self, level: Level) -> Worker:
        """A worker of exactly this level. Raises SandboxError."""
        with machine.targets() as target:
            try:
                worker = Worker(machine.plan(level, self._scratch_bytes, target))
            except LevelRefused as refusal:
                raise SandboxError(f"A worker could not be locked up as the first one was: {refusal}") from None
        if worker.hello["through"] and level != "limited":
            worker.kill()
            raise SandboxError(f"A worker's probe got through: {', '.join(worker.hello['through'])}")
        self._living.add(worker)
        return worker

    def _start_best(self) -> Worker:
        """The first worker, at the strongest level that it proves. Raises SandboxError below the minimum."""
        with machine.targets() as target:
            for level in reversed(LEVELS):
                if LEVELS.index(level) < LEVELS.index(self._minimum):
                    break
                try:
                    worker = Worker(machine.plan(level, self._scratch_bytes, target))
                except LevelRefused as refusal:
                    about, _, detail = str(refusal).partition(": ")
                    if about not in [finding.about for finding in self.why]:
                        self.why.append(Finding(about, f"{detail}, needed for {level}", remedy(about)))
                    continue
                through: list[str] = worker.hello["through"]
                if through and level != "limited":
                    worker.kill()
                    detail = f"at level {level} a locked-up process could {', '.join(through)}"
                    self.why.append(Finding("probe", detail, "Report this together with the kernel's version"))
                    continue
                self._describe(worker, level, through)
                self._living.add(worker)
                return worker
        reasons = "; ".join(str(finding) for finding in self.why)
        raise SandboxError(
            f"This machine does not reach the sandbox level {self._minimum!r}: {reasons}. "
            "To run untrusted programs with resource limits alone, which is not safe, set minimum = 'limited'."
        )

    def _describe(self, worker: Worker, level: Level, through: list[str]) -> None:
        self.level = level
        known = [finding.about for finding in self.why]
        for about, detail in worker.hello["findings"]:
            if about not in known:
                self.why.append(Finding(about, detail, remedy(about) if detail == MISSING else ""))
        slowness = worker.hello["slowness"]
        if slowness > 1.05:
            self.why.append(
                Finding("speed", f"time limits are {slowness:.1f} times as long, as Python runs slowly here")
            )
        if through:
            self.why.append(Finding("probe", f"a program could {', '.join(through)}", "Get what is missing above"))
        else:
            self.why.append(Finding("probe", "nothing got through"))
        if level == "limited":
            warnings.warn(
                NotConfined("The sandbox is at level 'limited': programs may harm this machine."), stacklevel=4
            )
