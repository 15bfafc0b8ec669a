"""The host composes the verdict from what it saw itself; nothing that the program says enters but as data."""

import json
import os
import signal
from dataclasses import dataclass, field
from typing import Any

from .jail.checker import UNREADY_STATUS
from .jail.pair import LOCK_FAILED
from .limits import Limits
from .result import Level, Reason, Result, TestResult, Verdict

HARD_OUTPUT_BYTES = 64 << 20


@dataclass
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
        tests=tuple(TestResult(status, seconds, message) for status, seconds, _, message in rows),
        stdout=outcome.stdout.decode("utf-8", "replace"),
        stderr=outcome.stderr.decode("utf-8", "replace"),
        truncated=max(outcome.output_sizes) > limits.output_bytes,
        wall_seconds=report["wall"],
        cpu_seconds=report["cpu"],
        max_rss_bytes=report["rss"],
        level=level,
    )


def broken(outcome: Outcome) -> str:
    """Why the outcome says nothing about the program, empty if it does: a process was not locked up."""
    status = outcome.report["checker"]
    if status is not None and os.WIFEXITED(status) and os.WEXITSTATUS(status) in (LOCK_FAILED, UNREADY_STATUS):
        return f"the checker ended with status {os.WEXITSTATUS(status)} before it began"
    return ""


def invalid(reason: Reason, message: str, level: Level) -> Result:
    """The sandbox's own failure, which says nothing about the program."""
    return Result("invalid", reason, (), "", message, False, 0.0, 0.0, 0, level)


def _parse(frames: bytes, expected: int) -> tuple[list[tuple[Any, float, str, str]], bool]:
    """The tests' rows and whether the checker closed the list with their exact number."""
    rows: list[tuple[Any, float, str, str]] = []
    for line in frames.split(b"\n")[:-1]:
        status, seconds, kind, message = json.loads(line)
        if status == "done":
            return rows, len(rows) == expected == int(seconds)
        rows.append((status, seconds, kind, message))
    return rows, False


def _decide(
    outcome: Outcome, rows: list[tuple[Any, float, str, str]], done: bool, expected: int, limits: Limits
) -> tuple[Verdict, Reason]:
    report = outcome.report
    cause, program, checker = report["cause"], report["program"], report["checker"]
    kinds = {kind for _, _, kind, _ in rows}
    statuses = [status for status, *_ in rows]
    if cause:
        return "timeout", cause
    signals = {_signal(program), _signal(checker)}
    if signal.SIGXCPU in signals:
        return "timeout", "cpu"
    if signal.SIGSYS in signals:
        return "forbidden", "syscall"
    if "memory" in kinds or (_signal(program) == signal.SIGKILL and report["rss"] > 0.8 * limits.memory_bytes):
        return "memory", "memory"
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
