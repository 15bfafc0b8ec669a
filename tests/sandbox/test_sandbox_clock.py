"""Times are stretched by what the machine is slow at, and by nothing else."""

import os
import subprocess
import sys
import time

import pytest

from trivium.sandbox.jail import clock, lockdown, syscalls


def test_slowness_is_bounded() -> None:
    assert 1.0 <= clock.slowness() <= clock.MOST_STRETCH


def test_stretched_request_changes_times_alone() -> None:
    request = lockdown.Request(1.0, 0.5, 1 << 28, 1 << 20, 64, 8)
    assert lockdown.Request.unpack(request.stretched(2.0).pack()) == lockdown.Request(2.0, 1.0, 1 << 28, 1 << 20, 64, 8)


def test_unknown_process_table_is_silent() -> None:
    table = clock.ProcessTable(None)
    assert table.delay(os.getpid()) == 0.0 and table.threads(os.getpid()) == 0


@pytest.mark.skipif(not syscalls.SUPPORTED, reason="reads /proc")
def test_process_table_counts_threads_and_waiting() -> None:
    """A sleeping process waits for no processor; one of several busy ones on a single processor does."""
    descriptor = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    processor = {min(os.sched_getaffinity(0))}
    codes = ["while True: pass"] * 3 + ["import time; time.sleep(60)"]
    children = [subprocess.Popen([sys.executable, "-I", "-S", "-c", code]) for code in codes]
    try:
        table = clock.ProcessTable(descriptor)
        for child in children:
            os.sched_setaffinity(child.pid, processor)
        waited = [table.delay(child.pid) for child in children]
        time.sleep(0.6)
        busy, sleeping = (table.delay(children[i].pid) - waited[i] for i in (0, 3))
        assert table.threads(children[0].pid) == 1
        assert busy > 0.1 and sleeping < busy
    finally:
        os.close(descriptor)
        for child in children:
            child.kill()
            child.wait()
