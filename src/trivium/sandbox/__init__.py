"""Run untrusted programs: confined by the kernel, with verdicts they cannot forge. See docs/sandbox.md."""

from trivium.base.errors import SandboxError

from .limits import Job, Limits
from .result import Finding, Level, Result, TestResult, Verdict
from .sandbox import Sandbox

__all__ = ["Finding", "Job", "Level", "Limits", "Result", "Sandbox", "SandboxError", "TestResult", "Verdict"]
