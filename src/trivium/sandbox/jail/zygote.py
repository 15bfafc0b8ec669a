"""The worker: locks itself up once, then forks a program and a checker for each request.

Started as a fresh interpreter without site packages. Descriptor 3 is the control socket to the host; end of file on
it, or the host's death, ends the worker and with it everything it started.

The host asks for the next pair while the present one runs, so that forking and locking up cost no waiting.
"""

import contextlib
import gc
import json
import os
import random
import select
import signal
import socket
import struct
import sys
from typing import Any

from . import probes, wire
from .clock import ProcessTable, slowness
from .enclosure import Enclosure, Plan, Refused, die_with_parent, enclose
from .lockdown import DESCRIPTORS_FROM, Request, limit_worker
from .pair import Pair

PRELOADED = """
abc ast bisect collections collections.abc contextlib copy dataclasses datetime decimal enum fractions functools heapq
io itertools json math numbers operator random re statistics string threading time traceback types typing warnings
"""
"""What programs use most. Not more: each extension module's mappings make every fork dearer."""
PREPARE, START, DISCARD = b"P", b"S", b"D"
ORDER_SIZE = 1 + Request.SIZE
SEED = 0


class Zygote:
    """Serves one host until it is gone."""

    def __init__(self, control: socket.socket, plan: Plan, enclosure: Enclosure, host: int | None, null: int) -> None:
        self._control = control
        self._plan = plan
        self._enclosure = enclosure
        self._host = host
        self._null = null
        self._table = ProcessTable(enclosure.proc)
        self.slowness = slowness()
        self._prepared: Pair | None = None
        self._running: Pair | None = None
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        if host is not None:
            self._poll.register(host, select.POLLIN)

    def probe(self) -> list[str]:
        """Names of the forbidden things that a locked-up child managed to do. Raises Refused."""
        receiving, sending = os.pipe()
        request = Request(5.0, 5.0, 1 << 29, 1 << 22, 64, 8)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                limits = request.limits(self._enclosure.cage.processes_before)
                self._enclosure.cage.lock([self._null, self._null, self._null, sending], limits)
                probes.attempt(self._plan.target, 3)
            os._exit(0)
        os.close(sending)
        with open(receiving, "rb") as file:
            lines = file.read().splitlines()
        with contextlib.suppress(ChildProcessError):
            while True:  # the probe and whatever it managed to start
                os.waitpid(-1, 0)
        if not lines:
            raise Refused("probe: it could not be locked up")
        return json.loads(lines[-1])

    def serve(self) -> None:
        """Obey the host until it is gone."""
        control = self._control.fileno()
        while True:
            pause = None if self._running is None else max(1.0, self._running.pause * 1000)
            ready = {descriptor for descriptor, _ in self._poll.poll(pause)}
            if self._host in ready or (control in ready and not self._obey()):
                return
            if self._running is not None:
                report = self._running.look()
                if report is not None:
                    self._conclude(self._running, report)

    def stop(self) -> None:
        """End what still runs, which nothing else does where the kernel neither has namespaces nor a death signal."""
        for pair in (self._running, self._prepared):
            if pair is not None:
                pair.discard()

    def _obey(self) -> bool:
        """Carry out one order. False if the host is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, ORDER_SIZE, 4)
        except ConnectionError:
            return False
        if len(data) != ORDER_SIZE:
            return False
        order = data[:1]
        if order == START:
            if self._prepared is None:
                send(self._control, {"broken": "no process could be forked"})
                return True
            self._running, self._prepared = self._prepared, None
            self._running.start()
            if self._running.watched is not None:
                self._poll.register(self._running.watched, select.POLLIN)
            return True
        if self._prepared is not None:
            self._prepared.discard()
            self._prepared = None
        if order == PREPARE:
            with contextlib.suppress(OSError):  # said when it is to start
                request = Request.unpack(data[1:]).stretched(self.slowness)
                self._prepared = Pair(self._enclosure.cage, request, self._table, self._null, descriptors)
        return True

    def _conclude(self, pair: Pair, report: dict[str, Any]) -> None:
        if pair.watched is not None:
            self._poll.unregister(pair.watched)
        self._running = None
        report["clean"] = not self._enclosure.is_init or self._clean_scratch()
        send(self._control, report)

    def _clean_scratch(self) -> bool:
        """Empty the scratch directory. False if something stays, and the worker must go."""
        scratch = self._plan.scratch
        if not os.listdir(scratch):
            return True
        for root, directories, _ in os.walk(scratch):
            for name in directories:
                path = os.path.join(root, name)
                if not os.path.islink(path):
                    with contextlib.suppress(OSError):
                        os.chmod(path, 0o700)
        for root, directories, files in os.walk(scratch, topdown=False):
            for name in files:
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(root, name))
            for name in directories:
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.join(root, name))
        return not os.listdir(scratch)


def send(control: socket.socket, message: dict[str, Any]) -> None:
    """One framed message to the host."""
    payload = json.dumps(message).encode()
    with contextlib.suppress(ConnectionError):  # the next read says that it is gone
        control.sendall(struct.pack(">I", len(payload)) + payload)


def read_plan(control: socket.socket) -> Plan:
    """The host's first message."""
    order: dict[str, Any] = wire.receive(control.fileno())
    order["target"] = probes.Target(**order["target"])
    for name in ("readable", "hidden", "paths"):
        order[name] = tuple(order[name])
    return Plan(**order)


def watch_parent() -> int | None:
    """A descriptor that becomes readable when the host dies, even if a child of it holds our socket open."""
    try:
        return os.pidfd_open(os.getppid())
    except (OSError, AttributeError):
        return None


def main() -> None:
    """The worker's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's to handle
    control = socket.socket(fileno=os.dup2(3, DESCRIPTORS_FROM, inheritable=False))
    os.close(3)
    reserved = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(DESCRIPTORS_FROM):
        if descriptor not in (2, reserved):
            os.dup2(reserved, descriptor, inheritable=False)
    host = watch_parent()
    null = os.dup(reserved)
    for name in PRELOADED.split():
        with contextlib.suppress(ImportError):
            __import__(name)
    plan = read_plan(control)
    sys.path[:] = plan.paths
    sys.argv[:] = sys.orig_argv[:] = [""]
    os.environ.clear()
    limit_worker()
    if plan.level != "jailed" and host is None:
        die_with_parent()
    try:
        enclosure = enclose(plan, control)
        zygote = Zygote(control, plan, enclosure, host, null)
        through = zygote.probe()
    except Refused as error:
        send(control, {"refused": str(error)})
        os._exit(0)
    random.seed(SEED)  # a program's outcome should not depend on chance
    send(control, {"findings": enclosure.findings, "through": through, "slowness": zygote.slowness})
    gc.collect()
    gc.disable()
    gc.freeze()
    zygote.serve()
    zygote.stop()
    os._exit(0)
