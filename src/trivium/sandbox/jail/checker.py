"""The process that runs the tests. The program is reached through proxies; only data comes back from it."""

import ast
import builtins
import json
import os
import symtable
import sys
import time
from collections.abc import Callable
from typing import Any

from . import codec, program, wire
from .link import MAX_MESSAGE, Link, OpaqueError, ProgramGone

UNREADY_STATUS = 71  # this process's exit status when the program's could not be locked up
GONE_STATUS = 3  # this process's exit status when the program went away first


def free_names(sources: list[str]) -> tuple[list[str], list[str]]:
    """Names that the sources use but do not define and that are no builtins: those the program is to supply.

    A standard module that is used by attribute alone (`math.isclose`) is not one of them, as a program must not
    supply what the tests compute with; such modules come second.
    """
    loaded: dict[str, int] = {}
    owners: dict[str, int] = {}
    used: dict[str, None] = {}
    defined: set[str] = set()
    for source in sources:
        try:
            tree, table = ast.parse(source), symtable.symtable(source, "<test>", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # reported when it is run
            continue
        _globals(table, used, defined)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                owners[node.value.id] = owners.get(node.value.id, 0) + 1
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                loaded[node.id] = loaded.get(node.id, 0) + 1
    free = [name for name in used if name not in defined and not hasattr(builtins, name)]
    modules = [
        name for name in free if name in sys.stdlib_module_names and name in owners and owners[name] == loaded[name]
    ]
    return [name for name in free if name not in modules], modules


def _globals(table: symtable.SymbolTable, used: dict[str, None], defined: set[str]) -> None:
    """Global names that a scope and those within it use and define; a parameter of the same name is neither."""
    top = table.get_type() == "module"
    for symbol in table.get_symbols():
        if top or symbol.is_global():
            if symbol.is_referenced():
                used[symbol.get_name()] = None
            if symbol.is_assigned() or symbol.is_imported():
                defined.add(symbol.get_name())
    for child in table.get_children():
        _globals(child, used, defined)


def close(actual: Any, expected: Any, tolerance: float) -> bool:
    """Equal, or at any depth numbers within the absolute or relative tolerance."""
    if tolerance and isinstance(expected, float | complex) and isinstance(actual, int | float | complex):
        return abs(actual - expected) <= tolerance * max(1.0, abs(expected)) or bool(actual == expected)
    if isinstance(expected, list | tuple) and type(actual) is type(expected) and len(actual) == len(expected):
        return all(close(a, e, tolerance) for a, e in zip(actual, expected, strict=True))
    if isinstance(expected, dict) and isinstance(actual, dict) and actual.keys() == expected.keys():
        return all(close(actual[key], expected[key], tolerance) for key in expected)
    return bool(actual == expected)


class Checker:
    """Runs one program's tests and reports each to the host as soon as it is known."""

    def __init__(self, link: Link, host: int, order: dict[str, Any]) -> None:
        self._link = link
        self._host = host
        self._tests: list[str | dict[str, Any]] = order["tests"]
        self._prelude: str = order["prelude"]
        self._entry_points: list[str] | None = order["entry_points"]
        self._namespace: dict[str, Any] = {"__name__": "__tests__"}
        self.gone = False

    def run(self) -> None:
        """Check everything; each test gets exactly one report, and the last report is their number."""
        failure = self._outcome(self._prepare)
        for index, test in enumerate(self._tests):
            if failure is not None:
                self._report(*failure)
                continue
            start = time.perf_counter()
            outcome = self._outcome(lambda test=test, name=f"<test {index + 1}>": self._test(test, name))
            status, _, kind, message = outcome or ("passed", 0.0, "", "")
            self._report(status, time.perf_counter() - start, kind, message)
            if self.gone:
                failure = ("error", 0.0, "exit", "the program is gone")
        self._report("done", float(len(self._tests)), "", "")

    def _prepare(self) -> None:
        statements = [test for test in self._tests if isinstance(test, str)]
        names, modules = self._entry_points, list[str]()
        if names is None:
            names, modules = free_names([self._prelude, *statements])
        try:
            self._link.loaded()
            values = self._link.names(names)
        except Exception as error:
            error.add_note("load")
            raise
        self._namespace.update((name, __import__(name)) for name in modules)
        # before the prelude, which may use them, and after it, as it may hold a stub of the same name
        self._namespace.update(values)
        if self._prelude:
            self._execute(self._prelude, "<prelude>")
            self._namespace.update(values)

    def _test(self, test: str | dict[str, Any], name: str) -> None:
        if isinstance(test, str):
            self._execute(test, name)
            return
        assert self._entry_points, "the host sends cases only with an entry point"
        args, kwargs, expected = (
            codec.decode(test[part], codec.no_references) for part in ("args", "kwargs", "expected")
        )
        function = self._namespace[self._entry_points[0]]
        actual = function(*args, **kwargs)
        if not close(actual, expected, test["tolerance"]):
            raise AssertionError(f"returned {actual!r:.80}, expected {expected!r:.80}")

    def _execute(self, source: str, name: str) -> None:
        exec(compile(source, name, "exec", dont_inherit=True), self._namespace)

    def _outcome(self, action: Callable[[], None]) -> tuple[str, float, str, str] | None:
        """None if the action ended well, else a report of why not."""
        try:
            action()
        except ProgramGone:
            self.gone = True
            return ("error", 0.0, "exit", "the program is gone")
        except BaseException as error:
            notes = getattr(error, "__notes__", ())
            kind = "load" if "load" in notes else _KINDS.get(type(error), "raised")
            if isinstance(error, MemoryError):
                kind = "memory"
            if isinstance(error, AssertionError):
                return ("failed", 0.0, "assertion", _text(error))
            return ("error", 0.0, kind, f"{type(error).__name__}: {_text(error)}")
        return None

    def _report(self, status: str, seconds: float, kind: str, message: str) -> None:
        text = message[:MAX_MESSAGE].encode("utf-8", "replace").decode()
        os.write(self._host, json.dumps([status, round(seconds, 6), kind, text]).encode() + b"\n")


_KINDS: dict[type[BaseException], str] = {OpaqueError: "opaque", SyntaxError: "bad_test"}


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def run(link: int, host: int) -> None:
    """Read the tests from the host and run them. Called in a locked-up process; never returns."""
    program.warm_up()
    connection = Link(link)
    try:
        connection.ready()
    except ProgramGone:
        os._exit(UNREADY_STATUS)
    size = int.from_bytes(wire.read_exactly(host, 4), "big")
    order = json.loads(wire.read_exactly(host, size))
    checker = Checker(connection, host, order)
    checker.run()
    os.close(link)
    os._exit(GONE_STATUS if checker.gone else 0)
