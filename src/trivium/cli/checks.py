"""What `trivium doctor` looks at: the machine, the sandbox, a model directory. Each finding carries its remedy."""

import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

GIB = 1 << 30


@dataclass(frozen=True)
class Check:
    """One finding."""

    about: str
    detail: str
    status: Literal["ok", "warning", "problem"] = "ok"
    remedy: str = ""
    """What to do about a warning or a problem."""

    def __str__(self) -> str:
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{self.status:<8} {self.about}: {self.detail}.{remedy}"


def check_machine(runs: Path = Path("runs")) -> Iterator[Check]:
    """Versions, cores, memory, disk, precision, compiler and what is compiled with it."""
    yield from _check_versions()
    yield from _check_processor()
    yield _check_memory()
    yield _check_disk(runs)
    yield from _check_accelerator()
    yield _check_precision()
    yield _check_compiler()
    yield _check_own_code()


def _check_versions() -> Iterator[Check]:
    import torch

    python = ".".join(map(str, sys.version_info[:3]))
    yield Check("Python", python)
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 11):
        remedy = "Install torch 2.11 or newer; `make setup` installs the tested one."
        yield Check("torch", f"{torch.__version__} is too old", "problem", remedy)
    else:
        yield Check("torch", torch.__version__)


def _check_processor() -> Iterator[Check]:
    import torch

    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    text = f"{cores} cores, {threads} threads"
    if threads > cores:
        yield Check("processor", text, "warning", f"More threads than cores only wait: set OMP_NUM_THREADS={cores}.")
    elif threads < cores and "OMP_NUM_THREADS" in os.environ:
        yield Check("processor", text, "warning", "OMP_NUM_THREADS keeps cores idle; unset it for a single run.")
    else:
        yield Check("processor", text)
    if load > 1.5 * cores:
        yield Check("load", f"{load:.1f} on {cores} cores", "warning", "Other programs are busy; times will be longer.")


def _check_memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    text = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    if memory.available < 4 * GIB:
        return Check(
            "memory", text, "warning", "The quickstart needs up to 4 GiB: close programs, or use smaller batches."
        )
    return Check("memory", text)


def _check_disk(runs: Path) -> Check:
    place = next(folder for folder in (runs.resolve(), *runs.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / GIB:.1f} GiB free at {place}"
    if not os.access(place, os.W_OK):
        return Check(
            "disk", f"{place} cannot be written", "problem", "Run in another folder or set runs_dir in the recipe."
        )
    if free < 2 * GIB:
        return Check("disk", text, "warning", "Checkpoints may not fit: free some space or set runs_dir in the recipe.")
    return Check("disk", text)


def _check_accelerator() -> Iterator[Check]:
    import torch

    if not torch.cuda.is_available():
        yield Check("accelerator", "none, the processor is used")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        yield Check(
            "accelerator", f"{torch.cuda.get_device_name(index)}, {free / GIB:.0f} of {total / GIB:.0f} GiB free"
        )


def _check_precision() -> Check:
    from trivium.base.machine import bf16_speedup

    speedup = bf16_speedup()
    verdict = "so bf16 pays here" if speedup > 1.2 else "so fp32 is the better choice here"
    return Check("precision", f"bf16 products run at {speedup:.1f} times the speed of fp32, {verdict}")


def _check_compiler() -> Check:
    from trivium.base.machine import cxx_compiler

    if found := cxx_compiler():
        return Check("compiler", f"{found}, so torch.compile can be used")
    remedy = "Install one (Debian: g++, macOS: xcode-select --install) for faster training."
    return Check("compiler", "no C++ compiler, so torch.compile is not used", "warning", remedy)


def _check_own_code() -> Check:
    from trivium.base import compiled
    from trivium.generation.step import library

    if library() is not None:
        return Check("own code", "sampling, and what training does beside products, are compiled for this processor")
    reason = compiled.why_not()
    remedy = "" if reason.endswith("is set") else "With a working C++ compiler sampling is 1.4 to 13 times as fast."
    return Check("own code", f"sampling and training by PyTorch's operations, since {reason}", "warning", remedy)


def check_sandbox() -> Iterator[Check]:
    """The level at which programs written by a model are confined here."""
    from trivium.base.errors import SandboxError
    from trivium.sandbox import NotConfined, Sandbox

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConfined)  # said below
            with Sandbox(workers=1, minimum="limited") as sandbox:
                level, findings = sandbox.level, list(sandbox.why)
    except SandboxError as error:
        yield Check("sandbox", str(error).rstrip("."), "problem", "Stages that run generated code cannot run here.")
        return
    meaning = {
        "jailed": "namespaces, seccomp and Landlock confine generated code",
        "isolated": "seccomp and Landlock confine generated code",
        "limited": "resource limits alone, which is not safe: no stage uses it unless told to",
    }[level]
    yield Check("sandbox", f"level {level}: {meaning}", "warning" if level == "limited" else "ok")
    for finding in findings:
        status = "warning" if finding.remedy else "ok"
        remedy = f"{finding.remedy.rstrip('.')}." if finding.remedy else ""
        yield Check(f"sandbox, {finding.about}", finding.detail.rstrip("."), status, remedy)


def check_model(folder: Path) -> Iterator[Check]:
    """A model directory: files, weights, vocabulary, and whether it computes."""
    from trivium.base.errors import InputError
    from trivium.model import load_model, load_scorer
    from trivium.model.hf import is_classifier, read_hf_json
    from trivium.tokenizer import Tokenizer

    try:
        values = read_hf_json(folder)
        classifier = is_classifier(folder)
        model = load_scorer(folder) if classifier else load_model(folder)
    except InputError as error:
        yield Check("model", str(error).rstrip("."), "problem")
        return
    kind = "sequence classifier" if classifier else "causal language model"
    yield Check("model", f"{model.config.family} {kind}, {model.parameter_count():,} parameters")
    try:
        tokenizer = Tokenizer.load(folder)
    except InputError as error:
        yield Check("tokenizer", str(error).rstrip("."), "problem")
        return
    yield from _check_vocabulary(tokenizer, values, model)
    yield _check_forward(tokenizer, model)


def _check_vocabulary(tokenizer: Any, values: dict[str, Any], model: Any) -> Iterator[Check]:
    size = model.config.vocab_size
    if tokenizer.vocab_size > size:
        detail = f"{tokenizer.vocab_size} tokens, but the model knows {size}"
        yield Check("tokenizer", detail, "problem", "It belongs to another model: copy the right tokenizer files.")
    else:
        yield Check("tokenizer", f"{tokenizer.vocab_size} tokens, encoded by {tokenizer.backend}")
    for name in ("pad", "bos", "eos"):
        ours, theirs = getattr(tokenizer, f"{name}_id"), values.get(f"{name}_token_id")
        listed = theirs if isinstance(theirs, list) else [theirs]
        if theirs is not None and ours not in listed:
            detail = f"id {ours} in the tokenizer, {theirs} in config.json"
            yield Check(
                f"{name} token", detail, "warning", "Make both agree, or generation may not stop where it should."
            )


def _check_forward(tokenizer: Any, model: Any) -> Check:
    import torch

    ids = [tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id, *tokenizer.encode("def f(x):\n")]
    ids = [index for index in ids if index < model.config.vocab_size][: model.config.max_seq_len]
    with torch.no_grad():
        finite = bool(model(torch.tensor([ids])).isfinite().all())
    if finite:
        return Check("forward pass", f"{len(ids)} tokens give finite logits")
    return Check(
        "forward pass", "logits are NaN or infinite", "problem", "The weights are damaged: train or copy them anew."
    )
