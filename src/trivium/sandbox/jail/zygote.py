"""The worker: locks itself up once, then forks a program and a checker for each request.

Started as a fresh interpreter without site packages. Descriptor 3 is the control socket to the host; end of file on
it, or the host's death, ends the worker and with it everything it started.
"""

import contextlib
import ctypes
import gc
import json
import os
import random
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any

from . import checker, landlock, namespaces, probes, program, seccomp, syscalls, wire
from .lockdown import DESCRIPTORS_FROM, Cage, Request

PRELOADED = """
abc array ast base64 bisect calendar cmath collections collections.abc contextlib copy dataclasses datetime decimal
enum fractions functools hashlib heapq html inspect io itertools json keyword math numbers operator pprint queue random
re secrets statistics string struct textwrap threading time traceback types typing unicodedata uuid warnings weakref
zlib
""".split()
UNPRIVILEGED = 0x70000000  # user ids from here on belong to nobody
TICK = 0.05  # seconds between looks at the CPU clocks
DATA_SEED = 0


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


class Zygote:
    """One worker's state after lock-up."""

    def __init__(self, control: socket.socket, plan: Plan) -> None:
        self.control = control
        self.plan = plan
        self.cage = Cage(None, None)
        self.findings: list[list[str]] = []
        self.host = _watch_parent()
        self.null = os.open(os.devnull, os.O_RDWR)
        self.is_init = False
        self.processes_before = 0

    # ---- lock-up -------------------------------------------------------------------------------------------------

    def lock_up(self) -> None:
        """Put on every layer of the plan's level. Raises Refused."""
        jailed = self.plan.level == "jailed"
        if jailed:
            self._enter_namespaces()
        ruleset = self._make_ruleset()
        self._drop_privileges(jailed)
        self._install_filter(jailed)
        child_filter = seccomp.ChildFilter() if self._has_filter else None
        self.cage = Cage(None if ruleset is None else landlock.restriction(ruleset), child_filter)
        random.seed(DATA_SEED)  # a program's outcome should not depend on chance
        gc.collect()
        gc.disable()
        gc.freeze()

    def _enter_namespaces(self) -> None:
        try:
            own_user = namespaces.unshare()
        except OSError as error:
            raise Refused(f"namespaces: {error}") from None
        child = os.fork()
        if child:
            _follow(child, self.control)
        _die_with_parent()
        self.is_init = True
        self._uid = namespaces.INSIDE_ID if own_user else UNPRIVILEGED + os.getppid()
        root = namespaces.Root(
            self.plan.readable,
            self.plan.hidden,
            self.plan.scratch,
            self.plan.scratch_bytes,
            self.plan.scratch_inodes,
        )
        uid = self._uid if own_user else _usable_id()
        self._uid = None if own_user else uid
        try:
            namespaces.build_root(root, uid, uid)
        except OSError as error:
            raise Refused(f"a root of its own: {error}") from None
        self.findings.append(["namespaces", "own users" if own_user else "plain, as root"])

    def _make_ruleset(self) -> int | None:
        version = landlock.abi()
        if not version:
            if self.plan.level == "isolated":
                raise Refused("Landlock: not in this kernel, switched off or refused by the container")
            self.findings.append(["Landlock", "missing"])
            return None
        scratch = self.plan.scratch if self.plan.level == "jailed" else None
        try:
            ruleset = landlock.make_ruleset(self.plan.readable, namespaces.DEVICES, scratch)
        except OSError as error:
            raise Refused(f"Landlock: {error}") from None
        self.findings.append(["Landlock", f"ABI {version}"])
        return ruleset

    def _drop_privileges(self, jailed: bool) -> None:
        if not syscalls.SUPPORTED:
            return
        uid = self._uid if jailed else None
        if not jailed and os.geteuid() == 0:
            uid = _usable_id()
            if not _readable_as(uid, self.plan.interpreter_file):
                uid = None
                self.findings.append(["user", "root without capabilities: no other user can read the interpreter"])
        try:
            namespaces.drop_privileges(uid, uid)
        except OSError as error:
            raise Refused(f"dropping privileges: {error}") from None
        _die_with_parent()  # changing the user id clears it

    def _install_filter(self, jailed: bool) -> None:
        self._has_filter = False
        if not syscalls.SUPPORTED:
            if self.plan.level != "limited":
                raise Refused(f"seccomp: no system call table for {sys.platform} on {syscalls.MACHINE}")
            return
        code = seccomp.assemble(seccomp.base_filter(jailed, write_opens=jailed or landlock.abi() >= 3))
        try:
            seccomp.install(code)
        except OSError as error:
            if self.plan.level != "limited":
                raise Refused(f"seccomp: {error}") from None
            self.findings.append(["seccomp", str(error)])
            return
        self._has_filter = True
        self.findings.append(["seccomp", "on"])

    # ---- serving -------------------------------------------------------------------------------------------------

    def probe(self) -> list[str]:
        """Names of the forbidden things that a locked-up child managed to do."""
        receiving, sending = os.pipe()
        request = Request(5.0, 5.0, 1 << 29, 1 << 22, 64, 8)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                self.cage.lock([self.null, self.null, self.null, sending], request, self.processes_before)
                probes.attempt(self.plan.target, 3)
            os._exit(0)
        os.close(sending)
        with open(receiving, "rb") as file:
            lines = file.read().splitlines()
        with contextlib.suppress(ChildProcessError):
            while True:  # the probe and whatever it managed to start
                os.waitpid(-1, 0)
        if not lines:
            raise Refused("the probe could not be locked up")
        return json.loads(lines[-1])

    def serve(self) -> None:
        """Run programs until the host is gone."""
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        if self.host is not None:
            poll.register(self.host, select.POLLIN)
        while True:
            ready = dict(poll.poll(1000 if self.host is None else None))
            if self.host in ready or (self.host is None and os.getppid() == 1 and not self.is_init):
                return
            if self.control.fileno() not in ready:
                continue
            data, descriptors, _, _ = socket.recv_fds(self.control, Request.SIZE, 4)
            if len(data) != Request.SIZE or len(descriptors) != 4:
                return
            report = self.run(Request.unpack(data), descriptors)
            if self.is_init:
                report["clean"] = self._clean_scratch()
            _send(self.control, report)

    def run(self, request: Request, descriptors: list[int]) -> dict[str, Any]:
        """Fork program and checker, keep the deadlines, and say how both ended."""
        source, tests, output, errors = descriptors
        near, far = socket.socketpair()
        start = time.monotonic()
        program_pid = checker_pid = 0
        try:
            program_pid = syscalls.fork()
            if program_pid == 0:
                self._become(program.run, [self.null, output, errors, near.fileno(), source], request)
            checker_pid = syscalls.fork()
            if checker_pid == 0:
                self._become(checker.run, [self.null, self.null, self.null, far.fileno(), tests], request)
        except OSError as error:
            for pid in filter(None, (program_pid, checker_pid)):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            return {"broken": f"fork: {error}"}
        finally:
            near.close()
            far.close()
            for descriptor in descriptors:
                os.close(descriptor)
        return self._supervise(program_pid, checker_pid, request, start)

    def _become(self, entry: Any, descriptors: list[int], request: Request) -> None:
        """In a fresh child: lock up and run the entry, which gets descriptors 3 and 4. Never returns."""
        try:
            self.cage.lock(descriptors, request, self.processes_before)
            entry(3, 4)
        finally:
            os._exit(70)

    def _supervise(self, program_pid: int, checker_pid: int, request: Request, start: float) -> dict[str, Any]:
        cause, program_status = "", None
        program_usage = checker_usage = None
        poll = select.poll()
        watched = _open_pidfd(checker_pid)
        if watched is not None:
            poll.register(watched, select.POLLIN)
        poll.register(self.control, select.POLLHUP)
        if self.host is not None:
            poll.register(self.host, select.POLLIN)
        deadline = start + request.wall_seconds
        checker_status: int | None = None
        while checker_status is None:
            now = time.monotonic()
            if now >= deadline:
                cause = "wall"
            elif max(_cpu_clock(program_pid), _cpu_clock(checker_pid)) >= request.cpu_seconds:
                cause = "cpu"
            if cause:
                break
            pause = min(TICK, deadline - now) if watched is not None else 0.002
            events = poll.poll(max(1.0, pause * 1000))
            if any(descriptor != watched for descriptor, _ in events):
                os._exit(0)  # the host is gone
            pid, status, usage = os.wait4(checker_pid, os.WNOHANG)
            if pid:
                checker_status, checker_usage = status, usage
        if checker_status is None:
            os.kill(checker_pid, signal.SIGKILL)
            _, _, checker_usage = os.wait4(checker_pid, 0)
        elif checker_status != 0:  # the program went first: how?
            program_status, program_usage = _wait_briefly(program_pid, 0.1)
        if program_usage is None:
            os.kill(program_pid, signal.SIGKILL)
            _, _, program_usage = os.wait4(program_pid, 0)
        wall = time.monotonic() - start
        if watched is not None:
            os.close(watched)
        if self.is_init:
            _kill_strays()
        usages = [usage for usage in (program_usage, checker_usage) if usage is not None]
        return {
            "cause": cause,
            "wall": wall,
            "cpu": sum(usage.ru_utime + usage.ru_stime for usage in usages),
            "rss": program_usage.ru_maxrss * (1024 if sys.platform != "darwin" else 1),
            "program": program_status,
            "checker": checker_status,
        }

    def _clean_scratch(self) -> bool:
        """Empty the scratch directory. False if something stays, and the worker must go."""
        if not os.listdir(self.plan.scratch):
            return True
        for root, directories, _ in os.walk(self.plan.scratch):
            for name in directories:
                with contextlib.suppress(OSError):
                    os.chmod(os.path.join(root, name), 0o700, follow_symlinks=True)
        for entry in os.scandir(self.plan.scratch):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
        return not os.listdir(self.plan.scratch)


def _usable_id() -> int:
    """A user id of this worker's own, or nobody's where the container maps few."""
    wanted = UNPRIVILEGED + os.getpid()
    with contextlib.suppress(OSError, ValueError), open("/proc/self/uid_map") as file:
        for line in file:
            first, _, count = map(int, line.split())
            if first <= wanted < first + count:
                return wanted
    return 65534


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


def _watch_parent() -> int | None:
    """A descriptor that becomes readable when the host dies, even if a child of it holds our socket open."""
    try:
        return os.pidfd_open(os.getppid())
    except (OSError, AttributeError):
        return None


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


def _die_with_parent() -> None:
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


def _cpu_clock(pid: int) -> float:
    """CPU seconds of a child so far, zero if it has been waited for. The clock id is the kernel's MAKE_PROCESS_CPUCLOCK."""
    if not syscalls.SUPPORTED:
        return 0.0
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _wait_briefly(pid: int, seconds: float) -> tuple[int | None, resource.struct_rusage | None]:
    """Status and usage of a child that is about to end, or None for both."""
    end = time.monotonic() + seconds
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return status, usage
        if time.monotonic() >= end:
            return None, None
        time.sleep(0.001)


def _kill_strays() -> None:
    """As pid 1 of the namespace: nothing but ourselves stays alive."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    payload = json.dumps(message).encode()
    control.sendall(struct.pack(">I", len(payload)) + payload)


def _read_plan(control: socket.socket) -> Plan:
    order = wire.receive(control.fileno())
    target = probes.Target(**order.pop("target"))
    return Plan(**{key: tuple(v) if type(v) is list else v for key, v in order.items()}, target=target)


def main() -> None:
    """The worker's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's to handle
    control = socket.socket(fileno=os.dup2(3, DESCRIPTORS_FROM, inheritable=False))
    os.close(3)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(DESCRIPTORS_FROM):  # reserved: see DESCRIPTORS_FROM
        if descriptor not in (2, null):
            os.dup2(null, descriptor, inheritable=False)
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            __import__(name)
    plan = _read_plan(control)
    sys.path[:] = plan.paths
    sys.argv[:] = [""]
    zygote = Zygote(control, plan)
    try:
        zygote.lock_up()
        through = zygote.probe()
    except Refused as error:
        _send(control, {"refused": str(error)})
        os._exit(0)
    ctypes.set_errno(0)
    _send(control, {"findings": zygote.findings, "through": through, "version": sys.version.split()[0]})
    zygote.serve()
    os._exit(0)
