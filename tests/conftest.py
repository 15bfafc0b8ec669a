"""Models small enough for any test, with weights that leave no part of them idle."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:  # tests that need no torch should not wait for it
    from torch import Tensor

    from trivium.model import Decoder, Scorer

    Model = TypeVar("Model", bound=Decoder)

TINY = {
    "vocab_size": 48,
    "n_layers": 2,
    "d_model": 32,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 8,
    "d_ff": 48,
    "max_seq_len": 64,
}


@pytest.fixture(scope="session")
def make_decoder() -> Callable[..., Decoder]:
    """`make_decoder(seed=0, **shape)`: a random `Decoder` in fp32."""
    from trivium.model import Decoder

    def make(seed: int = 0, **shape: object) -> Decoder:
        return _random(Decoder, seed, shape)

    return make


@pytest.fixture(scope="session")
def make_scorer() -> Callable[..., Scorer]:
    """`make_scorer(seed=0, **shape)`: a random `Scorer` in fp32."""
    from trivium.model import Scorer

    def make(seed: int = 0, **shape: object) -> Scorer:
        return _random(Scorer, seed, shape)

    return make


@pytest.fixture(scope="session")
def train_briefly() -> Callable[[Decoder, Callable[[], Tensor]], list[float]]:
    """`train_briefly(model, loss)`: 60 steps of AdamW; the loss before each."""
    import torch

    def train(model: Decoder, loss: Callable[[], Tensor]) -> list[float]:
        optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
        for _ in range(60):
            now = loss()
            optimizer.zero_grad()
            now.backward()
            optimizer.step()
            losses.append(now.item())
        return losses

    return train


def _random(kind: type[Model], seed: int, shape: dict[str, object]) -> Model:
    import torch

    from trivium.model import ModelConfig

    model = kind(ModelConfig.model_validate(TINY | shape))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.2 * noise)
    return model


Reply = Callable[[dict[str, Any]], str | None]
"""The body of a request to the chat model's answer, or None for status 400."""


@pytest.fixture
def chat_server() -> Iterator[Callable[[Reply], tuple[str, list[dict[str, Any]]]]]:
    """`chat_server(reply)`: the URL of an OpenAI-compatible server that answers so, and the requests it has had."""
    servers: list[ThreadingHTTPServer] = []

    def start(reply: Reply) -> tuple[str, list[dict[str, Any]]]:
        requests: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                content = reply(requests[-1])
                sent = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
                self.send_response(400 if content is None else 200)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/v1", requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
