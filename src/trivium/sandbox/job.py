"""What is asked of the sandbox: a program and the tests that decide about it."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trivium.base.errors import DataError

from .jail import codec
from .jail.program import FUNCTIONS, SCRIPT
from .jail.wire import WireError
from .limits import Limits


@dataclass(frozen=True, kw_only=True)
class Case:
    """One test as data: a call and its result, or a script's input and output."""

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    expected: Any = None
    """What the first entry point must return."""
    tolerance: float = 0.0
    """Numbers may differ by this much, absolutely or relatively."""
    stdin: str | None = None
    """If given, the program is run as a script on this input, and `stdout` decides."""
    stdout: str = ""
    """What the script must print, up to white space at the ends of lines and of the text."""


@dataclass(frozen=True)
class Job:
    """One program and the tests that decide about it."""

    program: str
    """Untrusted source."""
    tests: Sequence[str | Case]
    """Statements, each one test (an AssertionError fails it, anything else raised is an error), or cases."""
    prelude: str = ""
    """Trusted source that the tests rely on; runs with the tests, where the program cannot see it."""
    entry_points: Sequence[str] | None = None
    """The program's names that the tests may use; None: those they use, do not define, and that are no builtins."""
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        """Raises DataError: a string where a list is due, or cases that do not fit together."""
        if isinstance(self.tests, str) or isinstance(self.entry_points, str):
            raise DataError("tests and entry_points are lists of strings, not one string. Put it in a list.")
        cases = [test for test in self.tests if isinstance(test, Case)]
        scripts = sum(case.stdin is not None for case in cases)
        if scripts and scripts != len(self.tests):
            raise DataError(f"{scripts} of {len(self.tests)} tests have stdin, expected all or none. Split the job.")
        if cases and not scripts and not self.entry_points:
            raise DataError("a Case calls the first entry point, but none is given. Set entry_points.")

    @property
    def scripts(self) -> list[Case]:
        """The cases with standard input; if there are any, all tests are."""
        return [test for test in self.tests if isinstance(test, Case) and test.stdin is not None]

    def source_frame(self, script: bool) -> bytes:
        """The program as its process reads it."""
        source = (SCRIPT if script else FUNCTIONS) + self.program.encode("utf-8", "surrogatepass")
        return struct.pack(">I", len(source)) + source

    def tests_frame(self) -> bytes:
        """The tests as the checker reads them. Raises DataError if a case is not plain data."""
        entry_points = None if self.entry_points is None else list(self.entry_points)
        tests = [test if isinstance(test, str) else _case_tree(test) for test in self.tests]
        return _frame({"tests": tests, "prelude": self.prelude, "entry_points": entry_points})


def script_frame() -> bytes:
    """What the checker of a script reads: one test that is passed as soon as the script has ended well."""
    return _frame({"tests": ["pass"], "prelude": "", "entry_points": []})


def _frame(order: dict[str, Any]) -> bytes:
    payload = json.dumps(order).encode()
    return struct.pack(">I", len(payload)) + payload


def _case_tree(case: Case) -> dict[str, Any]:
    try:
        return {
            "args": codec.encode(list(case.args), codec.data_only),
            "kwargs": codec.encode(dict(case.kwargs), codec.data_only),
            "expected": codec.encode(case.expected, codec.data_only),
            "tolerance": case.tolerance,
        }
    except WireError as error:
        raise DataError(f"a Case's values must be plain data: {error}. Write the test as a statement.") from None


def same_output(actual: str, expected: str, tolerance: float) -> bool:
    """Equal up to white space at the ends, or word by word with numbers within the tolerance."""
    ours, theirs = (text.rstrip().splitlines() for text in (actual, expected))
    if len(ours) != len(theirs):
        return False
    return all(_same_line(a, b, tolerance) for a, b in zip(ours, theirs, strict=True))


def _same_line(actual: str, expected: str, tolerance: float) -> bool:
    if actual.rstrip() == expected.rstrip():
        return True
    ours, theirs = actual.split(), expected.split()
    if not tolerance or len(ours) != len(theirs):
        return False
    return all(_same_word(a, b, tolerance) for a, b in zip(ours, theirs, strict=True))


def _same_word(actual: str, expected: str, tolerance: float) -> bool:
    if actual == expected:
        return True
    try:
        a, b = float(actual), float(expected)
    except ValueError:
        return False
    return abs(a - b) <= tolerance * max(1.0, abs(b))
