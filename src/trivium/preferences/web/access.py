"""Who may do what: hosts, origins, sizes, sessions, CSRF, rates. Nothing here knows what is labelled."""

import hashlib
import hmac
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, LifoQueue
from typing import Any
from urllib.parse import urlsplit

from trivium.preferences.people import Person
from trivium.preferences.store import PreferenceStore

MOST_BYTES = 256 * 1024
"""Of a request's body."""
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # `no-referrer` would make browsers send `Origin: null` with a form.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), browsing-topics=()",
}
_SAFE = {"GET", "HEAD"}


@dataclass
class Address:
    """Where the page is reached."""

    origins: frozenset[str]
    """Scheme, host and port as browsers send them; any other host or origin is refused."""
    port: int
    one_time: str = ""
    """The token of the printed link, until somebody has used it; empty where people log in."""
    owner: str = ""
    """Whom the link makes whoever brings it."""
    link_lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def hosts(self) -> frozenset[str]:
        return frozenset(urlsplit(origin).netloc for origin in self.origins)

    @property
    def secure(self) -> bool:
        """Whether cookies may ask for TLS."""
        return all(origin.startswith("https:") for origin in self.origins)

    @property
    def cookie(self) -> str:
        """Cookies know no ports: two pages on one machine need two names."""
        return f"trivium_{self.port}"

    def use_link(self, token: str) -> bool:
        """Whether this is the one-time token; it is none afterwards."""
        with self.link_lock:
            if not self.one_time or not hmac.compare_digest(token.encode(), self.one_time.encode()):
                return False
            self.one_time = ""
            return True


@dataclass(frozen=True)
class Visit:
    """One request by somebody who is logged in."""

    store: PreferenceStore
    person: Person
    token: str
    began: str
    """When the session began."""

    @property
    def csrf(self) -> str:
        return csrf_token(self.token)


def csrf_token(secret: str) -> str:
    """What forms carry: derived from a cookie that other sites can neither read nor set."""
    return hmac.new(secret.encode(), b"csrf", hashlib.sha256).hexdigest()


def csrf_fits(secret: str, sent: object) -> bool:
    """Whether a form's token is the one that its page was given."""
    return isinstance(sent, str) and bool(secret) and hmac.compare_digest(sent.encode(), csrf_token(secret).encode())


class Limiter:
    """At most `limit` events a key within `seconds`, in this process."""

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self.seconds, self.clock = limit, seconds, clock
        self._events: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def allows(self, key: str) -> bool:
        """Count an event, unless there have been too many."""
        with self._lock:
            now = self.clock()
            if len(self._events) > 10_000:
                self._events = {name: times for name, times in self._events.items() if times[-1] > now - self.seconds}
            times = self._events.setdefault(key, deque())
            while times and times[0] <= now - self.seconds:
                times.popleft()
            if len(times) >= self.limit:
                return False
            times.append(now)
            return True


class Pool:
    """Open stores, each used by one request at a time."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._idle: LifoQueue[PreferenceStore] = LifoQueue()
        self._turn = threading.Lock()

    @contextmanager
    def store(self) -> Iterator[PreferenceStore]:
        """A store for one request; one whose connection broke is not used again."""
        try:
            store = self._idle.get_nowait()
        except Empty:
            store = PreferenceStore(self.location)
            store.db.turn = self._turn
        try:
            yield store
        finally:
            if store.db.usable and not store.db.in_transaction:
                self._idle.put(store)
            else:
                store.close()

    def close(self) -> None:
        """Close those that are idle."""
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return


class Guard:
    """ASGI middleware before everything else: host, origin and size are checked, and every answer gets `HEADERS`."""

    def __init__(self, app: Any, address: Address) -> None:
        self.app, self.address = app, address

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refusal(scope["method"], headers)
        if refused:
            await _answer(send, *refused)
            return
        started, size = False, 0

        async def counted() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MOST_BYTES:
                raise _TooLarge
            return message

        async def with_headers(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                present = {name.lower() for name, _ in message["headers"]}
                extra = HEADERS | {"cache-control": "no-store"}
                message["headers"] = [
                    *message["headers"],
                    *((key.encode(), value.encode()) for key, value in extra.items() if key.encode() not in present),
                ]
            await send(message)

        try:
            await self.app(scope, counted, with_headers)
        except _TooLarge:
            if started:
                raise
            await _answer(send, 413, "The request is too large.")

    def _refusal(self, method: str, headers: dict[str, str]) -> tuple[int, str] | None:
        if headers.get("host", "").lower() not in self.address.hosts:
            return 421, "This address is not served here. Use the link that the terminal shows."
        if not headers.get("content-length", "0").isdigit() or int(headers.get("content-length", "0")) > MOST_BYTES:
            return 413, "The request is too large."
        if method in _SAFE:
            return None
        origin = headers.get("origin")
        if origin is not None:
            same = origin.lower() in self.address.origins
        else:
            same = headers.get("sec-fetch-site", "none") in ("same-origin", "none")
        return None if same else (403, "The request came from another site.")


class _TooLarge(Exception):
    """The body went past `MOST_BYTES`."""


async def _answer(send: Any, status: int, text: str) -> None:
    body = text.encode()
    extra = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body)), "cache-control": "no-store"}
    headers = [(name.encode(), value.encode()) for name, value in (HEADERS | extra).items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def new_token() -> str:
    """For a link or a cookie."""
    return secrets.token_urlsafe(24)
