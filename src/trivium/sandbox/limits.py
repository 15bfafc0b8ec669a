"""What a program may use."""

from dataclasses import dataclass

from trivium.base.errors import ConfigError

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one program; those on memory, files and threads hold for its checker too.

    The times are those of a reference machine: a slower one grants proportionally more.
    """

    wall_seconds: float = 10.0
    """Longest time from start to the last test's result, without what was spent waiting for a processor."""
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
    """Living threads."""

    def __post_init__(self) -> None:
        """Raises ConfigError: a limit under which no program could start."""
        least = {
            "wall_seconds": 0.01,
            "cpu_seconds": 0.01,
            "memory_bytes": 64 * MIB,
            "output_bytes": 0,
            "file_bytes": 0,
            "descriptors": 8,
            "threads": 1,
        }
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise ConfigError(f"Limits.{name} is {getattr(self, name)}, expected at least {bound}.")
