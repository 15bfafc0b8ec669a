"""The filters of both architectures, run by a small interpreter of classic BPF on the bytes that the kernel gets."""

import re
import struct
from pathlib import Path

import pytest

from trivium.sandbox.jail import seccomp
from trivium.sandbox.jail.seccomp import ALLOW, EPERM, ERRNO, KILL
from trivium.sandbox.jail.syscalls import AARCH64, TABLE, X86_64, number

REFUSED = ERRNO | EPERM
PID = 4321
HIGH = 1 << 32
CONDITIONAL = {"openat", "clone", "clone3", "ioctl", "fcntl", "socketpair", "sendto"}
LOAD, RETURN = 0x20, 0x06
TESTS = {0x15: lambda a, k: a == k, 0x35: lambda a, k: a >= k, 0x45: lambda a, k: bool(a & k)}
machines = pytest.mark.parametrize("machine", [X86_64, AARCH64])
both = pytest.mark.parametrize(("scratch", "write_opens"), [(True, True), (False, True), (False, False)])


class Filter:
    """An assembled filter; called with a system call, it returns the kernel's action."""

    def __init__(self, program: list[seccomp.Instruction], machine: str) -> None:
        code = seccomp.assemble(program)
        self.instructions = list(struct.iter_unpack("=HBBI", code))
        self.machine = machine

    def __call__(self, name: str | int, *arguments: int, arch: int | None = None) -> int:
        called = name if isinstance(name, int) else number(name, self.machine)
        assert called is not None
        words = [argument & 0xFFFFFFFFFFFFFFFF for argument in (*arguments, *[0] * (6 - len(arguments)))]
        arch = seccomp.AUDIT_ARCHS[self.machine] if arch is None else arch
        data = struct.pack("<IIQ6Q", called, arch, 0x1000, *words)  # struct seccomp_data
        accumulator, place = 0, 0
        while True:
            code, true, false, constant = self.instructions[place]
            if code == LOAD:
                (accumulator,) = struct.unpack_from("<I", data, constant)
            elif code == RETURN:
                return constant
            else:
                place += true if TESTS[code](accumulator, constant) else false
            place += 1


def base(machine: str, scratch: bool = True, write_opens: bool = True) -> Filter:
    return Filter(seccomp.base_filter(scratch, write_opens, machine), machine)


def child(machine: str) -> Filter:
    return Filter(seccomp.child_filter(PID, machine), machine)


@machines
@both
def test_every_number_that_is_not_listed_is_refused(machine: str, scratch: bool, write_opens: bool) -> None:
    names = seccomp.ALLOWED.split() + (seccomp.ON_SCRATCH.split() if scratch else [])
    names += ["truncate", "ftruncate"] if write_opens and not scratch else []
    allowed = {number(name, machine) for name in names} - {None}
    conditional = {number(name, machine) for name in CONDITIONAL}
    run = base(machine, scratch, write_opens)
    for called in range(1024):
        if called not in conditional:
            assert run(called) == (ALLOW if called in allowed else REFUSED), called


@machines
@pytest.mark.parametrize(
    "name",
    ["socket", "connect", "ptrace", "mount", "umount2", "pivot_root", "unshare", "execve", "sendmsg", "setsockopt"],
)
def test_dangerous_calls_are_refused(machine: str, name: str) -> None:
    assert base(machine)(name) == REFUSED


@machines
def test_calls_of_other_architectures_kill(machine: str) -> None:
    other = next(arch for name, arch in seccomp.AUDIT_ARCHS.items() if name != machine)
    i386, arm = 0x40000003, 0x40000028
    for arch in (other, i386, arm, 0):
        assert base(machine)("read", arch=arch) == KILL
    if machine == X86_64:
        assert base(machine)(0x40000000 + 39) == KILL and base(machine)(0xFFFFFFFF) == KILL


@machines
def test_files_are_opened_for_reading_alone_where_nothing_else_forbids_writing(machine: str) -> None:
    run = base(machine, scratch=False, write_opens=False)
    cloexec, directory = 0x80000, 0x4000 if machine == AARCH64 else 0x10000
    assert run("openat", -100, 0x1000, cloexec) == ALLOW and run("openat", -100, 0x1000, directory) == ALLOW
    for flags in (0o1, 0o2, 0o100, 0o1000, 0x400000 | directory):  # write, read and write, create, truncate, nameless
        assert run("openat", -100, 0x1000, flags) == REFUSED
        assert base(machine)("openat", -100, 0x1000, flags) == ALLOW


@machines
def test_processes_and_namespaces(machine: str) -> None:
    thread, fork = 0x3D0F00, 17
    assert base(machine)("clone", thread) == base(machine)("clone", fork) == ALLOW  # the worker forks
    assert base(machine)("clone3") == ERRNO | seccomp.ENOSYS
    for namespace in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
        assert base(machine)("clone", fork | namespace) == REFUSED
    assert child(machine)("clone", thread) == ALLOW and child(machine)("clone", fork) == REFUSED


@machines
def test_arguments_that_reach_others_are_refused(machine: str) -> None:
    run = base(machine)
    assert run("ioctl", 0, 0x5401) == ALLOW and run("ioctl", 0, 0x5401 | HIGH) == ALLOW  # the kernel reads 32 bits
    for request in (0x5412, 0x5452, 0x541C, 0x8901, 0):  # TIOCSTI FIOASYNC TIOCLINUX FIOSETOWN
        assert run("ioctl", 0, request) == REFUSED
    assert run("fcntl", 3, 1) == run("fcntl", 3, 1030) == ALLOW
    for command in (8, 10, 15, 1024, 1026, 1031, 1033):  # F_SETOWN F_SETSIG F_SETOWN_EX F_SETLEASE ... F_ADD_SEALS
        assert run("fcntl", 3, command) == REFUSED
    assert run("socketpair", 1, 1) == ALLOW and run("socketpair", 2, 1) == REFUSED
    assert run("sendto", 3, 1, 1, 0, 0, 0) == ALLOW
    for address in (1, HIGH, 0x7FFF00000000):
        assert run("sendto", 3, 1, 1, 0, address, 16) == REFUSED


@machines
def test_a_program_reaches_itself_alone(machine: str) -> None:
    run = child(machine)
    for name in ("kill", "tgkill"):
        assert run(name, PID, 9) == ALLOW
        for other in (0, 1, -1, -PID, PID + 1, PID - 1):
            assert run(name, other, 0) == REFUSED
    assert run("prlimit64", 0, 0) == run("prlimit64", PID, 0) == ALLOW and run("prlimit64", 1, 0) == REFUSED
    assert run("prctl", 15) == run("prctl", 16) == ALLOW
    for option in (1, 4, 22, 38, 59, 0):  # death signal, dumpable, seccomp, new privileges, dispatch
        assert run("prctl", option) == REFUSED
    for name in seccomp.CHILD_DENIED.split():
        assert run(name) == REFUSED
    assert run("read") == run("write") == ALLOW  # left to the allowlist


@machines
def test_jumps_stay_inside(machine: str) -> None:
    for run in (base(machine), base(machine, False, False), child(machine)):
        last = len(run.instructions) - 1
        assert run.instructions[last][0] == RETURN
        for place, (code, true, false, _) in enumerate(run.instructions):
            assert code in (LOAD, RETURN, *TESTS)
            if code in TESTS:
                assert place + 1 + max(true, false) <= last


def test_deny_filter_refuses_what_it_names() -> None:
    machine = seccomp.MACHINE
    run = Filter(seccomp.deny_filter(["unshare"]), machine)
    assert run("unshare") == REFUSED and run("read") == ALLOW


@pytest.mark.parametrize(
    ("column", "path"),
    [(0, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), (1, "/usr/include/asm-generic/unistd.h")],
    ids=[X86_64, AARCH64],
)
def test_numbers_are_those_of_the_kernels_headers(column: int, path: str) -> None:
    """aarch64 uses the generic numbers."""
    if not Path(path).exists():
        pytest.skip(f"no {path}")
    text = Path(path).read_text()
    real = {name: int(found) for name, found in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    real.setdefault("newfstatat", real.get("fstatat", -1))  # one call of two names
    newer = {name for name, numbers in TABLE.items() if numbers[column] is not None and name not in real}
    assert all(numbers[column] == real.get(name) for name, numbers in TABLE.items() if name not in newer)
    assert newer <= {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "mount_setattr"}
