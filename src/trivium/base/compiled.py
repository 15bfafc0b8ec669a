"""C++ beside a module, compiled for the machine at first use and bound by ctypes.

It takes the compiler that torch.compile would take and none of PyTorch's headers, so that it is done in seconds. What
it is for must go without it too: not every machine has a compiler.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trivium.base.log import say
from trivium.base.machine import cxx_compiler

PLAIN = "TRIVIUM_PLAIN"
"""Set in the environment: nothing is compiled, PyTorch's operations do all."""
FLAGS = ("-O3", "-ffp-contract=fast", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-Wno-psabi")
HEADER = Path(__file__).with_suffix(".h")


@functools.cache
def library(source: Path) -> Any:
    """The compiled code, or None where there is no compiler or it fails, or the environment forbids it."""
    compiler = cxx_compiler()
    if compiler is None or os.environ.get(PLAIN):
        return None
    for flags in (FLAGS, [flag for flag in FLAGS if flag != "-fopenmp"]):  # Apple's compiler has no OpenMP
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return ctypes.CDLL(str(_build(source, compiler, flags)))
    return None


def why_not() -> str:
    """Why `library` gives None."""
    if os.environ.get(PLAIN):
        return f"{PLAIN} is set"
    return "the C++ compiler fails" if cxx_compiler() else "there is no C++ compiler"


def _build(source: Path, compiler: str, flags: Sequence[str]) -> Path:
    """Compile, once a machine, source and compiler. Processes that do so at the same time do not meet."""
    target, identity = _machine(compiler)
    content = [source.read_bytes(), HEADER.read_bytes(), identity, " ".join(flags).encode()]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trivium"
    place = folder / f"{source.stem}-{hashlib.sha256(bytes(1).join(content)).hexdigest()[:24]}.so"
    if not place.exists():
        say(f"compiling {source.name} for this machine, once: some seconds")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            made = Path(fresh) / place.name
            _ask(compiler, target, *flags, str(source), "-o", str(made))
            made.replace(place)
    return place


@functools.cache
def _machine(compiler: str) -> tuple[str, bytes]:
    """The option that asks for this processor's code, and what tells compiler and processor from others."""
    target = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    macros = _ask(compiler, target, "-dM", "-E", "-x", "c++", os.devnull)  # they name what the processor can do
    return target, _ask(compiler, "--version") + macros


def _ask(*command: str) -> bytes:
    return subprocess.run(command, capture_output=True, check=True, timeout=600).stdout
