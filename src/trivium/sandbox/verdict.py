"""The host composes the verdict from what it saw itself; nothing that the program says enters but as data."""

import json
import os
import signal
from dataclasses import dataclass, field, replace
from typing import Any

from .jail.checker import UNREADY_STATUS
from .jail.link import MAX_MESSAGE
from .jail.pair import LOCK_FAILED
from .limits import Limits
from .result import Level, Reason, Result, TestResult, Verdict

HARD_OUTPUT_BYTES = 64 << 20
ORDER: tuple[Verdict, ...] = ("invalid", "timeout", "forbidden", "memory", "killed", "error", "failed", "passed")
"""From what explains most to what needs everything else to be well."""


@dataclass(frozen=True)
class Row:
    """One line of the checker's report."""

    test: TestResult
    kind: str


@dataclass(frozen=True)
class Outcome:
    """What the host collected about one program."""

    report: dict[str, Any]
    """The worker's account of how both processes ended."""
    frames: bytes
    """The checker's lines, one a test."""
    stdout: bytes = b""
    stderr: bytes = b""
    output_sizes: list[int] = field(default_factory=lambda: [0, 0])


def compose(outcome: Outcome, expected_tests: int, limits: Limits, level: Level) -> Result:
    """The verdict: the first that applies in the documented order."""
    rows, done = _parse(outcome.frames, expected_tests)
    verdict, reason = _decide(outcome, rows, done, expected_tests, limits)
    report = outcome.report
    return Result(
        verdict=verdict,
        reason=reason,
        tests=tuple(row.test for row in rows),
        stdout=outcome.stdout.decode("utf-8", "replace"),
        stderr=outcome.stderr.decode("utf-8", "replace"),
        truncated=max(outcome.output_sizes) > limits.output_bytes,
        wall_seconds=report["wall"],
        cpu_seconds=report["cpu"],
        max_rss_bytes=report["rss"],
        level=level,
    )


def combine(results: list[Result]) -> Result:
    """One result for a script's cases: the worst verdict, with its output; times added up."""
    worst = min(results, key=lambda result: ORDER.index(result.verdict))
    return replace(
        worst,
        tests=tuple(test for result in results for test in result.tests),
        wall_seconds=sum(result.wall_seconds for result in results),
        cpu_seconds=sum(result.cpu_seconds for result in results),
        max_rss_bytes=max(result.max_rss_bytes for result in results),
    )


def wrong_output(result: Result) -> Result:
    """A script's result after its output was compared and differs."""
    test = replace(result.tests[0], status="failed", message="the output differs from what is expected")
    return replace(result, verdict="failed", reason="assertion", tests=(test,))


def broken(outcome: Outcome) -> str:
    """Why the outcome says nothing about the program, empty if it does: a process was not locked up."""
    status = outcome.report["checker"]
    if status is not None and os.WIFEXITED(status) and os.WEXITSTATUS(status) in (LOCK_FAILED, UNREADY_STATUS):
        return f"the checker ended with status {os.WEXITSTATUS(status)} before it began"
    return ""


def invalid(reason: Reason, message: str, level: Level) -> Result:
    """The sandbox's own failure, which says nothing about the program."""
    return Result("invalid", reason, (), "", message, False, 0.0, 0.0, 0, level)


def _parse(frames: bytes, expected: int) -> tuple[list[Row], bool]:
    """The tests' rows and whether the checker closed the list with their exact number.

    Tests may be untrusted too, and write to the checker's descriptor: whatever is malformed ends the list.
    """
    rows: list[Row] = []
    for line in frames.split(b"\n")[:-1]:
        try:
            status, seconds, kind, message = json.loads(line)
            seconds, kind, message = float(seconds), str(kind), str(message)[:MAX_MESSAGE]
        except (ValueError, TypeError, RecursionError):
            return rows, False
        if status == "done":
            return rows, len(rows) == expected == int(seconds)
        if status not in ("passed", "failed", "error") or len(rows) == expected:
            return rows, False
        rows.append(Row(TestResult(status, seconds, message), kind))
    return rows, False


def _decide(outcome: Outcome, rows: list[Row], done: bool, expected: int, limits: Limits) -> tuple[Verdict, Reason]:
    report = outcome.report
    cause, program, checker = report["cause"], report["program"], report["checker"]
    kinds = {row.kind for row in rows}
    statuses = [row.test.status for row in rows]
    signals = {_signal(program), _signal(checker)}
    if cause in ("wall", "cpu"):
        return "timeout", cause
    if signal.SIGXCPU in signals:
        return "timeout", "cpu"
    if signal.SIGSYS in signals:
        return "forbidden", "syscall"
    if "memory" in kinds or (_signal(program) == signal.SIGKILL and report["rss"] > 0.8 * limits.memory_bytes):
        return "memory", "memory"
    if cause == "threads":
        return "killed", "threads"
    if max(outcome.output_sizes) > HARD_OUTPUT_BYTES:
        return "killed", "output"
    if "exit" in kinds:
        return "killed", "signal" if _signal(program) else "exit"
    if not done or checker != 0:
        return "error", "checker"
    for kind in ("load", "bad_test", "opaque", "raised"):
        if kind in kinds:
            return "error", kind
    if "failed" in statuses:
        return "failed", "assertion"
    if len(statuses) == expected >= 1 and all(status == "passed" for status in statuses):
        return "passed", ""
    return "error", "checker"


def _signal(status: int | None) -> int:
    """The signal in a wait status, 0 for none."""
    return 0 if status is None else status & 0x7F
