"""What the playground does behind its page: requests, the models that answer them, and the thread in which they do."""

import secrets
import shlex
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationInfo, field_validator

from trivium.base.errors import DataError, SandboxError, TriviumError
from trivium.base.fingerprint import fingerprint_path
from trivium.preferences.desk import ConflictError
from trivium.preferences.judgement import PLAY_SOURCE, Prompt, Sample
from trivium.preferences.votes import LETTERS
from trivium.preferences.web.execution import Runner
from trivium.records import Message, Record, Task
from trivium.sandbox import Job
from trivium.tasks.check import CHECK_LIMITS
from trivium.tasks.extract import extract_completion, open_function, program
from trivium.tokenizer import Tokenizer
from trivium.tokenizer.special import GAP_TOKENS

if TYPE_CHECKING:  # the page is there before torch is
    from trivium.generation.completer import Completer

MOST_LOADED = 2
"""Models in memory."""
MOST_CHARACTERS = 16_000
"""Of a prompt, a system text or a suffix."""
MOST_TOKENS = 1024
"""Of an answer."""
KEPT = 20
"""Turns remembered for a person, the newest."""
MODES = {"complete": "Complete a text", "chat": "Chat", "gap": "Fill a gap"}


class Ask(Record):
    """One request: what to answer, by which models, drawn how."""

    mode: Literal["complete", "chat", "gap"] = "complete"
    prompt: str = Field(max_length=MOST_CHARACTERS)
    """The text, the user's turn, or what comes before the gap."""
    system: str = Field(default="", max_length=MOST_CHARACTERS)
    """What a chat begins with."""
    suffix: str = Field(default="", max_length=MOST_CHARACTERS)
    """What comes after the gap."""
    models: tuple[str, ...] = Field(min_length=1, max_length=2)
    """One by name, or two blind; the same one twice gives two samples of it."""
    temperature: float = Field(default=1.0, ge=0, le=10, allow_inf_nan=False)
    max_new_tokens: int = Field(default=256, ge=1, le=MOST_TOKENS)
    seed: int = Field(default=0, ge=0, lt=2**53)

    @field_validator("prompt", "system", "suffix")
    @classmethod
    def _is_text(cls, text: str, info: ValidationInfo) -> str:
        if "\0" in text:
            raise ValueError("holds a NUL, which no text has")
        if info.field_name == "prompt" and not text.strip():
            raise ValueError("is empty")
        return text

    @property
    def blind(self) -> bool:
        return len(self.models) == 2

    @property
    def options(self) -> dict[str, str]:
        """What `Completer.encode` takes beside the prompt."""
        return {"chat": {"system": self.system}, "gap": {"suffix": self.suffix}, "complete": {}}[self.mode]

    @property
    def recorded(self) -> Prompt:
        """The prompt as judgements keep it: a text, a conversation, or a gap with its tokens spelled."""
        if self.mode == "chat":
            turns = [("system", self.system), ("user", self.prompt)]
            return tuple(Message(role=role, content=text) for role, text in turns if text)
        if self.mode == "gap":
            before, after, middle = GAP_TOKENS
            return f"{before}{self.prompt}{after}{self.suffix}{middle}"
        return self.prompt

    def sample_index(self, place: int) -> int:
        """The how-manieth sample of its model the answer at a place of `models` is, from 0."""
        return self.models[:place].count(self.models[place])

    def program(self, answer: str) -> str:
        """The program that request and answer make."""
        if self.mode == "gap":
            return self.prompt + answer + self.suffix
        if self.mode == "complete" and open_function(self.prompt) is None:
            return self.prompt + answer
        task = Task(id="play", prompt=self.prompt, entry_point="", tests=())
        return program(task, extract_completion(self.prompt, answer))

    def command(self, folder: Path, place: int) -> str:
        """The same request as a line for a shell; it prints the same answer, as the last one where it prints two."""
        words = ["trivium", "generate", str(folder), "--file", "/dev/stdin", "--temperature", f"{self.temperature:g}"]
        words += ["--max-new-tokens", str(self.max_new_tokens), "--seed", str(self.seed)]
        words += ["--n", "2"] if self.sample_index(place) else []
        if self.mode == "chat":
            words += ["--system", self.system] if self.system else ["--chat"]
        gap = f" --suffix-file <(printf %s {shlex.quote(self.suffix)})" if self.mode == "gap" else ""
        return f"printf %s {shlex.quote(self.prompt)} | {shlex.join(words)}{gap}"


@dataclass(frozen=True)
class Ran:
    """What came of running a program."""

    verdict: str
    good: bool
    stdout: str
    stderr: str
    seconds: float


@dataclass
class Side:
    """One answer as it comes to be."""

    place: int
    """In `Ask.models`."""
    text: str = ""
    finish: str = ""
    ids: tuple[int, ...] = ()
    pieces: list[tuple[str, float]] = field(default_factory=list)
    """Its text with the log-probability of each piece."""
    weights: str = ""
    """Fingerprint of the model's directory."""
    ran: Ran | None = None
    after: str = ""
    """What was run after it."""


@dataclass
class Turn:
    """A request with its answers, in the order shown."""

    id: str
    person: str
    ask: Ask
    sides: list[Side]
    state: Literal["waiting", "writing", "done", "cut", "failed"] = "waiting"
    problem: str = ""
    execution_seen: bool = False
    judgement: str = ""
    """The vote's name in the store."""
    halt: threading.Event = field(default_factory=threading.Event)
    """Set to stop the answers."""
    ended: threading.Event = field(default_factory=threading.Event)
    voting: threading.Lock = field(default_factory=threading.Lock)
    news: SimpleQueue[tuple[str, str] | None] = field(default_factory=SimpleQueue)
    """(letter, text) as it is written, then None."""

    @property
    def named(self) -> bool:
        """Whether names, and what would tell them, may be shown."""
        return not self.ask.blind or bool(self.judgement)

    @property
    def votable(self) -> bool:
        return self.ask.blind and self.state == "done"

    def next_news(self, seconds: float) -> list[tuple[str, str] | None]:
        """What has been written since, waiting for it a while; empty if nothing was."""
        found = []
        try:
            found.append(self.news.get(timeout=seconds))
            while True:
                found.append(self.news.get_nowait())
        except Empty:
            return found

    def samples(self) -> tuple[Sample, ...]:
        """The answers for the store, in the order of `Ask.models`."""
        return tuple(
            Sample(
                text=side.text,
                ids=side.ids if self.ask.mode == "complete" else (),  # elsewhere the prompt's ids are not its text's
                finish=side.finish,
                model=f"{PLAY_SOURCE}:{side.weights}",
                sample=self.ask.sample_index(side.place),
            )
            for side in sorted(self.sides, key=lambda side: side.place)
        )


class Playground:
    """Models that answer people, one request after another in a thread of its own.

    Args:
        folders: model directories by the names shown.
        runner: runs programs.
    """

    def __init__(self, folders: Mapping[str, Path], runner: Runner) -> None:
        self.folders, self.runner = dict(folders), runner
        self._loaded: dict[str, tuple[Completer, str]] = {}  # the last used at the end; the thread's own
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="playground")
        self._turns: dict[str, Turn] = {}
        self._lock = threading.Lock()

    @cached_property
    def modes(self) -> dict[str, str]:
        """The modes that a model at least can do, with their names."""
        tokenizers = [Tokenizer.load(folder) for folder in self.folders.values()]
        known = {
            "complete": True,
            "chat": any(isinstance(each.config.get("chat_template"), str) for each in tokenizers),
            "gap": any(each.fills_gaps for each in tokenizers),
        }
        return {mode: title for mode, title in MODES.items() if known[mode]}

    def start(self, person: str, ask: Ask) -> Turn:
        """Begin to answer.

        Raises:
            DataError: there is no such model.
            ConflictError: the person's last request is still being answered.
        """
        if unknown := [name for name in ask.models if name not in self.folders]:
            raise DataError(f"there is no model {unknown[0][:40]!r}. Models: {', '.join(self.folders)}.")
        places = list(range(len(ask.models)))
        secrets.SystemRandom().shuffle(places)
        turn = Turn(secrets.token_urlsafe(12), person, ask, [Side(place) for place in places])
        with self._lock:
            mine = [each for each in self._turns.values() if each.person == person]
            if any(not each.ended.is_set() for each in mine):
                raise ConflictError("your last request is still being answered. Stop it, or wait for its end.")
            for old in mine[: max(0, len(mine) - KEPT + 1)]:
                del self._turns[old.id]
            self._turns[turn.id] = turn
        self._thread.submit(self._answer, turn)
        return turn

    def turn(self, person: str, name: str) -> Turn | None:
        """One of the person's own turns, as long as it is remembered."""
        found = self._turns.get(name)
        return found if found is not None and found.person == person else None

    def turns(self, person: str) -> list[Turn]:
        """The person's turns that are remembered, oldest first."""
        with self._lock:
            return [each for each in self._turns.values() if each.person == person]

    def run(self, turn: Turn, at: int, after: str) -> None:
        """Run an answer in the sandbox, with `after` behind it."""
        side = turn.sides[at]
        source = turn.ask.program(side.text)
        job = Job(f"{source}\n{after}\n" if after else source, ("pass",), entry_points=(), limits=CHECK_LIMITS)
        turn.execution_seen, side.after = True, after
        try:
            result = self.runner.run(job)
        except SandboxError as error:
            side.ran = Ran(f"programs cannot be run here: {error}", False, "", "", 0.0)
            return
        reason = next((test.message for test in result.tests if test.message), result.reason)
        verdict = "ran to its end" if result.passed else f"{result.verdict}: {reason}" if reason else result.verdict
        side.ran = Ran(verdict, result.passed, result.stdout, result.stderr, result.wall_seconds)

    def close(self) -> None:
        """Stop what is being written, and end the thread and the sandbox."""
        for turn in self._turns.values():
            turn.halt.set()
        self._thread.shutdown(cancel_futures=True)
        self.runner.close()

    # In the thread

    def _answer(self, turn: Turn) -> None:
        try:
            if not turn.halt.is_set():
                turn.state = "writing"
                names = [turn.ask.models[side.place] for side in turn.sides]
                models = self._load(names)  # all of them before the first word: waiting tells nobody's name
                prompts = [models[name][0].encode(turn.ask.prompt, **turn.ask.options) for name in names]
                for letter, side, name, prompt in zip(LETTERS, turn.sides, names, prompts, strict=False):
                    if not turn.halt.is_set():
                        _write(turn, letter, side, *models[name], prompt)
            turn.state = "cut" if turn.halt.is_set() else "done"
        except Exception as error:  # whatever breaks must reach the page that waits
            known = isinstance(error, TriviumError)
            turn.problem = str(error) if known else f"the model failed: {type(error).__name__}: {error}"
            turn.state = "failed"
        finally:
            turn.ended.set()
            turn.news.put(None)

    def _load(self, names: list[str]) -> dict[str, tuple["Completer", str]]:
        """These models with the fingerprints of their directories; others leave the memory first."""
        from trivium.generation.completer import Completer

        for name in dict.fromkeys(names):
            if name not in self._loaded:
                while len(self._loaded) >= MOST_LOADED:
                    del self._loaded[next(each for each in self._loaded if each not in names)]
                folder = self.folders[name]
                self._loaded[name] = Completer(folder), fingerprint_path(folder)
            self._loaded[name] = self._loaded.pop(name)
        return {name: self._loaded[name] for name in names}


def _write(turn: Turn, letter: str, side: Side, completer: "Completer", weights: str, prompt: list[int]) -> None:
    """Draw one answer; it reaches the page as it is drawn."""
    from trivium.generation.completer import TextStream, sample_seeds, token_pieces

    ask, index = turn.ask, turn.ask.sample_index(side.place)
    stream = TextStream(completer.tokenizer, completer.stop_ids, lambda text: turn.news.put((letter, text)))

    def drawn(sample: int, token: int) -> bool:
        stream(sample, token)
        return turn.halt.is_set()

    (sample,) = completer.sample(
        [prompt],
        sample_seeds([ask.prompt] * (index + 1), ask.seed)[index:],
        temperature=ask.temperature,
        max_new_tokens=ask.max_new_tokens,
        on_token=drawn,
    )
    stream.flush()
    side.text, side.finish, side.ids = completer.tokenizer.decode(sample.ids), sample.finish, tuple(sample.ids)
    side.pieces, side.weights = token_pieces(completer, sample), weights
