"""The worker's own lock-up: every layer of one level, put on once, in the only order that works."""

import contextlib
import os
import re
import signal
import socket
import sys
from dataclasses import dataclass, field

from . import landlock, namespaces, probes, seccomp, syscalls
from .lockdown import Cage

UNPRIVILEGED = 0x70000000  # user ids from here on belong to nobody
NOBODY = 65534
OWN_PROCESSES = 8  # a worker and its children, which count against RLIMIT_NPROC with a program's threads
MISSING = "missing"
SLACK = 256  # what the user's other processes may grow by where they are counted too


class Refused(Exception):
    """A layer of the wanted level is not to be had here."""


@dataclass(frozen=True)
class Plan:
    """How the host wants the worker locked up."""

    level: str
    readable: tuple[str, ...]
    hidden: tuple[str, ...]
    interpreter_file: str
    """A file of the standard library: where another user cannot read it, root's identity must stay."""
    paths: tuple[str, ...]
    """The interpreter's search path."""
    scratch: str
    scratch_bytes: int
    scratch_inodes: int
    target: probes.Target


@dataclass
class Enclosure:
    """What lock-up left for serving."""

    cage: Cage
    is_init: bool = False
    """The worker is pid 1 of its own namespace."""
    proc: int | None = None
    """An open /proc that knows the worker's children."""
    findings: list[tuple[str, str]] = field(default_factory=list)


def enclose(plan: Plan, control: socket.socket) -> Enclosure:
    """Put the calling process, or a child of it that takes its place, under every layer of the plan's level.

    Raises:
        Refused: a layer is missing; the process must end.
    """
    jailed = plan.level == "jailed"
    enclosure = Enclosure(Cage(0, None, None, 0))
    counted_alone = jailed and (os.geteuid() == 0 or _kernel() >= (5, 14))  # user namespaces count for themselves
    uid = _enter_namespaces(plan, control, enclosure) if jailed else None
    restrict = None
    ruleset = _make_ruleset(plan, enclosure)
    if not jailed and syscalls.SUPPORTED and os.geteuid() == 0:
        uid = _other_user(plan, enclosure)
    if syscalls.SUPPORTED:
        try:
            namespaces.drop_privileges(uid, uid)
        except OSError as error:
            raise Refused(f"dropping privileges: {error.strerror}") from None
        die_with_parent()  # changing the user id has cleared it
    if ruleset is not None:
        restrict = landlock.restriction(ruleset)
    child_filter = seccomp.ChildFilter() if _install_filter(plan, enclosure) else None
    if not jailed and os.path.isdir("/proc/self"):
        enclosure.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    before = OWN_PROCESSES if counted_alone else _processes() + SLACK
    dying = None
    if syscalls.SUPPORTED:
        dying = syscalls.prepare("prctl", syscalls.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    enclosure.cage = Cage(os.getpid(), restrict, child_filter, before, dying)
    return enclosure


def _enter_namespaces(plan: Plan, control: socket.socket, enclosure: Enclosure) -> int | None:
    """Returns the user id to change to, None if there is none to change to."""
    try:
        own_user = namespaces.unshare()
    except OSError as error:
        raise Refused(f"namespaces: {error.strerror}") from None
    uid = namespaces.INSIDE_ID if own_user else _usable_id()
    child = os.fork()
    if child:
        _follow(child, control)
    die_with_parent()
    enclosure.is_init = True
    root = namespaces.Root(plan.readable, plan.hidden, plan.scratch, plan.scratch_bytes, plan.scratch_inodes)
    try:
        enclosure.proc = namespaces.build_root(root, uid, uid)
    except OSError as error:
        raise Refused(f"a root of its own: {error.strerror}") from None
    enclosure.findings.append(
        ("namespaces", "in a user namespace" if own_user else "as root, then an unprivileged user")
    )
    return None if own_user else uid


def _make_ruleset(plan: Plan, enclosure: Enclosure) -> int | None:
    version = landlock.abi()
    if not version:
        if plan.level == "isolated":
            raise Refused("Landlock: not in this kernel, switched off or refused by the container")
        enclosure.findings.append(("Landlock", MISSING))
        return None
    scratch = plan.scratch if plan.level == "jailed" else None
    try:
        ruleset = landlock.make_ruleset(plan.readable, namespaces.DEVICES, scratch)
    except OSError as error:
        raise Refused(f"Landlock: {error.strerror}") from None
    enclosure.findings.append(("Landlock", f"ABI {version}"))
    return ruleset


def _other_user(plan: Plan, enclosure: Enclosure) -> int | None:
    """An unprivileged user for a worker of root, None where only root can read the interpreter."""
    uid = _usable_id()
    if _readable_as(uid, plan.interpreter_file):
        return uid
    enclosure.findings.append(("user", "root without capabilities, as no other user can read the interpreter"))
    return None


def _install_filter(plan: Plan, enclosure: Enclosure) -> bool:
    if not syscalls.SUPPORTED:
        if plan.level != "limited":
            raise Refused(f"seccomp: no table of system calls for {sys.platform} on {syscalls.MACHINE}")
        return False
    jailed = plan.level == "jailed"
    code = seccomp.assemble(seccomp.base_filter(jailed, write_opens=jailed or landlock.abi() >= 3))
    try:
        seccomp.install(code)
    except OSError as error:
        if plan.level != "limited":
            raise Refused(f"seccomp: {error.strerror}") from None
        enclosure.findings.append(("seccomp", error.strerror or MISSING))
        return False
    enclosure.findings.append(("seccomp", "on"))
    return True


def _usable_id() -> int:
    """A user id of this worker's own, or nobody's where the container maps few."""
    wanted = UNPRIVILEGED + os.getpid()
    with contextlib.suppress(OSError, ValueError), open("/proc/self/uid_map") as file:
        for line in file:
            first, _, count = map(int, line.split())
            if first <= wanted < first + count:
                return wanted
    return NOBODY


def _readable_as(uid: int, path: str) -> bool:
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.close(os.open(path, os.O_RDONLY))
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


def _processes() -> int:
    """Threads that this user already has and that count against RLIMIT_NPROC."""
    total = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if entry.stat().st_uid == os.getuid():
                        total += len(os.listdir(f"/proc/{entry.name}/task"))
    return total


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)


def _follow(child: int, control: socket.socket) -> None:
    """Outside the new pid namespace: hold nothing, and end as the worker ends."""
    control.close()
    os.closerange(3, 1 << 16)
    with contextlib.suppress(OSError):
        os.waitpid(child, 0)
    os._exit(0)
