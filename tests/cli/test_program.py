"""The program: commands found, exit codes, one line for every kind of failure, and quick help."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trivium.base.errors import DataError, Interrupted, StageFailed
from trivium.cli import main
from trivium.cli.failures import report
from trivium.cli.invocation import Invocation
from trivium.cli.program import COMMANDS


def call(*arguments: str) -> int:
    return main(list(arguments))


def failure(error: BaseException, capsys: pytest.CaptureFixture[str], **details: object) -> tuple[int, str]:
    invocation = Invocation("run", ["mine.toml", "--force", "--name", "a b"], resumable=True)
    for name, value in details.items():
        setattr(invocation, name, value)
    code = report(error, invocation)
    text = capsys.readouterr().err
    assert text.startswith("trivium: ") and text.count("\n") == 1
    return code, text.removeprefix("trivium: ").strip()


@pytest.mark.parametrize("argument", ["--help", "-h", "help"])
def test_help_lists_all_commands(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(argument) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)


def test_no_arguments_show_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: trivium COMMAND")


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("pretrian") == 2
    assert capsys.readouterr().err == "trivium: there is no command 'pretrian'. Did you mean `trivium pretrain`?\n"
    assert call("xyzzy") == 2
    assert "`trivium --help` lists the commands" in capsys.readouterr().err


@pytest.mark.parametrize("command", [name for name, command in COMMANDS.items() if "stages:" not in command.target])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(command, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: trivium {command}")


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom trivium.cli import main\nassert main(['--help']) == 0\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'pydantic', 'rich', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    # Processor time, since other programs may keep the clock running.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_user_errors_are_one_line_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = failure(DataError("a.jsonl:3: prompt is missing.\nAdd it."), capsys)
    assert (code, text) == (2, "a.jsonl:3: prompt is missing. Add it.")


def test_failed_stages_have_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert failure(StageFailed("pretrain: the loss is nan."), capsys) == (1, "pretrain: the loss is nan.")


def test_interruption_names_the_command_that_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    resume = "Go on with: trivium run mine.toml --name 'a b'"  # --force would begin again
    assert failure(KeyboardInterrupt(), capsys) == (130, f"interrupted. {resume}")
    assert failure(Interrupted("sft stopped after step 3."), capsys) == (130, f"sft stopped after step 3. {resume}")
    assert failure(KeyboardInterrupt(), capsys, resumable=False) == (130, "interrupted.")


def test_disk_and_permission_errors(capsys: pytest.CaptureFixture[str]) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/checkpoints/3")
    code, text = failure(full, capsys)
    assert code == 1 and text.startswith("runs/a/checkpoints/3: no space is left on the disk.")
    assert text.endswith("Free some space, then go on with: trivium run mine.toml --name 'a b'")
    code, text = failure(PermissionError(errno.EACCES, "Permission denied", "runs"), capsys)
    assert (code, text) == (1, "runs: Permission denied. Check the permissions, or choose another place.")


def test_memory(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = failure(MemoryError(), capsys)
    assert code == 1 and text.startswith("out of memory.")


def test_bugs_leave_their_traceback_in_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        {}["lost"]
    except KeyError as error:
        code, text = failure(error, capsys, directory=tmp_path)
    (file,) = tmp_path.glob("trivium-crash-*.txt")
    assert (
        code == 1
        and text == f"this is a bug in Trivium: KeyError: 'lost'. The traceback is in {file}; please report it."
    )
    content = file.read_text()
    assert content.startswith("trivium run mine.toml") and "test_bugs_leave_their_traceback" in content


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRIVIUM_DEBUG", "1")
    assert report(DataError("bad."), Invocation("run", [])) == 2
    text = capsys.readouterr().err
    assert "DataError: bad." in text and text.endswith("trivium: bad.\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_termination_and_ctrl_c_stop_alike(tmp_path: Path, number: signal.Signals) -> None:
    """Wherever the program is: a plain KeyboardInterrupt in `exec` of a text would have Python die of SIGINT."""
    (tmp_path / "start.py").write_text(
        "import signal, sys\nfrom trivium.cli import program\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "program.COMMANDS['wait'] = program.Command('waiting:run', '')\nsys.exit(program.main(['wait', '--n', '1']))\n"
    )
    (tmp_path / "waiting.py").write_text(
        "def run(invocation):\n    invocation.resumable = True\n"
        "    exec('import time; print(\"on\", flush=True); time.sleep(60)')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-m", "start"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == "trivium: interrupted. Go on with: trivium wait --n 1\n"


def test_a_reader_that_leaves_early(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom trivium.cli import program\nprogram.COMMANDS['talk'] = program.Command('talking:run', '')\n"
        "sys.exit(program.main(['talk']))\n"
    )
    (tmp_path / "talking.py").write_text("def run(invocation):\n    while True:\n        print('x' * 100)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=20) == 1 and process.stderr.read() == b""


def test_works_outside_the_main_thread() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(call("convert")))
    thread.start()
    thread.join()
    assert codes == [2]
