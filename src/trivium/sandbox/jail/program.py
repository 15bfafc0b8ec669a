"""The process that runs untrusted code. Nothing it says is believed; it holds no test and no way to the host."""

import builtins
import gc
import json
import operator
import os
import re
import socket
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from . import codec, wire

MODULE = "__program__"
FUNCTIONS, SCRIPT = b"F", b"S"  # the first byte of a source: loaded for its functions, or run as a script


class Callback:
    """A function of the checker, callable from the program."""

    __slots__ = ("_key", "_server")

    def __init__(self, server: "Server", key: int) -> None:
        self._server = server
        self._key = key

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._server.call_back(self._key, args, kwargs)


class Server:
    """Answers the checker's requests with the program's objects."""

    def __init__(self, descriptor: int, namespace: dict[str, Any]) -> None:
        self._descriptor = descriptor
        self._namespace = namespace
        self._objects: list[Any] = []
        self._keys: dict[int, int] = {}

    def serve(self) -> None:
        """Answer until the checker is gone."""
        while True:
            self._answer(wire.receive(self._descriptor))

    def call_back(self, key: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have the checker call its own function; it may ask for more while we wait."""
        wire.send(self._descriptor, ["call", key, self._encode(args), self._encode(kwargs)])
        while True:
            message = wire.receive(self._descriptor)
            if message[0] == "returned":
                return self._decode(message[1])
            if message[0] == "raised":
                raise getattr(builtins, message[1])(message[2])
            self._answer(message)

    def _answer(self, message: list[Any]) -> None:
        try:
            reply = self._perform(message)
        except BaseException as error:
            reply = self.describe(error)
        _flush()
        try:
            wire.send(self._descriptor, reply)
        except wire.WireError as error:
            wire.send(self._descriptor, ["raised", "", [str(error)], type(error).__name__])

    def _perform(self, message: list[Any]) -> list[Any]:
        operation, trees, kwargs_tree = message
        if operation == "names":
            known = [name for name in trees if name in self._namespace]
            return ["names", {name: self._encode(self._namespace[name]) for name in known}]
        args, kwargs = [self._decode(tree) for tree in trees], self._decode(kwargs_tree)
        if operation == "next":
            try:
                return ["returned", self._encode(next(args[0])), []]
            except StopIteration:
                return ["stopped"]
        result = OPERATIONS[operation](*args, **kwargs)
        changed = []
        if operation == "call":
            changed = [[i, now] for i, now in enumerate(self._mutable(args, trees)) if now is not None]
        return ["returned", self._encode(result), changed]

    def _mutable(self, args: list[Any], trees: list[Any]) -> list[Any]:
        """For each argument its new tree if it was changed in place, else None."""
        trees_now: list[Any] = []
        for arg, tree in zip(args, trees, strict=True):
            now = self._encode(arg) if type(arg) in codec.MUTABLE else tree
            trees_now.append(None if now == tree else now)
        return trees_now

    def describe(self, error: BaseException) -> list[Any]:
        """The nearest builtin ancestor's name, the arguments as far as they are data, and the class's own name."""
        name = next(
            (kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind), ""
        )
        try:
            args = [codec.encode(arg, codec.data_only) for arg in error.args]
        except BaseException:
            args = [_safe_text(error)]
        return ["raised", name, args, type(error).__name__]

    def _encode(self, value: Any) -> Any:
        return codec.encode(value, self._reference)

    def _reference(self, value: Any) -> list[Any]:
        """A handle, with the plain value of a builtin's subclass and the truth of a match, which is always true."""
        if type(value) is Callback:
            return ["k", value._key]
        key = self._keys.get(id(value))
        if key is None:
            key = self._keys[id(value)] = len(self._objects)
            self._objects.append(value)  # kept alive, so the id stays its own
        plain = codec.plain_value(value)
        kind = type(value).__name__
        if plain is not None:
            return ["v", key, kind, codec.encode(plain, self._reference, 1)]
        return ["m" if type(value) is re.Match else "h", key, kind]

    def _decode(self, tree: Any) -> Any:
        return codec.decode(tree, self._resolve)

    def _resolve(self, tree: list[Any]) -> Any:
        return Callback(self, tree[1]) if tree[0] == "k" else self._objects[tree[1]]


def _safe_text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return type(error).__name__


def _call(function: Any, /, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": _call,
    "getattr": getattr,
    "setattr": setattr,
    "delattr": delattr,
    "str": str,
    "repr": repr,
    "len": len,
    "iter": iter,
    "int": int,
    "float": float,
    "round": round,
    "format": format,
    "reversed": reversed,
    "enter": lambda value: type(value).__enter__(value),
    "exit": lambda value: type(value).__exit__(value, None, None, None),
}
OPERATIONS |= {
    name: getattr(operator, name) for name in f"{codec.FORWARDED} {codec.ARITHMETIC}".split() if name not in OPERATIONS
}


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # a program may close or replace its streams
            continue


def run(link: int, source_descriptor: int) -> None:
    """Load the program, say how that went, and serve its objects. Called in a locked-up process; never returns."""
    module = ModuleType(MODULE)
    server = Server(link, module.__dict__)
    warm_up()
    wire.send(link, ["ready"])
    try:
        size = int.from_bytes(wire.read_exactly(source_descriptor, 4), "big")
        frame = wire.read_exactly(source_descriptor, size)
    except EOFError:  # the pair was not needed
        os._exit(0)
    script = frame[:1] == SCRIPT
    if script:
        _make_stdin(source_descriptor)
        module.__name__ = "__main__"
    os.close(source_descriptor)
    sys.modules[module.__name__] = module
    gc.enable()
    outcome: list[Any] = ["loaded"]
    try:
        source = frame[1:].decode("utf-8", "surrogatepass")
        exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        if not (script and type(error) is SystemExit and error.code in (None, 0)):
            outcome = server.describe(error)
    _flush()
    try:
        wire.send(link, outcome)
        server.serve()
    except (EOFError, OSError):
        pass
    finally:
        _flush()
        os._exit(0)


def _make_stdin(descriptor: int) -> None:
    """Let the program read what follows its source as its standard input, and nothing more than read."""
    with socket.socket(fileno=os.dup(descriptor)) as end:
        end.shutdown(socket.SHUT_WR)
    os.dup2(descriptor, 0, inheritable=False)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115 (stays open)


def warm_up() -> None:
    """Write to the pages that every program writes to, while nobody waits: each costs a copy after the fork."""
    namespace: dict[str, Any] = {}
    exec(compile("def f(x):\n    return [x + 1]\n", "<warm>", "exec", dont_inherit=True), namespace)
    tree = codec.encode([namespace["f"](1), "a", {1: 2.5}], codec.data_only)
    codec.decode(json.loads(wire.to_json(tree)), codec.no_references)
