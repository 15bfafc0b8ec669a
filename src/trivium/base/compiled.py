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
    without_openmp = [flag for flag in FLAGS if flag != "-fopenmp"]  # Apple's compiler has none
    try:
        places = {_place(source, compiler, flags): flags for flags in (FLAGS, without_openmp)}
    except (OSError, subprocess.SubprocessError):
        return None
    kept = [place for place in places if place.exists()]
    if not kept:
        say(f"compiling {source.name} for this machine, once: some seconds")
    for place in kept or places:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            if place not in kept:
                _build(source, compiler, places[place], place)
            return ctypes.CDLL(str(place))
    return None


def why_not() -> str:
    """Why `library` gives None."""
    if os.environ.get(PLAIN):
        return f"{PLAIN} is set"
    return "the C++ compiler fails" if cxx_compiler() else "there is no C++ compiler"


def _place(source: Path, compiler: str, flags: Sequence[str]) -> Path:
    """Where the code of this source, machine and compiler is kept."""
    content = [source.read_bytes(), HEADER.read_bytes(), _machine(compiler)[1], " ".join(flags).encode()]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trivium"
    return folder / f"{source.stem}-{hashlib.sha256(bytes(1).join(content)).hexdigest()[:24]}.so"


def _build(source: Path, compiler: str, flags: Sequence[str], place: Path) -> None:
    """Compile. Processes that do so at the same time do not meet."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as fresh:
        made = Path(fresh) / place.name
        _ask(compiler, _machine(compiler)[0], *flags, str(source), "-o", str(made))
        made.replace(place)


@functools.cache
def _machine(compiler: str) -> tuple[str, bytes]:
    """The option that asks for this processor's code, and what tells compiler and processor from others."""
    target = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    macros = _ask(compiler, target, "-dM", "-E", "-x", "c++", os.devnull)  # they name what the processor can do
    return target, _ask(compiler, "--version") + macros


def _ask(*command: str) -> bytes:
    return subprocess.run(command, capture_output=True, check=True, timeout=600).stdout
