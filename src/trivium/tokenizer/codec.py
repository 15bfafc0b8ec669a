"""`Tokenizer`: text to ids and back, loaded from and saved to a Hugging Face directory."""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from trivium.base.errors import DataError, ModelError
from trivium.base.files import write_json, write_text
from trivium.base.recipe import config_of
from trivium.tokenizer import special
from trivium.tokenizer.bytelevel import byte_alphabet, fast_encoding, is_plain, token_bytes
from trivium.tokenizer.training import TokenizerConfig, check_encodable, has_our_split, train_bpe

INVALID_UTF8 = re.compile("[\udc80-\udcff]+")
"""Bytes that are no UTF-8, as `surrogateescape` decodes them."""


THREADS_FROM = 100_000
"""Characters from which on a batch is worth the threads."""
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


class Tokenizer:
    """A vocabulary with its special tokens. Encoding never parses special tokens out of text.

    `vocab_size` counts all ids, special ones included. `config` is tokenizer_config.json.
    """

    def __init__(self, model: tokenizers.Tokenizer, config: dict[str, Any], name: str = "the tokenizer") -> None:
        self.config = config
        self.name = name
        self._model = model
        # Text that merely mentions "<|eos|>" must not become the token.
        self._model.encode_special_tokens = True
        self.vocab_size = max(model.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.bos_id = self._special_id("bos_token")
        eos_id = self._special_id("eos_token")
        if eos_id is None:
            raise ModelError(f"{name} names no eos_token. Add it to its tokenizer_config.json.")
        self.eos_id: int = eos_id
        pad_id = self._special_id("pad_token")
        self.pad_id: int = self.eos_id if pad_id is None else pad_id
        self._special_ids = {index for index, token in model.get_added_tokens_decoder().items() if token.special}
        alphabet = set(byte_alphabet())
        self._is_byte_level = alphabet <= set(model.get_vocab(with_added_tokens=False))
        self._table = token_bytes(model) if self._is_byte_level else []
        self._fast = fast_encoding(model, self._table) if self._is_byte_level else None
        if self._fast is None and has_our_split(model):
            warnings.warn(f"{name}: tiktoken gives other ids; encoding with the slower tokenizers.", stacklevel=2)

    def special_text(self, key: str) -> str | None:
        """The text of `bos_token`, `eos_token` or `pad_token`, None where the tokenizer has none."""
        token = self.config.get(key)
        return token.get("content") if isinstance(token, dict) else token

    def _special_id(self, key: str) -> int | None:
        text = self.special_text(key)
        if text is None:
            return None
        if not isinstance(text, str):
            raise ModelError(f"{self.name}: {key} {text!r} of tokenizer_config.json is no text. Correct it.")
        index = self._model.token_to_id(text)
        if index is None:
            raise ModelError(
                f"{self.name}: {key} {text!r} of tokenizer_config.json is not in tokenizer.json. Correct either."
            )
        return index

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 4096, **options: Any) -> "Tokenizer":
        """Train byte-level BPE on texts; `options` are further fields of `TokenizerConfig`.

        Raises:
            ConfigError: `vocab_size` is too small to hold the bytes and special tokens.
            DataError: there is no text.
        """
        if isinstance(texts, str):
            texts = [texts]
        model = train_bpe(texts, config_of(TokenizerConfig, {"vocab_size": vocab_size, **options}))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": special.PAD,
            "bos_token": special.BOS,
            "eos_token": special.EOS,
            "extra_special_tokens": list(special.SPECIAL_TOKENS[3:]),
            "clean_up_tokenization_spaces": False,
            "model_max_length": int(1e30),
            "chat_template": special.CHAT_TEMPLATE,
        }
        return cls(model, config)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Load a directory with tokenizer.json and tokenizer_config.json, made here or elsewhere.

        Raises:
            ModelError: a file is missing or is not a tokenizer.
        """
        directory = Path(path)
        file = directory / "tokenizer.json"
        if not file.is_file():
            raise ModelError(f"{directory} has no tokenizer.json. Give a model or tokenizer directory.")
        try:
            model = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises plain Exception
            raise ModelError(f"{file} is not a tokenizer: {error}. Write it anew or give another directory.") from error
        model.no_truncation()
        model.no_padding()
        return cls(model, _read_config(directory), str(directory))

    def check_fits(self, vocab_size: int) -> None:
        """Refuse a model whose embedding has no row for some of the tokens.

        Raises:
            ModelError: `vocab_size` is too small.
        """
        if self.vocab_size > vocab_size:
            raise ModelError(
                f"{self.name} has {self.vocab_size} tokens, but the model's vocab_size is {vocab_size}: it belongs to "
                "another model. Copy the right tokenizer files, or make the model larger."
            )

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which transformers' AutoTokenizer opens."""
        directory = Path(path)
        write_text(directory / "tokenizer.json", self._model.to_str(pretty=True) + "\n")
        write_json(directory / "tokenizer_config.json", self.config)

    @property
    def backend(self) -> str:
        """`tiktoken` or `tokenizers`: which library encodes."""
        return "tokenizers" if self._fast is None else "tiktoken"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides ids: vocabulary, merges, splitting and special tokens."""
        content = json.loads(self._model.to_str())
        for key in ("truncation", "padding"):
            content.pop(key, None)
        content["ids"] = [self.pad_id, self.bos_id, self.eos_id]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without bos or eos; special tokens written in the text stay plain text.

        Raises:
            DataError: the text holds a lone surrogate.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, on all cores."""
        texts = list(texts)
        for index, text in enumerate(texts):
            check_encodable(text, f"text {index + 1} of {len(texts)}" if len(texts) > 1 else "the text")
        if self._fast is None:
            return [row.ids for row in self._model.encode_batch(texts, add_special_tokens=False)]
        plain = [is_plain(text) for text in texts]
        if not all(plain):
            return [self._encode_one(text, fast) for text, fast in zip(texts, plain, strict=True)]
        if sum(map(len, texts)) < THREADS_FROM:
            return [self._fast.encode_ordinary(text) for text in texts]
        return self._fast.encode_ordinary_batch(texts, num_threads=os.cpu_count() or 1)

    def _encode_one(self, text: str, fast: bool) -> list[int]:
        if fast and self._fast is not None:
            return self._fast.encode_ordinary(text)
        return self._model.encode(text, add_special_tokens=False).ids

    def encode_array(self, text: str) -> np.ndarray:
        """Ids of a text as (T,) uint32, without the cost of Python integers."""
        check_encodable(text)
        if self._fast is not None and is_plain(text):
            return self._fast.encode_to_numpy(text, disallowed_special=()).astype(np.uint32, copy=False)
        return np.array(self._encode_one(text, False), dtype=np.uint32)

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text as (T,) uint32, on all cores."""
        if self._fast is None:
            return [np.array(ids, np.uint32) for ids in self.encode_batch(texts)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # tiktoken lets go of the interpreter lock
            return list(pool.map(self.encode_array, texts))

    def encode_template(self, text: str) -> list[int]:
        """Ids of a rendered chat template, in which special tokens are meant as such."""
        return self._parsing_model.encode(text, add_special_tokens=False).ids

    @cached_property
    def _parsing_model(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self._model.to_str())

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes: valid UTF-8 as text, each other byte as its own token."""
        self._need_bytes()
        text = data.decode("utf-8", "surrogateescape")
        ids: list[int] = []
        start = 0
        for match in INVALID_UTF8.finditer(text):
            ids += self.encode(text[start : match.start()])
            ids += (self._byte_ids[ord(char) - 0xDC00] for char in match.group())
            start = match.end()
        return ids + self.encode(text[start:])

    @cached_property
    def _byte_ids(self) -> list[int]:
        ids = {byte: self.token_id(char) for char, byte in byte_alphabet().items()}
        return [ids[byte] for byte in range(256)]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD. Special tokens are left out or written.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        checked = self._checked(ids)
        if self._is_byte_level:
            return self._join(checked, skip_special).decode("utf-8", "replace")
        return self._model.decode(checked, skip_special_tokens=skip_special)

    def decode_batch(self, rows: Iterable[Iterable[int]], skip_special: bool = True) -> list[str]:
        """The text of each row of ids."""
        return [self.decode(row, skip_special) for row in rows]

    def decode_bytes(self, ids: Iterable[int], skip_special: bool = True) -> bytes:
        """The exact bytes of ids."""
        self._need_bytes()
        return self._join(self._checked(ids), skip_special)

    def _join(self, ids: list[int], skip_special: bool) -> bytes:
        if skip_special:
            ids = [index for index in ids if index not in self._special_ids]
        return b"".join([self._table[index] for index in ids])

    def _checked(self, ids: Iterable[int]) -> list[int]:
        """Ids as a list; torch tensors and arrays are welcome."""
        values = ids.tolist() if hasattr(ids, "tolist") else list(ids)  # type: ignore[attr-defined]
        for value in values:
            if not 0 <= value < self.vocab_size:
                raise DataError(f"token id {value} is outside the vocabulary of {self.vocab_size} of {self.name}.")
        return values

    def _need_bytes(self) -> None:
        if not self._is_byte_level:
            raise ModelError(f"{self.name} is not a byte-level tokenizer: it has no tokens for single bytes.")

    def token_id(self, token: str) -> int:
        """Id of a special token by name, e.g. `<|end_of_turn|>`.

        Raises:
            ModelError: the vocabulary has no such token.
        """
        index = self._model.token_to_id(token)
        if index is None:
            raise ModelError(f"{self.name} has no token {token!r}.")
        return index

    @property
    def fills_gaps(self) -> bool:
        """The vocabulary has the tokens that mark a gap and its filling."""
        return all(self._model.token_to_id(token) is not None for token in special.GAP_TOKENS)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """(vocab_size,) int32: UTF-8 bytes that each token stands for, 0 for special tokens."""
        sizes = np.zeros(self.vocab_size, np.int32)
        for token, index in self._model.get_vocab(with_added_tokens=True).items():
            if self._is_byte_level:
                sizes[index] = len(self._table[index])
            else:  # SentencePiece: a byte token, or text with its spaces written as U+2581
                sizes[index] = 1 if BYTE_TOKEN.fullmatch(token) else len(token.replace("\u2581", " ").encode())
        sizes[list(self._special_ids)] = 0
        return sizes

    def bytes_per_token(self, texts: Iterable[str]) -> float:
        """UTF-8 bytes of the texts over their number of tokens: how well the vocabulary fits them."""
        sizes = [(len(text.encode()), len(self.encode_array(text))) for text in texts]
        return sum(size for size, _ in sizes) / max(1, sum(count for _, count in sizes))


def _read_config(directory: Path) -> dict[str, Any]:
    """tokenizer_config.json, with its chat template where that has a file of its own."""
    file = directory / "tokenizer_config.json"
    if not file.is_file():
        raise ModelError(f"{directory} has no tokenizer_config.json, which names bos, eos and pad. Add it.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}. Copy it again.") from None
    if not isinstance(config, dict):
        raise ModelError(f"{file} must hold one JSON object. Copy it again.")
    template = directory / "chat_template.jinja"
    if template.is_file():
        config["chat_template"] = template.read_text(encoding="utf-8")
    return config
