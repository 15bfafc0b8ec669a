import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from trivium.base.errors import RunDirError, StageFailed
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
    checkpointer.wait()
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
    checkpointer.wait()
    assert checkpointer.steps() == [2, 10, 100][-keep:]
    checkpoint = checkpointer.latest()
    assert checkpoint is not None and checkpoint.step == 100
    checkpointer.clear()
    assert checkpointer.latest() is None and not tmp_path.exists()


def save(checkpointer: Checkpointer, step: int, state: dict[str, object] | None = None) -> Path:
    checkpointer.save(step, TENSORS, state or {})
    checkpointer.wait()
    return checkpointer.folder / f"step-{step:08d}"


def test_what_is_saved_is_as_it_was_at_the_call(tmp_path: Path) -> None:
    """The thread writes a copy: the training goes on in the meantime, and may change everything."""
    checkpointer = Checkpointer(tmp_path)
    weights, state = torch.zeros(2_000_000), {"seen": [1]}
    checkpointer.save(1, {"w": weights}, state)
    weights.fill_(1)
    state["seen"].append(2)
    checkpointer.wait()
    checkpoint = checkpointer.latest()
    assert checkpoint is not None and checkpoint.state == {"seen": [1]} and not checkpoint.tensors["w"].any()


def flip(path: Path) -> None:
    data = bytearray((path / "tensors.safetensors").read_bytes())
    data[-100] ^= 1
    (path / "tensors.safetensors").write_bytes(data)


def rewrite(path: Path, change: Callable[[dict], object]) -> None:
    header = json.loads((path / "state.json").read_text())
    change(header)
    (path / "state.json").write_text(json.dumps(header))


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
    "state without state": lambda path: rewrite(path, lambda header: header.pop("state")),
    "another number in the state": lambda path: rewrite(path, lambda header: header["state"].update(a=2)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_and_the_run_goes_on_from_the_checkpoint_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    checkpointer = Checkpointer(tmp_path)
    save(checkpointer, 1, {"a": 0})
    path = save(checkpointer, 2, {"a": 1})
    DAMAGE[damage](path)
    checkpoint = checkpointer.latest()
    assert checkpoint is not None and (checkpoint.step, checkpoint.state) == (1, {"a": 0})
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line and "is damaged" in line and "kept as damaged-step-00000002" in line
    assert (tmp_path / "damaged-step-00000002").is_dir() and checkpointer.steps() == [1]
    save(checkpointer, 2)
    assert checkpointer.steps() == [1, 2]


@pytest.mark.parametrize("damage", DAMAGE)
def test_where_all_are_damaged_the_stage_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    checkpointer = Checkpointer(tmp_path)
    paths = [save(checkpointer, step, {"a": 1}) for step in (1, 2)]
    for path in paths:
        DAMAGE[damage](path)
    for _ in range(2):  # nothing is set aside, so that it cannot start anew in silence
        with pytest.raises(RunDirError, match="is damaged .*Delete") as caught:
            checkpointer.latest()
        assert str(paths[1]) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("bytes_left", "file"), [(10_000, "tensors.safetensors"), (25_000, "state.json")])
def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path, bytes_left: int, file: str) -> None:
    """An OSError with its number is what the command line answers in one line; the older checkpoint is whole."""
    checkpointer = Checkpointer(tmp_path)
    save(checkpointer, 1, {"a": 1})
    with full_disk(bytes_left), pytest.raises(OSError) as caught:
        save(checkpointer, 2, {"long": "x" * 30_000})
    assert caught.value.errno is not None and caught.value.strerror
    assert file == "state.json" or file in str(caught.value.filename)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    checkpoint = checkpointer.latest()
    assert checkpoint is not None and checkpoint.state == {"a": 1}
    save(checkpointer, 2)  # there is room again
    assert checkpointer.steps() == [1, 2]


@pytest.mark.parametrize("tell", ["save", "wait", "exit", "check"])
def test_a_failed_write_is_told_once_by_whatever_comes_next(tmp_path: Path, tell: str) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    checkpointer = Checkpointer(tmp_path / "checkpoints")
    checkpointer.save(1, TENSORS, {})
    assert checkpointer.newest() is None  # and so the write has ended
    with pytest.raises(OSError):
        if tell == "save":
            checkpointer.save(2, TENSORS, {})
        elif tell == "exit":
            with checkpointer:
                pass
        else:
            getattr(checkpointer, tell)()
    checkpointer.check()


def test_broken_weights_are_not_kept(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    save(checkpointer, 1)
    checkpointer.save(2, TENSORS | {"model:b": torch.tensor([1.0, float("nan")])}, {})
    with pytest.raises(StageFailed, match="after step 2 model:b holds NaN"):
        checkpointer.wait()
    assert checkpointer.steps() == [1]


def test_a_draft_left_by_a_killed_process_is_no_checkpoint(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    save(checkpointer, 1)
    draft = tmp_path / ".step-00000002.tmp"
    draft.mkdir()
    (draft / "tensors.safetensors").write_bytes(b"half")
    assert checkpointer.steps() == [1]
    checkpoint = checkpointer.latest()
    assert checkpoint is not None and checkpoint.step == 1 and not draft.exists()


def test_groups_are_kept_apart() -> None:
    first, second = torch.tensor([1.0]), torch.tensor([2.0])
    packed = pack(policy={"w": first}, critic={"w": second})
    assert unpack(packed, "policy") == {"w": first} and unpack(packed, "critic") == {"w": second}
    assert unpack(packed, "other") == {}
    module = torch.nn.Linear(1, 1, bias=False)
    load_weights(module, {"weight": second[None]})
    assert module.weight.item() == 2.0
