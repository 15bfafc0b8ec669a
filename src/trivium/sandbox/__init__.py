"""Run untrusted programs: confined by the kernel, with verdicts they cannot forge. See docs/sandbox.md."""

from trivium.base.errors import SandboxError

from .job import Case, Job
from .limits import Limits
from .result import Finding, Level, Result, TestResult, Verdict
from .sandbox import NotConfined, Sandbox

__all__ = [
    "Case",
    "Finding",
    "Job",
    "Level",
    "Limits",
    "NotConfined",
    "Result",
    "Sandbox",
    "SandboxError",
    "TestResult",
    "Verdict",
]
