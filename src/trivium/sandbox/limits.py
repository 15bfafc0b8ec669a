"""What a program may use, and what is asked of the sandbox."""

from collections.abc import Sequence
from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one program; those on memory, files and threads hold for its checker too."""

    wall_seconds: float = 10.0
    """Longest time from start to the last test's result."""
    cpu_seconds: float = 5.0
    """Longest CPU time of program or checker."""
    memory_bytes: int = 512 * MIB
    """Address space of each of the two processes."""
    output_bytes: int = 64 << 10
    """What is kept of stdout and of stderr."""
    file_bytes: int = 4 * MIB
    """Largest file in the scratch directory."""
    descriptors: int = 64
    """Open files and sockets."""
    threads: int = 64
    """Threads, where the sandbox has a user id of its own to count them by."""


@dataclass(frozen=True)
class Job:
    """One program and the tests that decide about it."""

    program: str
    """Untrusted source."""
    tests: Sequence[str]
    """Statements, each one test: an AssertionError fails it, anything else raised is an error."""
    prelude: str = ""
    """Trusted source that the tests rely on; runs with the tests, where the program cannot see it."""
    entry_points: Sequence[str] | None = None
    """The program's names that the tests may use; None: those they use, do not define, and that are no builtins."""
    limits: Limits = Limits()
