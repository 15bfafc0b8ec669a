"""The host's side of one worker: start it, hand it programs, collect what comes back."""

import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trivium.base.errors import SandboxError

from .jail import wire
from .jail.lockdown import Request
from .jail.zygote import Plan
from .limits import Job, Limits
from .result import Level
from .verdict import HARD_OUTPUT_BYTES, Outcome

START_SECONDS = 60.0
GRACE_SECONDS = 10.0
_BOOT = """
import sys, types
package = types.ModuleType("jail"); package.__path__ = [sys.argv[1]]; sys.modules["jail"] = package
from jail.zygote import main
main()
"""


class WorkerLost(Exception):
    """The worker ended or does not answer."""


class LevelRefused(Exception):
    """The machine does not give the wanted level; the message says which layer."""


class Worker:
    """A locked-up interpreter that forks programs. Used by one thread at a time."""

    def __init__(self, plan: Plan) -> None:
        """Start and prove it.

        Raises:
            LevelRefused: a layer of the plan's level is missing.
            SandboxError: the interpreter does not start.
        """
        self.level: Level = plan.level  # pyright: ignore[reportAttributeAccessIssue]
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = _start(theirs)
        try:
            order = {key: value for key, value in asdict(plan).items()}
            wire.send(self._control.fileno(), order)
            self.hello: dict[str, Any] = self._receive(time.monotonic() + START_SECONDS)
        except (OSError, WorkerLost) as error:
            self.kill()
            raise SandboxError(f"The sandbox's worker did not start: {error}") from None
        if "refused" in self.hello:
            self.kill()
            raise LevelRefused(self.hello["refused"])

    def run(self, job: Job, source: bytes, order: bytes) -> Outcome:
        """Run one program against its tests.

        Args:
            job: whose limits hold.
            source: the program, framed.
            order: tests, prelude and entry points, framed.
        Raises:
            WorkerLost: no answer; the worker must be replaced.
        """
        limits = job.limits
        ours, theirs = _channels()
        try:
            request = Request(
                limits.wall_seconds,
                limits.cpu_seconds,
                limits.memory_bytes,
                limits.file_bytes,
                limits.descriptors,
                limits.threads,
            )
            try:
                socket.send_fds(self._control, [request.pack()], theirs)
            except OSError as error:
                raise WorkerLost(str(error)) from None
            finally:
                for descriptor in theirs:
                    os.close(descriptor)
            exchange = _Exchange(self._control.fileno(), ours, source, order, limits)
            report = exchange.finish(time.monotonic() + limits.wall_seconds + GRACE_SECONDS)
        finally:
            for descriptor in ours:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        if "broken" in report:
            raise WorkerLost(report["broken"])
        return Outcome(report, bytes(exchange.frames), bytes(exchange.kept[0]), bytes(exchange.kept[1]), exchange.sizes)

    def _receive(self, deadline: float) -> dict[str, Any]:
        data = b""
        while len(data) < 4 or len(data) < 4 + struct.unpack(">I", data[:4])[0]:
            self._control.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                chunk = self._control.recv(1 << 16)
            except OSError as error:
                raise WorkerLost(f"no answer: {error}{self._last_words()}") from None
            finally:
                self._control.settimeout(None)
            if not chunk:
                raise WorkerLost("it ended" + self._last_words())
            data += chunk
        return json.loads(data[4:])

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, errors = self._process.communicate(timeout=1)
            lines = errors.decode(errors="replace").strip().splitlines()
            return f": {lines[-1]}" if lines else ""
        return ""

    def close(self) -> None:
        """Let it end; it ends by itself when its socket closes."""
        self._control.close()
        try:
            self._process.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it and all it runs, at once."""
        with contextlib.suppress(OSError):
            self._control.close()
        self._process.kill()
        self._process.communicate()


class _Exchange:
    """One program's traffic: feed source and tests, drain results and output, await the worker's report."""

    def __init__(self, control: int, ours: list[int], source: bytes, order: bytes, limits: Limits) -> None:
        self._control = control
        self._source, self._tests, self._output, self._errors = ours
        self._pending = {self._source: memoryview(source), self._tests: memoryview(order)}
        self._limit = limits.output_bytes
        self._report = bytearray()
        self._open: set[int] = set()
        self._poll = select.poll()
        self.frames = bytearray()
        self.kept = (bytearray(), bytearray())
        self.sizes = [0, 0]

    def finish(self, deadline: float) -> dict[str, Any]:
        """Work until the report and all ends of file are in. Raises WorkerLost."""
        for descriptor in (self._control, self._tests, self._output, self._errors):
            self._poll.register(descriptor, select.POLLIN)
            self._open.add(descriptor)
        for descriptor in (self._source, self._tests):
            self._feed(descriptor)
        report: dict[str, Any] | None = None
        while report is None or len(self._open) > 1:
            events = self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not events:
                raise WorkerLost("no report in time")
            for descriptor, event in events:
                if event & select.POLLOUT:
                    self._feed(descriptor)
                if event & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    report = self._drain(descriptor) or report
        return report

    def _feed(self, descriptor: int) -> None:
        pending = self._pending[descriptor]
        try:
            while pending:
                pending = pending[os.write(descriptor, pending) :]
        except BlockingIOError:
            pass
        except OSError:  # it died before it read everything
            pending = pending[:0]
        self._pending[descriptor] = pending
        reading = select.POLLIN if descriptor in self._open else 0
        if pending:
            self._poll.register(descriptor, reading | select.POLLOUT)
        elif reading:
            self._poll.register(descriptor, reading)
        else:
            with contextlib.suppress(KeyError):
                self._poll.unregister(descriptor)

    def _drain(self, descriptor: int) -> dict[str, Any] | None:
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if descriptor == self._control:
            if not data:
                raise WorkerLost("it ended")
            self._report += data
            size = struct.unpack(">I", self._report[:4])[0] if len(self._report) >= 4 else 1 << 30
            return json.loads(self._report[4:]) if len(self._report) == size + 4 else None
        if not data:
            self._forget(descriptor)
        elif descriptor == self._tests:
            self.frames += data
        elif descriptor in (self._output, self._errors):
            self._keep(descriptor, data)
        return None

    def _keep(self, descriptor: int, data: bytes) -> None:
        index = 0 if descriptor == self._output else 1
        room = self._limit - len(self.kept[index])
        self.kept[index].extend(data[: max(0, room)])
        self.sizes[index] += len(data)
        if self.sizes[index] > HARD_OUTPUT_BYTES:
            self._forget(descriptor)
            os.close(descriptor)  # the program's next write fails

    def _forget(self, descriptor: int) -> None:
        self._open.discard(descriptor)
        with contextlib.suppress(KeyError):
            self._poll.unregister(descriptor)


def _channels() -> tuple[list[int], list[int]]:
    """Our and the worker's ends of source socket, tests socket, stdout and stderr."""
    pairs = [socket.socketpair(), socket.socketpair()]
    ours = [ours.detach() for ours, _ in pairs]
    theirs = [theirs.detach() for _, theirs in pairs]
    for _ in range(2):
        reading, writing = os.pipe()
        ours.append(reading)
        theirs.append(writing)
    for descriptor in ours:
        os.set_blocking(descriptor, False)
    return ours, theirs


def _start(control: socket.socket) -> subprocess.Popen[bytes]:
    """A fresh interpreter. Its environment holds the hash seed alone, which `-I` would ignore; the rest of `-I` is -s -P."""
    executable = getattr(sys, "_base_executable", None) or sys.executable
    descriptor = control.fileno()
    boot = f"import os; os.dup2({descriptor}, 3) if {descriptor} != 3 else None\n{_BOOT}"
    if descriptor != 3:
        boot = f"import os; os.dup2({descriptor}, 3); os.close({descriptor})\n{_BOOT}"
    jail = Path(__file__).parent / "jail"
    return subprocess.Popen(
        [executable, "-s", "-P", "-S", "-B", "-X", "utf8", "-c", boot, str(jail)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PYTHONHASHSEED": "0"},
        pass_fds=[descriptor],
        cwd="/",
        start_new_session=True,
    )
