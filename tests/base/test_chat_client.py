"""The chat client against a real HTTP server."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from trivium.base.chat_client import ChatClient, ChatConfig, ChatError
from trivium.base.errors import ConfigError

Reply = tuple[int, Any]


class Server:
    """Answers with a list of replies, the last of them for ever, and keeps what it was sent."""

    def __init__(self, replies: list[Reply]) -> None:
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((dict(self.headers), body))
                status, content = replies[min(len(outer.requests), len(replies)) - 1]
                sent = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(sent)))
                if status == 307:
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """`serve((status, content), ...)`."""
    servers: list[Server] = []

    def start(*replies: Reply) -> Server:
        servers.append(Server(list(replies)))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def said(text: str | None) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def client(server: Server, **settings: Any) -> ChatClient:
    return ChatClient(ChatConfig(url=server.url, model="judge", wait_seconds=0, **settings))


ASKED = [{"role": "user", "content": "which?"}]


def test_asks_with_model_key_and_seed(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    server = serve((200, said("A")))
    assert client(server, key_variable="JUDGE_KEY").ask(ASKED, seed=7) == "A"
    headers, body = server.requests[0]
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["messages"], body["seed"], body["temperature"]) == ("judge", ASKED, 7, 0.0)


def test_tries_again_while_the_server_is_busy(serve: Callable[..., Server]) -> None:
    server = serve((429, {}), (503, {}), (200, said("B")))
    assert client(server).ask(ASKED) == "B"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "requests", "told"),
    [
        ((401, {"error": "bad key"}), 1, "status 401.*bad key"),
        ((500, {}), 2, "status 500"),
        ((307, {}), 1, "status 307"),
        ((200, b"<html>"), 1, "no chat completion"),
        ((200, said(None)), 1, "nothing"),
    ],
)
def test_no_usable_answer_is_an_error(serve: Callable[..., Server], reply: Reply, requests: int, told: str) -> None:
    server = serve(reply)
    with pytest.raises(ChatError, match=told):
        client(server, tries=2).ask(ASKED)
    assert len(server.requests) == requests


def test_a_server_out_of_reach_is_an_error() -> None:
    config = ChatConfig(url="http://127.0.0.1:9/v1", model="judge", tries=2, wait_seconds=0)
    with pytest.raises(ChatError, match="after 2 tries"):
        ChatClient(config).ask(ASKED)


def test_refuses_what_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with pytest.raises(ConfigError, match="http"):
        ChatClient(ChatConfig(url="ftp://host/v1", model="m"))
    with pytest.raises(ConfigError, match="model is empty"):
        ChatClient(ChatConfig())
    with pytest.raises(ConfigError, match="not encrypted"):
        ChatClient(ChatConfig(url="http://example.org/v1", model="m", key_variable="JUDGE_KEY"))
