"""The checker's hold on the program: proxies for its objects, and the requests behind them."""

import builtins
import operator
from collections.abc import Callable
from typing import Any

from . import codec, wire

MAX_MESSAGE = 200


class ProgramGone(BaseException):
    """The program's process closed its end: not an `Exception`, so that no test can swallow it."""


class ProgramError(Exception):
    """The program raised what must not act as itself here: StopIteration, AssertionError, its own classes."""


class OpaqueError(Exception):
    """A test compared an object that only the program could compare."""


class Handle:
    """An object of the program: usable through proxied operations, comparable only with None."""

    __slots__ = ("_handle_key", "_handle_kind", "_handle_link", "_handle_true")

    def __init__(self, link: "Link", key: int, kind: str, true: bool = False) -> None:
        for name, value in (("link", link), ("key", key), ("kind", kind), ("true", true)):
            object.__setattr__(self, f"_handle_{name}", value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._handle_link.call(self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._handle_link.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._handle_link.ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._handle_link.ask("delattr", self, name)

    def __next__(self) -> Any:
        return self._handle_link.ask("next", self)

    def __exit__(self, *exception: object) -> Any:
        return self._handle_link.ask("exit", self)

    def __bool__(self) -> bool:
        return True if self._handle_true else self._opaque()

    def __eq__(self, other: object) -> bool:
        return False if other is None else self._opaque()

    def __ne__(self, other: object) -> bool:
        return True if other is None else self._opaque()

    def _opaque(self, *others: object) -> Any:
        raise OpaqueError(f"a {self._handle_kind} of the program cannot be compared here; only plain data can")

    __lt__ = __le__ = __gt__ = __ge__ = _opaque
    __hash__ = _opaque  # pyright: ignore[reportAssignmentType]


class Valued(Handle):
    """An instance of a builtin's subclass, such as a named tuple: compared by its plain value, otherwise a handle."""

    __slots__ = ("_handle_value",)

    def __init__(self, link: "Link", key: int, kind: str, value: Any) -> None:
        super().__init__(link, key, kind)
        object.__setattr__(self, "_handle_value", value)

    @property
    def __class__(self) -> type:
        return type(self._handle_value)

    @__class__.setter
    def __class__(self, kind: type) -> None:
        raise TypeError("an object of the program keeps its class")

    def __bool__(self) -> bool:
        return bool(self._handle_value)

    def __hash__(self) -> int:
        return hash(self._handle_value)

    def __contains__(self, item: object) -> bool:
        return item in self._handle_value


def _compare(name: str) -> Callable[[Valued, object], Any]:
    compare = getattr(operator, name)

    def method(self: Valued, other: object) -> Any:
        return compare(self._handle_value, other._handle_value if type(other) is Valued else other)

    return method


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Valued, f"__{_name}__", _compare(_name))


def _forward(operation: str, swapped: bool = False) -> Callable[..., Any]:
    def method(self: Handle, *args: Any) -> Any:
        return self._handle_link.ask(operation, *((*args, self) if swapped else (self, *args)))

    return method


for _name in codec.FORWARDED.split():
    setattr(Handle, f"__{_name}__", _forward(_name))
for _name in codec.ARITHMETIC.split():
    setattr(Handle, f"__{_name.strip('_')}__", _forward(_name))
    setattr(Handle, f"__r{_name.strip('_')}__", _forward(_name, swapped=True))


class Link:
    """Requests to the program and its answers; whatever arrives is untrusted."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._callbacks: list[Callable[..., Any]] = []

    def ready(self) -> None:
        """Wait until the program's process is locked up. Raises ProgramGone if it could not be."""
        if self._receive() != ["ready"]:
            raise ProgramGone

    def loaded(self) -> None:
        """Wait for the program to load. Raises what it raised."""
        message = self._receive()
        if message[0] != "loaded":
            raise self._error(message)

    def names(self, names: list[str]) -> dict[str, Any]:
        """The program's values of those names that it defines."""
        message = self._exchange(["names", names, ["d"]])
        if type(message[1]) is not dict:
            raise ProgramError("the program's answer is malformed")
        return {name: self._decode(tree) for name, tree in message[1].items() if name in names}

    def ask(self, operation: str, *args: Any) -> Any:
        """Perform an operation in the program's process and return its data or a handle."""
        message = self._exchange([operation, [self._encode(arg) for arg in args], ["d"]])
        if message[0] == "stopped" and operation == "next":
            raise StopIteration
        return self._returned(message)

    def call(self, function: Handle, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function of the program; what it changed in place is changed here too."""
        trees = [self._encode(function), *(self._encode(arg) for arg in args)]
        message = self._exchange(["call", trees, self._encode(kwargs)])
        result = self._returned(message)
        changed = message[2] if len(message) > 2 else []
        if type(changed) is list:
            for entry in changed:
                self._copy_back(args, entry)
        return result

    def _copy_back(self, args: tuple[Any, ...], entry: Any) -> None:
        if type(entry) is not list or len(entry) != 2 or type(entry[0]) is not int or not 1 <= entry[0] <= len(args):
            raise ProgramError("the program's answer is malformed")
        old, new = args[entry[0] - 1], self._decode(entry[1])
        if codec.merge(old, new) is not old:
            raise ProgramError("the program's answer is malformed")

    def _exchange(self, request: list[Any]) -> list[Any]:
        self._send(request)
        while True:
            message = self._receive()
            if message[0] != "call":
                return message
            self._send(self._serve_callback(message))

    def _serve_callback(self, message: list[Any]) -> list[Any]:
        try:
            _, key, args, kwargs = message
            result = self._callbacks[key](*self._decode(args), **self._decode(kwargs))
            return ["returned", self._encode(result)]
        except Exception as error:
            name = type(error).__name__
            return ["raised", name if _builtin_exception(name) else "RuntimeError", str(error)[:MAX_MESSAGE]]

    def _returned(self, message: list[Any]) -> Any:
        if message[0] != "returned" or len(message) < 2:
            raise self._error(message)
        return self._decode(message[1])

    def _error(self, message: list[Any]) -> Exception:
        """The builtin exception that the program named; anything else becomes a ProgramError."""
        if message[0] != "raised" or len(message) != 4:
            return ProgramError("the program's answer is malformed")
        _, name, args, own_name = message
        kind = _builtin_exception(name) if name == own_name or name != "Exception" else None
        try:
            values = [self._decode(arg) for arg in args]
            if kind is not None:
                return kind(*values)
            return ProgramError(": ".join([str(own_name), *(str(value) for value in values)])[:MAX_MESSAGE])
        except Exception:
            return ProgramError(str(own_name)[:MAX_MESSAGE])

    def _send(self, message: list[Any]) -> None:
        try:
            wire.send(self._descriptor, message)
        except OSError:
            raise ProgramGone from None

    def _receive(self) -> list[Any]:
        try:
            message = wire.receive(self._descriptor)
        except EOFError:
            raise ProgramGone from None
        except wire.WireError as error:
            raise ProgramGone from error  # a broken stream cannot be read on
        if type(message) is not list or not message or type(message[0]) is not str:
            raise ProgramError("the program's answer is malformed")
        return message

    def _encode(self, value: Any) -> Any:
        return codec.encode(value, self._reference)

    def _reference(self, value: Any) -> list[Any]:
        if type(value) in (Handle, Valued):
            return ["h", value._handle_key]
        if callable(value):
            self._callbacks.append(value)
            return ["k", len(self._callbacks) - 1]
        plain = codec.plain_value(value)
        if plain is not None:
            return codec.encode(plain, self._reference, 1)
        raise TypeError(f"a {type(value).__name__} of the tests cannot be passed to the program")

    def _decode(self, tree: Any) -> Any:
        try:
            return codec.decode(tree, self._resolve)
        except wire.WireError as error:
            raise ProgramError(str(error)) from None

    def _resolve(self, tree: list[Any]) -> Any:
        tag, key = tree[0], tree[1]
        if tag == "k" and type(key) is int and 0 <= key < len(self._callbacks):
            return self._callbacks[key]
        if tag not in ("h", "m", "v") or type(key) is not int:
            raise wire.WireError("unknown tag")
        kind = str(tree[2])[:40]
        if tag == "v":
            return Valued(self, key, kind, codec.decode(tree[3], self._resolve, 1))
        return Handle(self, key, kind, true=tag == "m")


_ACTING = {"StopIteration", "StopAsyncIteration", "AssertionError"}


def _builtin_exception(name: Any) -> type[Exception] | None:
    kind = getattr(builtins, name, None) if type(name) is str and name not in _ACTING else None
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None
