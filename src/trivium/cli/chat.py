"""`trivium chat`: a conversation with a model in the terminal."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trivium.cli.arguments import Arguments, positive, whole
from trivium.cli.generate import temperature
from trivium.cli.invocation import Invocation

if TYPE_CHECKING:
    from trivium.generation.completer import Completer

HELP = """\
An empty line sends what was written. /reset forgets the conversation, /seed N draws other answers,
/temperature X changes the temperature, /quit (or Ctrl-D) leaves.
"""


def run(invocation: Invocation) -> int:
    """Talk to a model."""
    parser = Arguments("chat", "Talk to a model, or have it complete code. " + HELP)
    parser.add_argument("model", type=Path, help="model directory, for example runs/quickstart/M2")
    parser.add_argument("--system", default="", help="what the conversation begins with")
    parser.add_argument(
        "--mode",
        choices=["auto", "chat", "complete"],
        default="auto",
        help="turns of a conversation, or each input completed on its own; auto: a conversation if the tokenizer "
        "brings its own chat template or a --system is given [auto]",
    )
    parser.add_argument(
        "--temperature", type=temperature, default=1.0, help="of the softmax, 0 is greedy [%(default)s]"
    )
    parser.add_argument("--max-new-tokens", type=positive, default=256, help="cap on an answer [%(default)s]")
    parser.add_argument("--seed", type=whole, default=0, help="equal seeds give equal answers [%(default)s]")
    options = parser.read(invocation.arguments)

    from trivium.base.log import route_warnings, say
    from trivium.generation.completer import Completer

    route_warnings()
    completer = Completer(options.model)
    own = options.mode == "chat" or (options.mode == "auto" and bool(completer.has_own_template or options.system))
    talk = Talk(completer, own, options.system, options.temperature, options.max_new_tokens, options.seed)
    say(f"{options.model}, {'a conversation' if own else 'each input is completed on its own'}. {HELP}".rstrip())
    if sys.stdin.isatty():
        import readline  # noqa: F401 (gives input() editing and history)
    for text in _inputs():
        if not text.startswith("/"):
            talk.say(text)
        elif not talk.command(text.split()):
            break
    return 0


class Talk:
    """A conversation: its turns so far and how answers are drawn."""

    def __init__(
        self, completer: "Completer", turns: bool, system: str, temperature: float, max_new_tokens: int, seed: int
    ):
        from trivium.records import Message

        self.completer, self.turns = completer, turns
        self.temperature, self.max_new_tokens, self.seed = temperature, max_new_tokens, seed
        self.opening = [Message(role="system", content=system)] if system else []
        self.messages = list(self.opening)
        self.count = 0

    def say(self, text: str) -> None:
        """Send a message or a text to complete, and stream the answer."""
        from trivium.base.errors import InputError
        from trivium.base.log import warn
        from trivium.base.seeding import derive_seed
        from trivium.records import Message

        self.messages.append(Message(role="user", content=text))
        try:
            ids = self._fit() if self.turns else self.completer.encode_prompt(text + "\n")
            (answer,) = self.completer.answer(
                [ids],
                [derive_seed(self.seed, "chat", self.count)],
                temperature=self.temperature,
                max_new_tokens=self.max_new_tokens,
                on_text=_write,
            )
        except InputError as error:
            self.messages.pop()
            warn(str(error))
            return
        self.count += 1
        _write("\n" if answer.finish == "stop" else "\n[cut at the cap]\n")
        self.messages.append(Message(role="assistant", content=answer.text))

    def _fit(self) -> list[int]:
        """The conversation's ids; the oldest turns go when it outgrows the model, and that is said."""
        from trivium.base.log import warn

        room = self.completer.limit - min(self.max_new_tokens, self.completer.limit // 2)
        first = len(self.opening)
        ids = self.completer.encode_chat(self.messages)
        while len(ids) > room and len(self.messages) > first + 1:
            del self.messages[first : first + 2]
            warn("the conversation outgrew the model: its oldest turn is forgotten")
            ids = self.completer.encode_chat(self.messages)
        return ids

    def command(self, words: list[str]) -> bool:
        """Carry out a / command; False ends the conversation."""
        from trivium.base.log import say

        match words:
            case ["/quit"] | ["/exit"]:
                return False
            case ["/reset"]:
                self.messages = list(self.opening)
                say("forgotten")
            case ["/seed", number] if number.lstrip("-").isdigit():
                self.seed = int(number)
            case ["/temperature", number]:
                try:
                    self.temperature = temperature(number)
                except (ValueError, ArgumentTypeError):
                    say(f"expected a number of at least 0, got {number!r}")
            case _:
                say(HELP.rstrip())
        return True


def _inputs() -> Iterator[str]:
    """Each command, and each text up to its empty line, until the input ends."""
    lines: list[str] = []
    terminal = sys.stdin.isatty()
    while True:
        try:
            line = input(("  " if lines else "> ") if terminal else "")
        except EOFError:
            break
        if line.startswith("/") and not lines:
            yield line
        elif line.strip():
            lines.append(line)
        elif lines:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
