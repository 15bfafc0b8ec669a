import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from trivium.base.errors import RunDirError
from trivium.training.checkpoint import Checkpointer, load_weights, pack, unpack

TENSORS = {"model:w": torch.arange(5000.0), "optimizer:w/step": torch.tensor(3.0), "hook:flags": torch.tensor([True])}


@contextmanager
def full_disk(bytes_left: int) -> Iterator[None]:
    """No file may grow beyond `bytes_left`: writes fail as they do on a full disk, with another error number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path / "checkpoints")
    assert checkpointer.latest() is None and checkpointer.steps() == []
    column = torch.arange(12.0).view(3, 4).t()  # not contiguous
    shared = {"a": column, "b": column}  # two names for one storage
    checkpointer.save(7, shared | TENSORS, {"best": 0.5, "cursor": [1, 2]})
    checkpoint = checkpointer.latest()
    assert checkpoint is not None and (checkpoint.step, checkpoint.state) == (7, {"best": 0.5, "cursor": [1, 2]})
    assert set(checkpoint.tensors) == {"a", "b", *TENSORS}
    for name, tensor in (shared | TENSORS).items():
        assert torch.equal(checkpoint.tensors[name], tensor) and checkpoint.tensors[name].dtype == tensor.dtype


@pytest.mark.parametrize("keep", [1, 2])
def test_only_the_newest_stay(tmp_path: Path, keep: int) -> None:
    checkpointer = Checkpointer(tmp_path, keep=keep)
    for step in (2, 10, 100):
        checkpointer.save(step, TENSORS, {})
    assert checkpointer.steps() == [2, 10, 100][-keep:]
    checkpoint = checkpointer.latest()
    assert checkpoint is not None and checkpoint.step == 100
    checkpointer.clear()
    assert checkpointer.latest() is None and not tmp_path.exists()


def flip(path: Path) -> None:
    data = bytearray((path / "tensors.safetensors").read_bytes())
    data[-100] ^= 1
    (path / "tensors.safetensors").write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip,
    "cut off": lambda path: (path / "tensors.safetensors").write_bytes(
        (path / "tensors.safetensors").read_bytes()[:-1]
    ),
    "no tensors": lambda path: (path / "tensors.safetensors").unlink(),
    "no state": lambda path: (path / "state.json").unlink(),
    "empty state": lambda path: (path / "state.json").write_text(""),
    "half a state": lambda path: (path / "state.json").write_text((path / "state.json").read_text()[:-3]),
    "another state": lambda path: (path / "state.json").write_text("[1, 2]"),
    "state without state": lambda path: (path / "state.json").write_text(
        json.dumps({"step": 1, "tensors": json.loads((path / "state.json").read_text())["tensors"]})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_in_one_line(tmp_path: Path, damage: str) -> None:
    checkpointer = Checkpointer(tmp_path)
    path = checkpointer.save(1, TENSORS, {"a": 1})
    DAMAGE[damage](path)
    with pytest.raises(RunDirError, match="is damaged .*Delete it") as caught:
        checkpointer.latest()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("bytes_left", "file"), [(10_000, "tensors.safetensors"), (25_000, "state.json")])
def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path, bytes_left: int, file: str) -> None:
    """An OSError with its number is what the command line answers in one line; the older checkpoint is whole."""
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, TENSORS, {"a": 1})
    with full_disk(bytes_left), pytest.raises(OSError) as caught:
        checkpointer.save(2, TENSORS, {"long": "x" * 30_000})
    assert caught.value.errno is not None and caught.value.strerror
    assert file == "state.json" or file in str(caught.value.filename)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    checkpoint = checkpointer.latest()
    assert checkpoint is not None and checkpoint.state == {"a": 1}
    checkpointer.save(2, TENSORS, {})  # there is room again
    assert checkpointer.steps() == [2]


def test_a_draft_left_by_a_killed_process_is_no_checkpoint(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, TENSORS, {})
    draft = tmp_path / ".step-00000002.tmp"
    draft.mkdir()
    (draft / "tensors.safetensors").write_bytes(b"half")
    assert checkpointer.steps() == [1]
    checkpointer.save(2, TENSORS, {})
    assert checkpointer.steps() == [2] and not draft.exists()


def test_groups_are_kept_apart() -> None:
    first, second = torch.tensor([1.0]), torch.tensor([2.0])
    packed = pack(policy={"w": first}, critic={"w": second})
    assert unpack(packed, "policy") == {"w": first} and unpack(packed, "critic") == {"w": second}
    assert unpack(packed, "other") == {}
    module = torch.nn.Linear(1, 1, bias=False)
    load_weights(module, {"weight": second[None]})
    assert module.weight.item() == 2.0
