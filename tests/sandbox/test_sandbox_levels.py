"""Levels are proved: what a machine lacks is simulated by a filter that refuses the calls, or by another user."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from hostile_programs import CORPUS, Attack
from sandbox_host import FAST, Host

from trivium.sandbox import remedies
from trivium.sandbox.jail import landlock, syscalls

pytestmark = pytest.mark.skipif(not syscalls.SUPPORTED, reason="Linux on x86-64 or aarch64 only")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
needs_landlock = pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no Landlock")
SOURCE = str(Path(__file__).parents[2] / "src")
GOOD = ["import os\ndef f(x): return x + 1", ["assert f(1) == 2"], asdict(FAST)]
NO_NAMESPACES = ["unshare"]
NO_LANDLOCK = ["unshare", "landlock_create_ruleset"]
LAYERED = [attack for attack in CORPUS if attack.row not in ("time", "crashes", "output")]
"""What the layers stop; the rest is stopped by the worker, whatever its level."""
ATTACKED = ["assert attack() == 'refused', str(attack())"]
STRANGER = 54321


def other_interpreter() -> str | None:
    """An interpreter that any user can run; ours may lie in root's home."""
    for name in (sys.executable, shutil.which("python3.11"), "/usr/bin/python3.11", "/usr/bin/python3"):
        if name is None or not os.path.exists(name):
            continue
        check = [name, "-c", "import sys; assert sys.version_info >= (3, 11)"]
        with contextlib.suppress(PermissionError, subprocess.CalledProcessError):
            subprocess.run(check, user=STRANGER, group=STRANGER, extra_groups=[], cwd="/", check=True)
            return name
    return None


def start(interpreter: str = sys.executable, **order: object) -> dict:
    child = Path(__file__).parent / "sandbox_child.py"
    done = subprocess.run(
        [interpreter, str(child), json.dumps({"jobs": [GOOD], **order})],
        env={"PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def contained(
    host: Host, level: str, interpreter: str = sys.executable, corpus: list[Attack] = CORPUS, **order: object
) -> dict:
    """What a sandbox of this level in another process found; it contained the corpus and harmed nothing."""
    jobs = [GOOD]
    for attack in corpus:
        jobs += [[host.fill(attack.program), ATTACKED, asdict(attack.limits)], GOOD]
    found = start(interpreter, jobs=jobs, **order)
    assert found["level"] == level, found
    verdicts = dict(zip([attack.name for attack in corpus], found["verdicts"][1::2], strict=True))
    wrong = {
        attack.name: (verdicts[attack.name], found["tests"][2 * i + 1])
        for i, attack in enumerate(corpus)
        if verdicts[attack.name] not in attack.verdicts
    }
    assert not wrong and set(found["verdicts"][::2]) == {"passed"}, wrong
    host.check()
    return found


@needs_landlock
def test_without_namespaces_it_is_isolated_and_contains_the_corpus(host: Host) -> None:
    found = contained(host, "isolated", corpus=LAYERED, denied=NO_NAMESPACES)
    assert any("namespaces: unshare" in finding and "Start the container" in finding for finding in found["why"])


@needs_root
def test_without_landlock_it_is_jailed_and_contains_the_corpus(host: Host) -> None:
    found = contained(host, "jailed", corpus=LAYERED, denied=["landlock_create_ruleset"])
    assert any(finding.startswith("Landlock: missing. Use Linux 5.13") for finding in found["why"])


def test_without_namespaces_and_landlock_it_refuses_and_says_why() -> None:
    error = start(denied=NO_LANDLOCK)["error"]
    assert (
        "'isolated'" in error and "namespaces: " in error and "Landlock: " in error and "minimum = 'limited'" in error
    )


def test_limited_must_be_asked_for_and_is_recorded() -> None:
    found = start(denied=NO_LANDLOCK, minimum="limited")
    assert found["level"] == "limited" and found["verdicts"] == ["passed"]
    assert any("a program could read a file" in finding for finding in found["why"])


needs_x86_64 = pytest.mark.skipif(syscalls.MACHINE != syscalls.X86_64, reason="Linux lets it seem to be an i686")


@needs_x86_64
def test_unknown_machine_is_limited_and_says_so() -> None:
    """The way of macOS and of processors without a table: no filter, no namespaces, resource limits alone."""
    error = start(unknown=True)["error"]
    assert "seccomp" in error or "Landlock" in error
    loop, sleep, greedy = "while True: pass", "import time\ntime.sleep(60)", "x = [0] * 10**9"
    short = {**asdict(FAST), "wall_seconds": 2.5}
    jobs = [GOOD, [loop, ["pass"], short], [sleep, ["pass"], short], [greedy, ["pass"], short], GOOD]
    found = start(unknown=True, minimum="limited", jobs=jobs)
    assert found["level"] == "limited"
    assert found["verdicts"] == ["passed", "timeout", "timeout", "memory", "passed"]
    assert any("read a file" in finding and "start a process" in finding for finding in found["why"])
    assert any("no system call" in finding for finding in found["why"])
    abouts = [finding.split(":")[0] for finding in found["why"]]
    assert len(abouts) == len(set(abouts)), "one finding on each thing"


def test_doctor_tells_level_reason_and_remedy() -> None:
    code = (
        "import sys\nfrom trivium.sandbox.jail import seccomp, syscalls\n"
        "syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)\n"
        f"seccomp.install(seccomp.assemble(seccomp.deny_filter({NO_LANDLOCK!r})))\n"
        "from trivium.cli.program import main\nsys.exit(main(['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": SOURCE}, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if " sandbox" in line[:17]]
    assert lines[0].startswith("warning  sandbox: level limited: ") and "not safe" in lines[0]
    assert any("sandbox, namespaces: unshare: " in line and line.startswith("warning") for line in lines)
    assert any("sandbox, Landlock: " in line and "lsm=" in line for line in lines)
    assert any("sandbox, probe: a program could " in line and line.startswith("warning") for line in lines)
    assert not done.stderr


@pytest.mark.parametrize(
    ("switches", "advice"),
    [
        ({"kernel/unprivileged_userns_clone": "0\n"}, "kernel.unprivileged_userns_clone=1"),
        ({"kernel/apparmor_restrict_unprivileged_userns": "1\n"}, "apparmor_restrict_unprivileged_userns=0"),
        ({"kernel/unprivileged_userns_clone": "1\n", "user/max_user_namespaces": "0\n"}, "max_user_namespaces=10000"),
    ],
)
def test_remedy_names_the_switch_that_forbids(switches: dict[str, str], advice: str, tmp_path: Path) -> None:
    for name, value in switches.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(value)
    assert remedies._namespaces(tmp_path).endswith(advice)


def test_minimum_jailed_is_not_weakened() -> None:
    assert "'jailed'" in start(denied=NO_NAMESPACES, minimum="jailed")["error"]


def test_without_seccomp_it_refuses() -> None:
    """A filter that refuses further filters stands for a kernel without them."""
    assert "seccomp: " in start(denied=["seccomp"])["error"]


@pytest.mark.slow
@needs_root
@needs_landlock
@pytest.mark.parametrize("denied", [[], NO_NAMESPACES], ids=["jailed", "isolated"])
def test_as_an_ordinary_user_it_contains_the_corpus(denied: list[str], host: Host) -> None:
    interpreter = other_interpreter()
    if interpreter is None:
        pytest.skip("no interpreter that another user can run")
    best = start(interpreter, user=STRANGER, denied=denied)["level"]
    assert best == "isolated" or not denied
    contained(host, best, interpreter, user=STRANGER, denied=denied)


@needs_root
def test_without_capabilities_it_does_not_claim_more_than_it_proves() -> None:
    """As in a container of root without CAP_SYS_ADMIN: mounts are refused although unshare is not."""
    found = start(denied=["mount"])
    assert found["level"] == "isolated" and any("a root of its own" in finding for finding in found["why"])
