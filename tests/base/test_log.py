"""Progress: plain lines are few, carry rate and time left, and load no terminal library."""

import os
import pty
import subprocess
import sys
import time

import pytest

from trivium.base.log import Progress, format_duration, format_number


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (60, "1m 00s"), (125, "2m 05s"), (3840, "1h 04m"), (-3, "0s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (0.351234, "0.3512"),
        (1.2e-5, "1.2e-05"),
        (14321.0, "14.32k"),
        (2_500_000, "2.5M"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (True, "True"),
        ("Muon", "Muon"),
    ],
)
def test_numbers(value: object, text: str) -> None:
    assert format_number(value) == text


def test_plain_progress_is_one_line_for_a_short_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pretrain", 100, "step") as progress:
        for step in range(100):
            progress.update(step + 1, loss=2.5)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("pretrain  step 100/100  ")
    assert output.err.endswith("loss 2.5\n") and output.err.count("\n") == 1


def test_rate_and_time_left_ignore_what_an_earlier_run_did() -> None:
    progress = Progress("sft", 300, "step", start=100)
    progress._began = time.monotonic() - 10.0
    progress.done = 200
    assert "step 200/300" in progress.line()
    assert "10 steps/s" in progress.line()
    assert "10s left" in progress.line()


def test_slow_units_show_seconds_per_unit() -> None:
    progress = Progress("rl", 10, "iteration")
    progress._began = time.monotonic() - 30.0
    progress.done = 5
    assert "6.0 s/iteration" in progress.line() and "30s left" in progress.line()


def test_unknown_total_has_no_time_left() -> None:
    progress = Progress("data", None, "document")
    progress.done = 7
    assert progress.line().startswith("data  document 7  ") and "left" not in progress.line()


def test_plain_progress_does_not_load_rich() -> None:
    code = (
        "import sys\nfrom trivium.base.log import Progress, say, warn\nsay('x')\nwarn('y')\n"
        "with Progress('a', 1) as p: p.update(1)\nassert 'rich' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.startswith("x\nwarning: y\na  step 1/1")


def test_a_terminal_gets_a_live_line_and_a_last_one() -> None:
    code = (
        "from trivium.base.log import Progress, say\n"
        "with Progress('sft', 2) as p:\n p.update(1)\n say('hello')\n p.update(2, loss=1.0)"
    )
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=child, stdout=child, env=environment)
    os.close(child)
    shown = b""
    while True:
        try:
            chunk = os.read(parent, 4096)
        except OSError:  # Linux reports the closed end so
            break
        if not chunk:
            break
        shown += chunk
    os.close(parent)
    assert process.wait() == 0
    text = shown.decode()
    assert "━" in text and "hello" in text
    assert "sft  step 2/2" in text.rstrip().splitlines()[-1]
