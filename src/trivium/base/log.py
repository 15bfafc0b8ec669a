"""What a run says while it works: a live line with rate and time left on a terminal, plain lines elsewhere.

Everything here goes to standard error, so that standard output carries results alone.
"""

import os
import sys
import time
from typing import Any

PLAIN_SECONDS = 5.0
"""Plain progress writes at most one line in this time."""


_silent = False


def silence() -> None:
    """Say nothing from now on: in a process that only helps another one, which does the talking."""
    global _silent
    _silent = True


def say(line: str) -> None:
    """One line for the user."""
    if _silent:
        return
    print(line, file=sys.stderr, flush=True)


def warn(line: str) -> None:
    """One line that the user should not miss: something was left out, weakened or replaced."""
    say(f"warning: {line}")


def route_warnings() -> None:
    """Show what `logging` and `warnings` say, ours and the libraries', as one `warn` line each."""
    import logging
    import warnings

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warn(" ".join(record.getMessage().split()))

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        warn(" ".join(str(message).split()))

    logging.basicConfig(level=logging.WARNING, handlers=[Handler()])
    warnings.showwarning = show


def is_terminal() -> bool:
    """Whether progress can be painted: standard error is a terminal that understands more than plain text."""
    return not _silent and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def format_duration(seconds: float) -> str:
    """`8s`, `2m 05s`, `1h 04m`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02}m"


def format_number(value: Any) -> str:
    """A value in few characters: `0.3512`, `1.2e-05`, `14.3k`; what is not a number as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    size = abs(value)
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit and size != float("inf"):
            return f"{value / (1e3 if suffix == 'k' else limit):.4g}{suffix}"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


class Progress:
    """Progress of one stage, as a context manager.

        with Progress("pretrain", total=200, unit="step") as progress:
            for step in range(200):
                ...
                progress.update(step + 1, loss=loss, tokens_per_second=rate)

    Args:
        stage: what is under way, first on the line.
        total: units in all; None where that is not known.
        unit: one of what is counted, in the singular.
        start: units done before, by an earlier run; they do not count for the rate.
    """

    def __init__(self, stage: str, total: int | None, unit: str = "step", *, start: int = 0):
        self.stage, self.total, self.unit, self.start = stage, total, unit, start
        self.done = start
        self.values: dict[str, Any] = {}
        self._began = self._said = time.monotonic()
        self._said_at = start
        self._live: Any = None

    def __enter__(self) -> "Progress":
        self._began = self._said = time.monotonic()
        if is_terminal():
            self._live = _paint()
            self._live.__enter__()
            self._show()
        return self

    def update(self, done: int, **values: Any) -> None:
        """`done` units are finished in all; `values` are kept on the line until they are given anew."""
        self.done = done
        self.values.update(values)
        now = time.monotonic()
        if self._live is not None:
            self._show()
        elif now - self._said >= PLAIN_SECONDS or (done == self.total and done != self._said_at):
            self._said, self._said_at = now, done
            say(self.line())

    def line(self) -> str:
        """The state of things in one line."""
        elapsed = time.monotonic() - self._began
        rate = (self.done - self.start) / elapsed if elapsed > 0 else 0.0
        parts = [f"{self.stage}  {self.unit} {self.done}" + (f"/{self.total}" if self.total is not None else "")]
        if rate >= 1:
            parts.append(f"{format_number(round(rate, 1))} {self.unit}s/s")
        elif rate > 0:
            parts.append(f"{1 / rate:.1f} s/{self.unit}")
        if self.total is not None and rate > 0 and self.done < self.total:
            parts.append(f"{format_duration((self.total - self.done) / rate)} left")
        else:
            parts.append(format_duration(elapsed))
        parts += [f"{key.replace('_', ' ')} {format_number(value)}" for key, value in self.values.items()]
        return "  ".join(parts)

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self._live = None
            say(self.line())

    def _show(self) -> None:
        from rich.text import Text

        share = self.done / self.total if self.total else 0.0
        bar = "━" * round(20 * share) + "╌" * (20 - round(20 * share)) + "  " if self.total else ""
        self._live.update(Text(bar + self.line(), overflow="ellipsis", no_wrap=True))


def _paint() -> Any:
    """A live region at the terminal's last line; `say` prints above it. Loads rich, so only terminals pay for it."""
    from rich.console import Console
    from rich.live import Live

    return Live(console=Console(stderr=True), refresh_per_second=4, transient=True)
