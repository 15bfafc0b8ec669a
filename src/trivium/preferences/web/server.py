"""The page on the network: which addresses are served how, and a server that ends cleanly."""

import ipaddress
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from trivium.base.errors import ConfigError
from trivium.preferences.people import people
from trivium.preferences.store import PreferenceStore
from trivium.preferences.web.access import Address, new_token
from trivium.preferences.web.execution import Trials
from trivium.preferences.web.playground import Playground

DEFAULT_PORT = 8417


@dataclass(frozen=True)
class Listening:
    """A bound socket and how it is reached."""

    socket: socket.socket
    address: Address
    url: str
    """What to open: with the one-time token on loopback, the log-in page elsewhere."""

    def close(self) -> None:
        self.socket.close()


def listen(
    store: PreferenceStore, *, host: str, port: int | None, public_url: str, owner: str, tls: bool = False
) -> Listening:
    """Bind the address, or say why it may not be.

    Args:
        host: address or name to bind.
        port: None takes the usual one, or any when that is in use.
        public_url: how browsers reach the page, where that is not the bound address.
        owner: who the one-time link lets in.
        tls: whether the server itself speaks TLS.
    Raises:
        ConfigError: the address cannot be bound, or others could come without an account.
    """
    loopback = _is_loopback(host)
    local = loopback and not public_url
    if not local:
        _require_accounts(store, f"--public-url {public_url}" if public_url else f"--host {host}")
    bound = _bind(host, port)
    number = bound.getsockname()[1]
    scheme = "https" if tls else "http"
    try:
        if public_url:
            origins = frozenset({_origin(public_url)})
        elif loopback:
            origins = frozenset(f"{scheme}://{name}:{number}" for name in ("127.0.0.1", "localhost", "[::1]"))
        elif host in ("0.0.0.0", "::", ""):
            raise ConfigError(
                f"--host {host} is every address of this machine, so the page cannot tell which name is its own. "
                "Pass --public-url, as in --public-url https://labels.example.org."
            )
        else:
            origins = frozenset({f"{scheme}://{_bracketed(host)}:{number}"})
    except BaseException:
        bound.close()
        raise
    address = Address(origins, number, one_time=new_token() if local else "", owner=owner if local else "")
    base = f"{scheme}://{_bracketed(host)}:{number}" if local else sorted(origins)[0]
    return Listening(bound, address, f"{base}/start?token={address.one_time}" if local else f"{base}/login")


def make_server(
    location: str,
    listening: Listening,
    tls: tuple[str, str] | None = None,
    trials: Trials | None = None,
    playground: Playground | None = None,
) -> Any:
    """A uvicorn server of the page; `run(sockets=[listening.socket])` serves."""
    import uvicorn

    from trivium.preferences.web.app import create_app

    config: Any = uvicorn.Config(
        create_app(location, listening.address, trials, playground),
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
    )
    return uvicorn.Server(config)


def serve(
    location: str,
    listening: Listening,
    tls: tuple[str, str] | None = None,
    trials: Trials | None = None,
    playground: Playground | None = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM; requests in progress are finished."""
    make_server(location, listening, tls, trials, playground).run(sockets=[listening.socket])


@contextmanager
def background(location: str, listening: Listening, playground: Playground | None = None) -> Iterator[str]:
    """The page served by a thread of this process; the link to open."""
    server = make_server(location, listening, playground=playground)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening.socket]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield listening.url
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def _require_accounts(store: PreferenceStore, option: str) -> None:
    if not any(each.role == "owner" and each.active and each.has_password for each in people(store)):
        raise ConfigError(
            f"{option} lets other machines in, so people need accounts, and no owner has a password yet. Start "
            "without it, open the link, and set a password under Admin."
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bind(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in [DEFAULT_PORT, 0] if port is None else [port]:
        found = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, number))
            found.listen(128)  # a link that is opened at once waits instead of being refused
            return found
        except (OSError, OverflowError) as error:
            found.close()
            reason = getattr(error, "strerror", None) or str(error)
            if port is not None or number == 0 or isinstance(error, socket.gaierror):
                raise ConfigError(f"{host} port {number} cannot be served: {reason}. Choose another.") from None
    raise AssertionError("one of the ports was bound or refused")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or not re.fullmatch(r"[\w.:\[\]-]+", parts.netloc):
        raise ConfigError(f"--public-url {url!r} is no address of a page. Write it as https://labels.example.org.")
    return f"{parts.scheme}://{parts.netloc}".lower()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
