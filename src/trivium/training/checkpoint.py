"""Checkpoints: safetensors and JSON in a directory that appears whole, checksummed, or not at all."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trivium.base.errors import RunDirError
from trivium.base.files import save_tensors, sync_directory


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on."""

    step: int
    """Steps done."""
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    """JSON-able: controllers, best scores, cursors."""


class Checkpointer:
    """Checkpoints of one stage under `<stage>/checkpoints/step-<n>/`; the newest `keep` stay."""

    def __init__(self, folder: Path, keep: int = 1):
        self.folder, self.keep = folder, keep

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
        """Write a checkpoint beside the others, then make it visible by one rename."""
        final = self.folder / f"step-{step:08d}"
        draft = self.folder / f".step-{step:08d}.tmp"
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir(parents=True)
            owned = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
            save_tensors(owned, draft / "tensors.safetensors")
            digest = _digest(draft / "tensors.safetensors")
            (draft / "state.json").write_text(json.dumps({"step": step, "tensors": digest, "state": state}))
            for name in ("tensors.safetensors", "state.json"):
                with open(draft / name, "rb") as file:
                    os.fsync(file.fileno())
            sync_directory(draft)
            if final.exists():
                shutil.rmtree(final)
            os.rename(draft, final)
        except (OSError, SafetensorError):
            shutil.rmtree(draft, ignore_errors=True)
            raise
        sync_directory(self.folder)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder / f"step-{old:08d}")
        return final

    def steps(self) -> list[int]:
        """Steps of the checkpoints present, ascending."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob(f"step-{'[0-9]' * 8}"))

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint, or None.

        Raises:
            RunDirError: it is damaged.
        """
        steps = self.steps()
        if not steps:
            return None
        path = self.folder / f"step-{steps[-1]:08d}"
        try:
            header = json.loads((path / "state.json").read_text())
            if header["tensors"] != _digest(path / "tensors.safetensors"):
                raise ValueError("the checksum of tensors.safetensors does not match")
            checkpoint = Checkpoint(int(header["step"]), load_file(path / "tensors.safetensors"), header["state"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise RunDirError(
                f"checkpoint {path} is damaged ({error}). Delete it to go on from the one before, or from the start."
            ) from error
        return checkpoint

    def clear(self) -> None:
        """Remove all checkpoints: the stage is done and its artefact holds the weights."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack(**groups: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name tensors by group: pack(policy={"w": t}) -> {"policy:w": t}."""
    return {f"{group}:{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def unpack(tensors: dict[str, Tensor], group: str) -> dict[str, Tensor]:
    """The tensors of one group, under their own names."""
    return {name.removeprefix(f"{group}:"): t for name, t in tensors.items() if name.startswith(f"{group}:")}


def load_weights(module: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put checkpointed parameters back in place."""
    module.load_state_dict(tensors)
