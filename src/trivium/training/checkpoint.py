"""Checkpoints: safetensors and JSON in a directory that appears whole, checksummed, or not at all.

A step only copies its tensors to the host's memory; a thread writes the copy while the next steps are computed.

Of tensors that are spread over several ranks each writes its own part, and a file that says so; rank 0 makes the
checkpoint visible once all are there. Reading puts the parts together, so any number of ranks may go on from it.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trivium.base.errors import RunDirError, StageFailed
from trivium.base.files import save_tensors, sync_directory, write_json
from trivium.base.log import warn
from trivium.base.ranks import barrier, is_main, is_spread, local, part_of, rank, world

TENSORS, STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on."""

    step: int
    """Steps done."""
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    """JSON-able: controllers, best scores, cursors."""


class Checkpointer:
    """Checkpoints of one stage under `<stage>/checkpoints/step-<n>/`; the newest `keep` stay.

    As a context manager it waits, on leaving, for the checkpoint that is being written.

    Args:
        keep: more than one lets a stage go on where the newest was damaged.
        beside: files, such as the metrics, that must be on the disk before a checkpoint that counts on them.
        together: whether all ranks save and read, each its part; rank 0 alone otherwise.
    """

    def __init__(self, folder: Path, keep: int = 2, beside: Sequence[Path] = (), together: bool = False):
        self.folder, self.keep, self.beside = folder, keep, beside
        self._world = world() if together else 1
        self._writer: Thread | None = None
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        elif self._writer is not None and not isinstance(error, KeyboardInterrupt):  # Ctrl-C, twice: leave at once
            self._writer.join()

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Copy what is given and have it written; waits for the checkpoint before, should that not be done.

        Raises:
            OSError: the checkpoint before could not be written, as on a full disk.
            StageFailed: it held NaN or infinity.
        """
        self.wait()
        own = {name: tensor for name, tensor in tensors.items() if is_main() or is_spread(tensor)}
        copies = {name: local(tensor.detach()).to("cpu", copy=True).contiguous() for name, tensor in own.items()}
        text = json.dumps(state)
        self._writer = Thread(target=self._attempt, args=(lambda: self._write(step, copies, text),), daemon=True)
        self._writer.start()

    def wait(self) -> None:
        """Until the last checkpoint is written; raises what went wrong."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        self.check()

    def check(self) -> None:
        """Raise what went wrong with a checkpoint so far, without waiting."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # told by the thread that trains
            self._failure = error

    def _write(self, step: int, tensors: dict[str, Tensor], state: str) -> None:
        """Write beside the others, then make it visible by one rename."""
        broken = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
        if broken is not None:
            raise StageFailed(f"after step {step} {broken} holds NaN or infinity; no checkpoint was made of it.")
        final, draft = self._path(step), self.folder / f".step-{step:08d}.tmp"
        if self._world == 1:
            shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir(parents=True, exist_ok=self._world > 1)
            own = draft / _file(rank(), self._world)
            save_tensors(tensors, own)
            _sync(own)
            digest = _digest(own)
            if not is_main():
                write_json(own.with_suffix(".json"), digest)
                return
            header = {"step": step, "tensors": self._parts(draft, digest), "state": json.loads(state)}
            (draft / STATE).write_text(json.dumps(header | {"sha256": _seal(header)}))
            for path in (draft / STATE, *self.beside):
                _sync(path)
            sync_directory(draft)
            self._remove(final)
            os.rename(draft, final)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        sync_directory(self.folder)
        for old in self.steps()[: -self.keep]:
            self._remove(self._path(old))

    def _parts(self, draft: Path, own: str) -> dict[str, str]:
        """Checksum of every rank's file, once they are all there."""
        digests = {_file(0, self._world): own}
        for other in range(1, self._world):
            told = (draft / _file(other, self._world)).with_suffix(".json")
            while not told.exists():  # a rank that died takes this one with it
                time.sleep(0.01)
            digests[_file(other, self._world)] = json.loads(told.read_text())
            told.unlink()
        return digests

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _remove(self, path: Path) -> None:
        """Delete a checkpoint; killed meanwhile, it is no checkpoint any more."""
        if path.exists():
            doomed = path.with_name(f".{path.name}.tmp")
            shutil.rmtree(doomed, ignore_errors=True)
            os.rename(path, doomed)
            shutil.rmtree(doomed)

    def steps(self) -> list[int]:
        """Steps of the checkpoints present, ascending."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob(f"step-{'[0-9]' * 8}"))

    def newest(self) -> Path | None:
        """Where the newest checkpoint is, once none is being written any more."""
        if self._writer is not None:
            self._writer.join()
        steps = self.steps()
        return self._path(steps[-1]) if steps else None

    def latest(self) -> Checkpoint | None:
        """The newest sound checkpoint, or None where there is none at all.

        Damaged ones that are newer are told, and set aside as `damaged-step-<n>`.

        Raises:
            RunDirError: there are checkpoints, and all are damaged.
        """
        if is_main():
            for draft in self.folder.glob(".*.tmp"):
                shutil.rmtree(draft)
        found = self._latest() if is_main() else None
        if self._world > 1:
            barrier()
            found = found if is_main() else self._latest()
            barrier()
        return found

    def _latest(self) -> Checkpoint | None:
        damaged: list[tuple[Path, Exception]] = []
        for step in reversed(self.steps()):
            path = self._path(step)
            try:
                checkpoint = _read(path)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                damaged.append((path, error))
                continue
            for bad, error in damaged:
                aside = bad.with_name(f"damaged-{bad.name}")
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(bad, aside)
                warn(f"checkpoint {bad} is damaged ({error}); it is kept as {aside.name}, step {step} goes on")
            return checkpoint
        if damaged:
            path, error = damaged[0]
            raise RunDirError(
                f"checkpoint {path} is damaged ({error}), and no sound one is left. "
                f"Delete {self.folder} to start this stage from its beginning."
            ) from error
        return None

    def clear(self) -> None:
        """Remove all checkpoints: the stage is done and its artefact holds the weights."""
        if is_main():
            shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path) -> Checkpoint:
    header = json.loads((path / STATE).read_text())
    if header.pop("sha256") != _seal(header):
        raise ValueError(f"the checksum of {STATE} does not match")
    parts: dict[str, list[Tensor]] = {}
    for name, digest in header["tensors"].items():
        if digest != _digest(path / name):
            raise ValueError(f"the checksum of {name} does not match")
        for key, tensor in load_file(path / name).items():
            parts.setdefault(key, []).append(tensor)
    tensors = {key: part[0] if len(part) == 1 else torch.cat(part) for key, part in parts.items()}
    return Checkpoint(int(header["step"]), tensors, header["state"])


def _seal(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _file(rank: int, world: int) -> str:
    """The file of a rank's tensors: parts along the first dimension where there are several."""
    return TENSORS if world == 1 else TENSORS.replace(".", f"-{rank:05d}-of-{world:05d}.")


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack(**groups: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name tensors by group: pack(policy={"w": t}) -> {"policy:w": t}."""
    return {f"{group}:{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def unpack(tensors: dict[str, Tensor], group: str) -> dict[str, Tensor]:
    """The tensors of one group, under their own names."""
    return {name.removeprefix(f"{group}:"): t for name, t in tensors.items() if name.startswith(f"{group}:")}


def trained_weights(module: torch.nn.Module) -> dict[str, Tensor]:
    """The parameters that train; those that are frozen are where they were read from."""
    state = module.state_dict(keep_vars=True)
    return {name: tensor.detach() for name, tensor in state.items() if tensor.requires_grad}


def load_weights(module: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put what `trained_weights` gave back in place, of a module that is spread this rank's share."""
    places = trained_weights(module)
    if places.keys() != tensors.keys():
        raise KeyError(f"the checkpoint holds other weights: {sorted(places.keys() ^ tensors.keys())[:3]}")
    with torch.no_grad():
        for name, place in places.items():
            local(place).copy_(part_of(tensors[name], place))
