"""A model directory made ready to answer: text in, text out, over the one sampling engine."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trivium.base.seeding import derive_seed
from trivium.generation.engine import Sample, generate
from trivium.model import Decoder, load_model
from trivium.records import Message
from trivium.tokenizer import Tokenizer, chat
from trivium.tokenizer.special import CHAT_TEMPLATE, GAP_TOKENS


@dataclass(frozen=True)
class Answer:
    """One sampled answer."""

    text: str
    finish: str
    """`stop` or `length`."""
    tokens: int
    logprob: float
    """Sum over its tokens, in nats."""


class Completer:
    """A model with its tokenizer."""

    def __init__(self, folder: Path, device: str = "auto"):
        import torch

        self.model: Decoder = load_model(folder)
        self.tokenizer = Tokenizer.load(folder)
        self.tokenizer.check_fits(self.model.config.vocab_size)
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.model = self.model.to(chosen).eval()
        if chosen.startswith("cuda"):
            self.model.compute_dtype = torch.bfloat16
        self.limit = self.model.config.max_seq_len

    @property
    def stop_ids(self) -> list[int]:
        """What ends an answer."""
        return [] if self.tokenizer.eos_id is None else [self.tokenizer.eos_id]

    def encode(self, prompt: str, *, system: str | None = None, suffix: str | None = None) -> list[int]:
        """A request of any of the three kinds: a text to go on with, a user's turn of a chat, or a gap to fill.

        Args:
            prompt: the text, the user's turn, or what comes before the gap.
            system: makes it a chat; what that begins with, empty for nothing.
            suffix: makes it a gap; what comes after it.
        Raises:
            ModelError: the tokenizer has no chat template, or no tokens for gaps.
        """
        if suffix is not None:
            return self.encode_gap(prompt, suffix)
        if system is None:
            return self.encode_prompt(prompt)
        return self.encode_chat(chat_messages(system, prompt))

    def encode_prompt(self, text: str) -> list[int]:
        """[bos] text."""
        return self._begin + self.tokenizer.encode(text)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """The chat up to where the assistant speaks next."""
        return chat.render(messages, self.tokenizer, add_generation_prompt=True)[0]

    def encode_gap(self, prefix: str, suffix: str) -> list[int]:
        """What comes before and after a gap, then the token that opens its filling; see `GAP_TOKENS`."""
        before, after, middle = (self.tokenizer.token_id(token) for token in GAP_TOKENS)
        encode = self.tokenizer.encode
        return [*self._begin, before, *encode(prefix), after, *encode(suffix), middle]

    @property
    def _begin(self) -> list[int]:
        return [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]

    @property
    def has_own_template(self) -> bool:
        """The tokenizer brings a chat template from elsewhere, so its model was made for chats."""
        return self.tokenizer.config.get("chat_template") not in (None, CHAT_TEMPLATE)

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        temperature: float,
        max_new_tokens: int,
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer]:
        """One answer a prompt; each a function of the model, its prompt and its seed.

        Args:
            prompts: token ids.
            seeds: one a prompt.
            on_text: called with the text as it grows, for a single prompt.
        """
        stream = TextStream(self.tokenizer, self.stop_ids, on_text) if on_text and len(prompts) == 1 else None
        samples = self.sample(prompts, seeds, temperature=temperature, max_new_tokens=max_new_tokens, on_token=stream)
        if stream:
            stream.flush()
        texts = [self.tokenizer.decode(sample.ids) for sample in samples]
        return [
            Answer(text, sample.finish, len(sample.ids), sum(sample.logprobs))
            for text, sample in zip(texts, samples, strict=True)
        ]

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        temperature: float,
        max_new_tokens: int,
        on_token: Callable[[int, int], bool | None] | None = None,
    ) -> list[Sample]:
        """What `answer` decodes: ids and log-probabilities; `on_token` as `generate` takes it."""
        return generate(
            self.model,
            prompts,
            seeds=seeds,
            max_new_tokens=max_new_tokens,
            stop_ids=self.stop_ids,
            temperature=temperature,
            on_token=on_token,
        )


def chat_messages(system: str, user: str) -> tuple[Message, ...]:
    """A conversation of one turn, behind a system text where there is one."""
    opening = (Message(role="system", content=system),) if system else ()
    return (*opening, Message(role="user", content=user))


def sample_seeds(prompts: Sequence[str], seed: int) -> list[int]:
    """The seeds that `TransformerModel.generate` gives to the same prompts, so that both give the same answers."""
    seen: Counter[str] = Counter()
    seeds = []
    for prompt in prompts:
        seeds.append(derive_seed(seed, "generate", prompt, seen[prompt]))
        seen[prompt] += 1
    return seeds


class TextStream:
    """Tokens to text as they come: a character of several bytes is held back until it is whole."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[int], on_text: Callable[[str], None]):
        self.tokenizer, self.stops, self.on_text = tokenizer, set(stops), on_text
        self.pending: list[int] = []

    def __call__(self, sample: int, token: int) -> None:
        """Take the next token."""
        if token in self.stops:
            return
        self.pending.append(token)
        if not self.tokenizer.decode(self.pending).endswith("\ufffd"):
            self.flush()

    def flush(self) -> None:
        """Hand out what is held back."""
        if self.pending:
            self.on_text(self.tokenizer.decode(self.pending))
            self.pending = []


def token_pieces(completer: Completer, sample: Sample) -> list[tuple[str, float]]:
    """An answer in pieces with the log-probability of each, in nats; tokens that share a character are one piece.

    The last piece is empty and holds the end token's, where that was drawn.
    """
    texts: list[str] = []
    stream = TextStream(completer.tokenizer, completer.stop_ids, texts.append)
    pieces: list[tuple[str, float]] = []
    waiting: list[float] = []
    for token, logprob in zip(sample.ids, sample.logprobs, strict=True):
        stream(0, token)
        waiting.append(logprob)
        if len(texts) > len(pieces):
            pieces.append((texts[-1], sum(waiting)))
            waiting.clear()
    stream.flush()
    return [*pieces, ("".join(texts[len(pieces) :]), sum(waiting))] if waiting else pieces
