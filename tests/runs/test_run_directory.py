"""Paths of a run, and its lock."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trivium.base.errors import RunDirError
from trivium.runs import RunDir

HOLD = """
import sys, time
from trivium.runs import RunDir
with RunDir(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_paths(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "quick")
    stage = run.stage("pretrain")
    assert run.name == "quick"
    assert run.artifact("M0") == tmp_path / "quick" / "M0"
    assert stage.metrics_path == tmp_path / "quick" / "pretrain" / "metrics.jsonl"
    assert not run.path.exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../other", "/etc", "a/b", ".lock", "a\n"])
def test_names_cannot_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunDirError):
        RunDir(tmp_path).stage(name)


def test_second_process_is_refused_and_a_killed_one_releases(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "quick")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(RunDirError, match=f"in use by process {holder.pid}"), run.lock():
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with run.lock():
        pass
    with run.lock():  # released on leaving
        pass


def test_the_lock_is_released_by_an_error(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "quick")
    with pytest.raises(KeyError), run.lock():
        raise KeyError
    with run.lock(), pytest.raises(RunDirError, match=f"process {os.getpid()}"), run.lock():
        pass


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "quick").write_text("")
    with pytest.raises(RunDirError, match="cannot write to the run directory"), RunDir(tmp_path / "quick").lock():
        pass
