"""Runs that fail although their input was taken: one line, exit code 1, a sound directory, and the way on from it."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bench import STOPPED, make_world

from trivium.cli import main

ROOT = Path(__file__).resolve().parents[2]
STEPS = ["--pretrain.steps", "4", "--pretrain.checkpoint_every", "1"]
PRETRAIN = ["pretrain", "mine.toml", *STEPS]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with its files, tokenizer and shards."""
    make_world(tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    assert main(["tokenizer", "mine.toml"]) == main(["data", "mine.toml"]) == 0
    return tmp_path / "world"


def told(errors: str) -> str:
    """The one line of a failed command."""
    assert "Traceback" not in errors and "bug in Trivium" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("trivium: ")]
    return line.removeprefix("trivium: ")


def manifest(run: str = "mine") -> dict:
    return json.loads(Path(f"runs/{run}/pretrain/manifest.json").read_text())


def files(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def weights(run: str = "mine") -> bytes:
    return Path(f"runs/{run}/M0/model.safetensors").read_bytes()


def uninterrupted() -> bytes:
    """M0 of a run that nothing happened to."""
    shutil.copytree("runs/mine/tokenizer", "runs/whole/tokenizer")
    shutil.copytree("runs/mine/data", "runs/whole/data")
    assert main([*PRETRAIN, "--name", "whole"]) == 0
    return weights("whole")


def test_a_loss_that_is_nan(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pretrain", *STOPPED.split(), "--name", "mine"]
    for _ in range(2):  # the same command goes on from the checkpoint, and fails at the same step
        assert main(command) == 1
        line = told(capsys.readouterr().err)
        assert "at step 2" in line or "at update 2" in line
        assert "Lower the learning rate or mend this data" in line
        assert manifest()["status"] == "failed" and not Path("runs/mine/M0").exists()
        assert files("runs/mine/pretrain/checkpoints") == ["step-00000001"]
    assert main(PRETRAIN) == 2  # what was trained is not thrown away unasked
    assert "config.optim.lr: 1e+30 → 0.003" in told(capsys.readouterr().err)
    assert main([*PRETRAIN, "--force"]) == 0
    assert weights() == uninterrupted()


LIMITED = """
import resource, sys
from trivium.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


def limited(size: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process that cannot write files larger than `size` bytes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", LIMITED, str(size), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_checkpoint_that_cannot_be_written(world: Path) -> None:
    done = limited(100_000, *PRETRAIN)  # a checkpoint of this model is larger
    line = told(done.stderr)
    assert done.returncode == 1 and "the limit on the size of files is reached" in line
    assert line.endswith(f"go on with: trivium {' '.join(PRETRAIN)}")
    assert manifest()["status"] == "failed"
    assert files("runs/mine/pretrain/checkpoints") == [] and not Path("runs/mine/M0").exists()
    assert main(PRETRAIN) == 0
    assert manifest()["status"] == "done" and manifest()["resumes"] == 1
    assert weights() == uninterrupted()


ON_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size=$2k tmpfs "$1"
cp -r mine.toml corpus answers.jsonl preferences.jsonl tasks.jsonl runs "$1"
cd "$1"
shift 2
if "$@"; then exit 9; else code=$?; fi
ls -A runs/mine/pretrain/checkpoints
test $code = 1
mount -o remount,size=64m tmpfs .
"$@"
cat runs/mine/M0/model.safetensors > "$RESULT"
"""


def test_a_full_disk(world: Path, tmp_path: Path) -> None:
    """A disk of less than is needed for the second checkpoint, then one that suffices."""
    inside = ["unshare", "--user", "--map-root-user", "--mount"] if os.geteuid() else ["unshare", "--mount"]
    (tmp_path / "disk").mkdir()
    probe = [*inside, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "disk")]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    size = sum(path.stat().st_size // 4096 * 4 + 4 for path in world.rglob("*")) + 220
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "RESULT": str(tmp_path / "M0")}
    command = [sys.executable, "-m", "trivium", *PRETRAIN]
    script = [*inside, "bash", "-c", ON_A_SMALL_DISK, "bash", str(tmp_path / "disk"), str(size), *command]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    line = told(done.stderr)
    assert done.returncode == 0, done.stderr
    assert "no space is left on the disk. What was written before is whole." in line
    assert line.endswith(f"go on with: trivium {' '.join(PRETRAIN)}")
    assert ".tmp" not in done.stdout
    assert (tmp_path / "M0").read_bytes() == uninterrupted()


@pytest.mark.skipif(sys.platform != "linux", reason="memory can only be limited on Linux")
def test_memory_that_does_not_suffice(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29), before[1]))
    try:
        code = main([*PRETRAIN, "--model.d_model", "2048"])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert code == 1 and told(capsys.readouterr().err).startswith("out of memory. Lower the batch sizes")
    assert manifest()["status"] == "failed"
    assert main(PRETRAIN) == 0  # nothing was achieved, so other settings are no loss
