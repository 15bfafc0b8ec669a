"""Other ways to run untrusted programs, to measure the sandbox against. They are not safe, and not part of Trivium."""

import contextlib
import io
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

SECONDS = 10
MEMORY_BYTES = 512 << 20
_UNWANTED = ("kill", "system", "fork", "remove", "unlink", "rmdir", "rename", "chmod", "chown", "chroot", "putenv")


@dataclass(frozen=True)
class Check:
    """A program with its tests behind it: the rivals run both in one interpreter."""

    source: str


def run_subprocess(check: Check) -> bool:
    """A fresh interpreter without site packages; passed if it ends with status 0."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-"],
            input=check.source.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def run_forked(check: Check) -> bool:
    """In the manner of HumanEval's harness: for each sample a manager with a list, and a fork that reports to it."""
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        verdicts = manager.list()
        process = context.Process(target=_forked, args=(check.source, verdicts))
        process.start()
        process.join(SECONDS + 1)
        if process.is_alive():
            process.kill()
            process.join()
        return list(verdicts) == ["passed"]


class _TooLong(Exception):
    pass


def _forked(source: str, verdicts: Any) -> None:
    saved = {name: getattr(os, name) for name in (*_UNWANTED, "chdir", "getcwd")}
    with tempfile.TemporaryDirectory() as directory:
        before = os.getcwd()
        os.chdir(directory)
        try:
            for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
                ceiling = resource.getrlimit(kind)[1]
                resource.setrlimit(kind, (max(MEMORY_BYTES, _mapped_bytes() + MEMORY_BYTES), ceiling))
            for name in _UNWANTED:
                setattr(os, name, None)
            verdicts.append(_execute(source))
        finally:
            for name, function in saved.items():
                setattr(os, name, function)
            os.chdir(before)


def _mapped_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _execute(source: str) -> str:
    def stop(number: int, frame: object) -> None:
        raise _TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    stream = io.StringIO()
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            exec(source, {})
        return "passed"
    except _TooLong:
        return "timed out"
    except BaseException as error:
        return f"failed: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def run_all(run: Callable[[Check], bool], checks: Sequence[Check], workers: int) -> list[bool]:
    """All checks, `workers` at a time."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run, checks))


RIVALS: dict[str, Callable[[Check], bool]] = {"fork per sample": run_forked, "subprocess": run_subprocess}
