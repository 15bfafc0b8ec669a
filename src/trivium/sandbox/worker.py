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
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trivium.base.errors import SandboxError

from .jail import wire, zygote
from .jail.enclosure import Plan
from .jail.lockdown import Request
from .jail.pair import MOST_EXTENSION
from .limits import Limits
from .result import Level
from .verdict import HARD_OUTPUT_BYTES, Outcome, broken

START_SECONDS = 60.0
GRACE_SECONDS = 10.0
MAX_FRAMES = 16 << 20
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
        self.programs = 0
        """Programs run so far."""
        self._prepared: tuple[Request, list[int]] | None = None
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = _start(theirs)
        try:
            wire.send(self._control.fileno(), asdict(plan))
            self.hello: dict[str, Any] = self._receive(time.monotonic() + START_SECONDS)
        except (OSError, WorkerLost) as error:
            self.kill()
            raise SandboxError(f"The sandbox's worker did not start: {error}") from None
        if "refused" in self.hello:
            self.kill()
            raise LevelRefused(self.hello["refused"])

    def run(self, limits: Limits, source: bytes, order: bytes, stdin: str | None = None) -> Outcome:
        """Run one program against its tests.

        Args:
            limits: the program's.
            source: the program, framed.
            order: tests, prelude and entry points, framed.
            stdin: a script's input.
        Raises:
            WorkerLost: no answer; the worker must be replaced.
        """
        request = _request(limits)
        if self._prepared is None or self._prepared[0] != request:
            self._prepare(request)
        assert self._prepared is not None
        ours, self._prepared = self._prepared[1], None
        try:
            self._order(zygote.START + bytes(Request.SIZE))
            exchange = _Exchange(self._control.fileno(), ours, source, order, limits, stdin)
            self._prepare(request)  # while this one runs
            longest = limits.wall_seconds * self.hello["slowness"] * (1 + MOST_EXTENSION)
            report = exchange.finish(time.monotonic() + longest + GRACE_SECONDS)
        finally:
            _close_all(ours)
        if "broken" in report:
            raise WorkerLost(report["broken"])
        self.programs += 1
        report["wall"] = exchange.ended - exchange.started
        stdout, stderr = map(bytes, exchange.kept)
        outcome = Outcome(report, bytes(exchange.frames), stdout, stderr, exchange.sizes)
        problem = broken(outcome)
        if problem:
            raise WorkerLost(problem)
        return outcome

    def _prepare(self, request: Request) -> None:
        """Have the next pair forked; our ends of its channels wait here."""
        if self._prepared is not None:
            _close_all(self._prepared[1])
            self._prepared = None
        ours, theirs = _channels()
        self._prepared = (request, ours)
        try:
            self._order(zygote.PREPARE + request.pack(), theirs)
        finally:
            _close_all(theirs)

    def _order(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._control, [message], list(descriptors))
        except OSError as error:
            raise WorkerLost(str(error)) from None

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
        self._let_go()
        try:
            self._process.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            self.kill()

    def interrupt(self) -> None:
        """End its process while another thread uses it; that one finds the worker lost."""
        self._process.kill()

    def kill(self) -> None:
        """End it and all it runs, at once."""
        self._let_go()
        self._process.kill()
        self._process.communicate()

    def _let_go(self) -> None:
        self._control.close()
        if self._prepared is not None:
            _close_all(self._prepared[1])
            self._prepared = None


class _Exchange:
    """One program's traffic: feed source and tests, drain results and output, await the worker's report."""

    def __init__(
        self, control: int, ours: list[int], source: bytes, order: bytes, limits: Limits, stdin: str | None
    ) -> None:
        self._control = control
        self._ours = ours
        self._source, self._tests, self._output, self._errors = ours
        self._script = stdin is not None
        data = source if stdin is None else source + stdin.encode("utf-8", "replace")
        self._pending = {self._source: memoryview(data), self._tests: memoryview(order)}
        self._limit = limits.output_bytes
        self._report = bytearray()
        self._open: set[int] = set()
        self._poll = select.poll()
        self.frames = bytearray()
        self.started = self.ended = time.monotonic()
        self.kept = (bytearray(), bytearray())
        self.sizes = [0, 0]

        for descriptor in (self._control, self._tests, self._output, self._errors):
            self._poll.register(descriptor, select.POLLIN)
            self._open.add(descriptor)
        for descriptor in (self._source, self._tests):
            self._feed(descriptor)

    def finish(self, deadline: float) -> dict[str, Any]:
        """Work until the report and all ends of file are in. Raises WorkerLost."""
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
        if self._script and descriptor == self._source and not pending:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as end:
                end.shutdown(socket.SHUT_WR)  # the end of the script's input
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
            if descriptor == self._tests:  # the checker has ended
                self.ended = time.monotonic()
        elif descriptor == self._tests:
            self.frames += data
            if len(self.frames) > MAX_FRAMES:  # tests that write to the checker's descriptor
                self._forget(descriptor)
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
            self._ours.remove(descriptor)

    def _forget(self, descriptor: int) -> None:
        self._open.discard(descriptor)
        with contextlib.suppress(KeyError):
            self._poll.unregister(descriptor)


def _request(limits: Limits) -> Request:
    return Request(
        limits.wall_seconds,
        limits.cpu_seconds,
        limits.memory_bytes,
        limits.file_bytes,
        limits.descriptors,
        limits.threads,
    )


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
    descriptors.clear()


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
    """A fresh interpreter: `-I` but for its `-E`, which would ignore the hash seed, all that its environment holds."""
    executable = getattr(sys, "_base_executable", None) or sys.executable
    descriptor = control.fileno()
    move = "" if descriptor == 3 else f"import os; os.dup2({descriptor}, 3); os.close({descriptor})\n"
    jail = Path(__file__).parent / "jail"
    return subprocess.Popen(
        [executable, "-s", "-P", "-S", "-B", "-X", "utf8", "-c", move + _BOOT, str(jail)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PYTHONHASHSEED": "0", "LD_BIND_NOW": "1"},
        pass_fds=[descriptor],
        cwd="/",
        start_new_session=True,
    )
