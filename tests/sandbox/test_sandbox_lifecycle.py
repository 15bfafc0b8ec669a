"""Workers come and go; results stay, and nothing is left behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sandbox_host import FAST, descendants

from trivium.sandbox import Job, Limits, Sandbox, SandboxError, machine
from trivium.sandbox.jail import syscalls

pytestmark = pytest.mark.skipif(not syscalls.SUPPORTED, reason="looks into /proc")
ONE = Job("def f(): return 1", ["assert f() == 1"], entry_points=["f"])


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    """None of them is left alive within the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_closing_leaves_nothing() -> None:
    before = set(descendants(os.getpid()))
    descriptors = len(os.listdir("/proc/self/fd"))
    mounts = Path("/proc/self/mounts").read_text()
    with Sandbox(workers=2) as sandbox:
        sandbox.run_many([ONE] * 4)
        started = [pid for pid in descendants(os.getpid()) if pid not in before]
        assert started
    assert gone(started)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert Path("/proc/self/mounts").read_text() == mounts


def test_killed_worker_loses_no_result() -> None:
    """Whatever is killed while it runs, every job has its result and none is blamed on a program."""
    before = set(descendants(os.getpid()))
    with Sandbox(workers=2) as sandbox:
        stop = threading.Event()

        def kill_now_and_then() -> None:
            while not stop.wait(0.15):
                targets = [pid for pid in descendants(os.getpid()) if pid not in before]
                if targets:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(targets[0], signal.SIGKILL)

        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        try:
            results = sandbox.run_many([ONE] * 40)
        finally:
            stop.set()
            killer.join()
        verdicts = [result.verdict for result in results]
        assert len(verdicts) == 40 and set(verdicts) <= {"passed", "invalid"} and "passed" in verdicts
        assert sandbox.run_job(ONE).passed


def test_stopped_worker_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivium.sandbox.worker.GRACE_SECONDS", 0.1)
    before = set(descendants(os.getpid()))
    with Sandbox(workers=1) as sandbox:
        for pid in set(descendants(os.getpid())) - before:
            os.kill(pid, signal.SIGSTOP)
        job = Job(ONE.program, ONE.tests, limits=FAST)
        assert sandbox.run_job(job).passed


@pytest.mark.parametrize(
    ("program", "order"),
    [
        ("time.sleep(60)", {}),
        ("while True: pass", {}),
        ("time.sleep(60)", {"denied": ["unshare"]}),
        ("time.sleep(60)", {"unknown": True, "minimum": "limited"}),
    ],
    ids=["sleep", "loop", "isolated", "limited"],
)
def test_killed_host_leaves_no_survivors(program: str, order: dict) -> None:
    child = Path(__file__).parent / "sandbox_child.py"
    source = str(Path(__file__).parents[2] / "src")
    process = subprocess.Popen(
        [sys.executable, str(child), json.dumps({"wait": program, **order})],
        env={"PYTHONPATH": source},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    below = descendants(process.pid)
    assert len(below) >= 3  # worker, program, checker at least
    process.kill()
    process.wait()
    process.stdout.close()
    assert gone(below)


def test_canary_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    long_ago = (1.0, 1.0)
    left = tmp_path / "sandbox-probe-left"
    left.mkdir()
    (left / "canary").touch()
    os.utime(left, long_ago)
    with machine.targets() as living:
        os.utime(Path(living.canary).parent, long_ago)
        with machine.targets() as other:
            assert not left.exists()
            assert Path(living.canary).exists() and Path(other.canary).exists()
    assert not list(tmp_path.iterdir())


def test_fork_of_the_host_keeps_no_worker_alive() -> None:
    """A child of the host, as a data loader forks one, holds copies of the sockets; the workers end all the same."""
    code = (
        "import os, sys, time\nfrom trivium.sandbox import Sandbox\ns = Sandbox(workers=1)\n"
        "if os.fork() == 0:\n    time.sleep(30)\nprint('ready', flush=True)\ntime.sleep(30)"
    )
    source = str(Path(__file__).parents[2] / "src")
    process = subprocess.Popen([sys.executable, "-c", code], env={"PYTHONPATH": source}, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    below = descendants(process.pid)
    forked = [pid for pid in below if b"ready" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    workers = [pid for pid in below if pid not in forked]
    assert len(forked) == 1 and workers
    process.kill()
    process.wait()
    process.stdout.close()
    try:
        assert gone(workers)
    finally:
        os.kill(forked[0], signal.SIGKILL)


def test_failure_inside_the_block_waits_for_no_program() -> None:
    started = time.monotonic()
    job = Job("import time\ntime.sleep(60)", ["pass"], limits=Limits(wall_seconds=60))

    def run() -> None:
        with contextlib.suppress(SandboxError):
            sandbox.run_job(job)

    with pytest.raises(KeyError), Sandbox(workers=1) as sandbox:
        threading.Thread(target=run).start()
        time.sleep(0.5)
        raise KeyError
    assert time.monotonic() - started < 30


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "sandbox.py"


@pytest.mark.parametrize("programs", [200, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_soak_is_flat(programs: int, tmp_path: Path) -> None:
    """Good, wrong, broken, greedy and dying programs: no process, descriptor, mount, file or memory adds up."""
    # A temporary folder of its own: others' sandboxes begin and end beside it.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--soak", str(programs)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("processes left 0: flat\n")
