"""Bad inputs as data: what is arranged, the command line, and the one line that answers it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivium.cli import main

Arrange = Callable[[], None]
"""Spoils something in the current folder, which is a world of its own."""


@dataclass(frozen=True)
class Case:
    """One bad input."""

    title: str
    """What is wrong, in words; unique in its category."""
    told: str
    """The line on standard error behind `trivium: `. `…` stands for words of a library or the system."""
    command: str
    """The command line behind `trivium`."""
    arrange: tuple[Arrange, ...] = ()

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.command)

    def fits(self, message: str) -> bool:
        return re.fullmatch(".+".join(map(re.escape, self.told.split("…"))), message) is not None


def case(title: str, told: str, command: str, *arrange: Arrange) -> Case:
    """A case as the tables write it."""
    return Case(title, told, command, arrange)


# ---------------------------------------------------------------- a world: files, and a run made from them

CORPUS = "".join(f"def scale_{n}(x):\n    '''Scale x by {n}.'''\n    return {n} * x\n\n\n" for n in range(12))

RECIPE = """\
name = "mine"

[compute]
threads = 1
precision = "fp32"

[data]
sources = ["corpus"]

[tokenizer]
vocab_size = 280

[model]
n_layers = 1
d_model = 32

[pretrain]
steps = 2
batch_size = 4
seq_len = 64
eval_rows = 4

[sft]
path = "answers.jsonl"

[collect]
path = "preferences.jsonl"

[reward]
allow_chance = true
normalise_samples = 4
max_new_tokens = 8
epochs = 1

[reward.tasks]
path = "tasks.jsonl"

[rl]
steps = 1
prompts_per_step = 2
samples_per_prompt = 2
max_new_tokens = 8
gold_responses = 2
eval_tasks = 2

[rl.tasks]
path = "tasks.jsonl"

[evaluate]
samples = 1
max_new_tokens = 8
utility_prompts = 2
bits_per_byte_rows = 2
seq_len = 64

[evaluate.tasks]
path = "tasks.jsonl"
"""

TASK = {"id": "half", "prompt": "def half(x):\n", "entry_point": "half", "tests": ["assert half(4) == 2"]}
ANSWER = {"prompt": "def half(x):\n", "response": "    return x / 2\n"}
PAIR = {"prompt": "def half(x):\n", "chosen": "    return x / 2\n", "rejected": "    return 2\n"}


def lines(*records: Any) -> str:
    """Records as JSON lines; text stands for itself."""
    return "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)


def make_world(folder: Path) -> None:
    """A recipe with all its files."""
    (folder / "corpus").mkdir(parents=True)
    for number in range(8):
        (folder / f"corpus/part_{number}.py").write_text(CORPUS.replace("scale", f"scale_{number}"))
    (folder / "mine.toml").write_text(RECIPE)
    prompts = [f"def times_{n}(x):\n" for n in range(24)]
    answers = [{"prompt": text, "response": f"    return {n} * x\n"} for n, text in enumerate(prompts)]
    pairs = [
        {"prompt": text, "chosen": f"    return {n} * x\n", "rejected": "    return x\n"}
        for n, text in enumerate(prompts, start=2)
    ]
    (folder / "answers.jsonl").write_text(lines(*answers))
    (folder / "preferences.jsonl").write_text(lines(*pairs))
    (folder / "tasks.jsonl").write_text(lines(TASK, {**TASK, "id": "half again", "prompt": "def half(x, y=0):\n"}))


STOPPED = "mine.toml --name stopped --pretrain.steps 4 --pretrain.checkpoint_every 1 --pretrain.optim.lr 1e30"
"""A run that fails in its second step, with one checkpoint."""


def make_runs() -> None:
    """A finished run and a failed one, in the current folder."""
    assert main(["run", "mine.toml"]) == 0
    assert main(["run", *STOPPED.split()]) == 1


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder; the lock, which names the last process, left out."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file():
            if path.name != ".lock":
                found[name] = path.read_bytes()
        else:
            found[name] = "folder" if path.is_dir() else "special"
    return found


# ---------------------------------------------------------------- what can be done to it


def put(path: str, content: str | bytes) -> Arrange:
    """Write a file."""

    def arrange() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.encode() if isinstance(content, str) else content)

    return arrange


def add(path: str, *records: Any) -> Arrange:
    """Append lines to a JSONL file."""

    def arrange() -> None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(lines(*records))

    return arrange


def setting(text: str) -> Arrange:
    """A recipe that holds these lines alone."""
    return put("bad.toml", text)


def edit(path: str, **values: Any) -> Arrange:
    """Set fields of a JSON file; `...` removes one."""

    def arrange() -> None:
        content = json.loads(Path(path).read_text())
        content |= values
        Path(path).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return arrange


def cut(path: str, keep: float = 0.5) -> Arrange:
    """Leave only the first part of a file."""

    def arrange() -> None:
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[: int(len(content) * keep)])

    return arrange


def remove(path: str) -> Arrange:
    """Take a file or folder away."""
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def trivium(command: str) -> Arrange:
    """Run a command that is right."""

    def arrange() -> None:
        assert main(shlex.split(command)) == 0

    return arrange


def link(path: str, target: str) -> Arrange:
    """Put a symbolic link in the place of what is there."""

    def arrange() -> None:
        if Path(path).exists():
            remove(path)()
        os.symlink(target, path)

    return arrange


def folder(path: str) -> Arrange:
    """Put an empty folder in the place of what is there."""

    def arrange() -> None:
        if Path(path).exists():
            remove(path)()
        Path(path).mkdir(parents=True)

    return arrange


def fifo(path: str) -> Arrange:
    """Put a pipe in the place of what is there."""

    def arrange() -> None:
        if Path(path).exists():
            remove(path)()
        os.mkfifo(path)

    return arrange


def copy(source: str, target: str) -> Arrange:
    """Copy a file or folder."""

    def arrange() -> None:
        if Path(source).is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)

    return arrange
