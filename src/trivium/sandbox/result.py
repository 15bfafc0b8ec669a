"""What became of a program."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["passed", "timeout", "forbidden", "memory", "killed", "error", "failed", "invalid"]
Reason = Literal[
    "",  # passed
    "wall",  # the wall clock ran out
    "cpu",  # the CPU time ran out
    "syscall",  # a system call of another architecture, or one that kills
    "memory",  # MemoryError, or killed near the memory limit
    "signal",  # the program's process died of a signal
    "exit",  # the program's process ended, or closed its link, before its tests did
    "threads",  # it started more than it may
    "output",  # it wrote beyond the hard bound
    "load",  # the program raised while it was loaded, or does not compile
    "raised",  # a test raised something other than an AssertionError
    "opaque",  # a test compared an object that only the program could compare
    "bad_test",  # a test does not compile
    "assertion",  # a test's assertion failed
    "checker",  # the checker ended without all its results
    "no_tests",  # there was nothing to decide by
    "worker_lost",  # the worker was lost, also when tried again
]
Level = Literal["jailed", "isolated", "limited"]
LEVELS: tuple[Level, ...] = ("limited", "isolated", "jailed")
"""From weakest to strongest."""


@dataclass(frozen=True)
class TestResult:
    """One test's outcome."""

    status: Literal["passed", "failed", "error"]
    seconds: float
    """Measured in the checker."""
    message: str = ""
    """At most 200 characters: what was raised."""

    __test__ = False  # not a test class, whatever its name tells pytest


@dataclass(frozen=True)
class Result:
    """A program's verdict and what was measured outside its process."""

    verdict: Verdict
    """`passed` only if the checker ended cleanly with every test passed; `invalid` is the sandbox's own failure."""
    reason: Reason
    tests: tuple[TestResult, ...]
    """In the tests' order; fewer than the tests if the checker was stopped."""
    stdout: str
    stderr: str
    truncated: bool
    """stdout or stderr went beyond `Limits.output_bytes`."""
    wall_seconds: float
    cpu_seconds: float
    """Of program and checker together."""
    max_rss_bytes: int
    """Largest resident size of the program's process."""
    level: Level
    integrity: Literal["separate"] = "separate"
    """Program and checker were two processes."""

    @property
    def passed(self) -> bool:
        """The program passed."""
        return self.verdict == "passed"


@dataclass(frozen=True)
class Finding:
    """One thing learnt about the machine while the level was proved."""

    about: str
    detail: str
    remedy: str = ""
    """How to raise the level, where this lowers it."""

    def __str__(self) -> str:
        text = f"{self.about}: {self.detail}"
        return f"{text}. {self.remedy}" if self.remedy else text
