"""A client of chat models behind the OpenAI-compatible `/v1/chat/completions`; the standard library alone."""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from trivium.base.config import Config
from trivium.base.errors import ConfigError, TriviumError

_MOST_BYTES = 4 * 2**20
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that may be gone at the next try."""
_LONGEST_WAIT = 60.0


class ChatError(TriviumError, RuntimeError):
    """The chat model gave no usable answer, tries included."""


class ChatConfig(Config):
    """Which chat model is asked, and how."""

    url: str = "http://127.0.0.1:8000/v1"
    """Where the server's API begins; `/chat/completions` is added."""
    model: str = ""
    """The model's name at that server."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key; unset sends none."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """Longest silence of the server."""
    tries: int = Field(default=4, ge=1, le=20)
    """Attempts at one question where the server is busy, broken or out of reach."""
    wait_seconds: float = Field(default=1.0, ge=0)
    """Wait before the second attempt; it doubles each time, unless the server names its own."""
    max_tokens: int = Field(default=512, ge=1)
    """Cap on an answer, in tokens."""
    temperature: float = Field(default=0.0, ge=0)
    """Of sampling."""


class ChatClient:
    """Asks one chat model; safe to use from several threads.

    Raises:
        ConfigError: the URL is none, no model is named, or the key would cross a network unencrypted.
    """

    def __init__(self, config: ChatConfig) -> None:
        parts = urlsplit(config.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"the chat server's url is {config.url!r}; it must begin with http:// or https://.")
        if not config.model:
            raise ConfigError("the chat server's model is empty. Name the model that it serves.")
        self.config = config
        self._key = os.environ.get(config.key_variable, "").strip() if config.key_variable else ""
        loopback = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
        if self._key and parts.scheme == "http" and not loopback:
            raise ConfigError(f"{config.url} is not encrypted, and {config.key_variable} is secret. Use https://.")
        self._url = config.url.rstrip("/") + "/chat/completions"
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, messages: Sequence[Mapping[str, str]], seed: int | None = None) -> str:
        """The model's answer to a conversation of `{"role", "content"}`.

        Args:
            messages: the conversation; the model speaks next.
            seed: passed on, for servers that can repeat themselves.
        Raises:
            ChatError: no answer after all tries, or one that is no chat completion with text.
        """
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [dict(message) for message in messages],
            "max_tokens": self.config.max_tokens,
            "temperature": self.config.temperature,
        }
        if seed is not None:
            body["seed"] = seed
        sent = json.dumps(body).encode()
        for attempt in range(1, self.config.tries + 1):
            try:
                return _text(self._send(sent))
            except urllib.error.HTTPError as error:
                with error:
                    told = error.read(300).decode(errors="replace").strip().replace("\n", " ")
                problem, asked = f"status {error.code}: {told or error.reason}", error.headers.get("Retry-After")
                passing = error.code in _PASSING
            except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
                problem, asked, passing = str(getattr(error, "reason", error)) or type(error).__name__, None, True
            if not passing or attempt == self.config.tries:
                raise ChatError(f"{self._url} gave no answer after {attempt} tries ({problem}).")
            time.sleep(_wait(asked, self.config.wait_seconds * 2 ** (attempt - 1)))
        raise AssertionError("unreachable")

    def _send(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, data=body, headers=headers, method="POST")
        with self._opener.open(request, timeout=self.config.timeout_seconds) as response:
            return response.read(_MOST_BYTES)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could carry the key elsewhere: it is an error like any other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _wait(asked: str | None, otherwise: float) -> float:
    try:
        return min(max(float(asked), 0.0), _LONGEST_WAIT) if asked else min(otherwise, _LONGEST_WAIT)
    except ValueError:  # a date
        return min(otherwise, _LONGEST_WAIT)


def _text(received: bytes) -> str:
    try:
        text = json.loads(received)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        raise ChatError(f"the chat server's answer is no chat completion: {received[:80]!r}.") from None
    if not isinstance(text, str) or not text.strip():
        raise ChatError("the chat model answered with nothing.")
    return text
