"""Training of the byte-level BPE vocabulary, and its way of splitting text into words."""

import json
from collections.abc import Iterable, Iterator

import tokenizers
from pydantic import Field, field_validator
from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers

from trivium.base.config import Config
from trivium.base.errors import DataError
from trivium.tokenizer.special import BOS, SPECIAL_TOKENS

SPLIT_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
"""`split_words` as one regular expression: GPT-2's words with single digits.

A word takes one space before it along, so the rest of a run of whitespace (a newline and the indentation
after it, but for the last space) is a word of its own, which BPE can make one token. A digit ends a run.
"""

MINIMUM_VOCABULARY = len(SPECIAL_TOKENS) + 256
"""Special tokens and one token for each byte."""

LARGEST_VOCABULARY = 2**24


class TokenizerConfig(Config):
    """How the tokenizer's vocabulary is made."""

    vocab_size: int = Field(default=4096, le=LARGEST_VOCABULARY)
    """Number of tokens, special ones and the 256 bytes included."""
    train_bytes: int = Field(default=50_000_000, ge=1)
    """At most this many bytes of the corpus train the vocabulary, drawn from all sources."""
    min_frequency: int = Field(default=2, ge=1)
    """A pair of tokens must occur this often to be merged."""
    max_token_length: int = Field(default=64, ge=1)
    """No token is longer than this many bytes."""

    @field_validator("vocab_size")
    @classmethod
    def _holds_the_bytes(cls, value: int) -> int:
        if value < MINIMUM_VOCABULARY:
            raise ValueError(
                f"expected at least {MINIMUM_VOCABULARY}, for the bytes and special tokens, got {value}. Raise it"
            )
        return value


def split_words() -> pre_tokenizers.PreTokenizer:
    """Single digits, then GPT-2's words as bytes.

    It is the split of SmolLM and StarCoder, which llama.cpp and the other engines know by name, so that a
    model made here needs no custom code there.
    """
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


def train_bpe(texts: Iterable[str], config: TokenizerConfig) -> tokenizers.Tokenizer:
    """Train byte-level BPE; a small corpus may give fewer tokens than asked for.

    Raises:
        DataError: there is no text, or a text holds a lone surrogate.
    """
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = split_words()
    model.decoder = decoders.ByteLevel()
    # Every model made here sees <|bos|> first; with this, clients that tokenise for themselves do the same.
    bos_id = SPECIAL_TOKENS.index(BOS)
    model.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos_id)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        max_token_length=config.max_token_length,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(_checked(texts), trainer)
    return model


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """The texts, after a look that there is something in them."""
    total = 0
    for index, text in enumerate(texts):
        check_encodable(text, f"text {index + 1} for the tokenizer")
        total += len(text)
        yield text
    if total == 0:
        raise DataError("The tokenizer got no text to train on. Give it a corpus that is not empty.")


def check_encodable(text: str, name: str = "the text") -> None:
    """Refuse lone surrogates, which are no characters and which encoders would silently replace."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name} holds the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, which is no "
            "character. Repair it or leave the record out."
        ) from None


def has_our_split(model: tokenizers.Tokenizer) -> bool:
    """Whether a tokenizer splits words as `split_words` does, so that SPLIT_PATTERN stands for it."""
    own = tokenizers.Tokenizer(models.BPE())
    own.pre_tokenizer = split_words()
    ours, theirs = json.loads(own.to_str()), json.loads(model.to_str())
    return (
        theirs["pre_tokenizer"] == ours["pre_tokenizer"]
        and theirs["normalizer"] is None
        and theirs["model"].get("type") == "BPE"
    )
