"""Byte-level BPE's alphabet (each byte as a printable character) and the fast encoder built on it."""

import re

import tiktoken
import tokenizers

from trivium.tokenizer.training import SPLIT_PATTERN, has_our_split

LONG_TEXT = 200_000
"""Characters from which on a text is searched for runs of whitespace that overflow tiktoken's stack."""
LONG_RUN = re.compile(r"\s{100000}")

STABLE = (
    "\x00-\u036f\u0391-\u03a1\u03a3-\u03ff\u0400-\u052f\u0620-\u06ff\u0900-\u097f\u1e00-\u1eff"
    "\u2000-\u2064\u20a0-\u20bf\u2100-\u218b\u2190-\u23ff\u2500-\u27bf\u3000-\u303e\u3041-\u3096"
    "\u3099-\u30fe\u3400-\u4db5\u4e00-\u9fd5\uac00-\ud7a3\ufe00-\ufe0f\U0001f300-\U0001f64f\U0001f900-\U0001f9ff"
)
UNSTABLE = re.compile(f"[^{STABLE}]")
"""Characters whose class (letter, digit, other) may depend on a library's version of Unicode.

tiktoken and tokenizers carry different versions; a text with such a character goes the slower way.
"""


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character of each byte -> the byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def token_bytes(model: tokenizers.Tokenizer) -> list[bytes]:
    """The bytes of each id of a byte-level vocabulary; added tokens stand for their literal text."""
    alphabet = byte_alphabet()
    added = {index: token.content.encode() for index, token in model.get_added_tokens_decoder().items()}
    table = [b""] * (max(model.get_vocab(with_added_tokens=True).values()) + 1)
    for token, index in model.get_vocab(with_added_tokens=True).items():
        table[index] = added[index] if index in added else bytes(alphabet[char] for char in token)
    return table


def fast_encoding(model: tokenizers.Tokenizer, table: list[bytes]) -> tiktoken.Encoding | None:
    """Build tiktoken over the same merges: several times faster. None where it would not give equal ids."""
    if not has_our_split(model):
        return None
    added = model.get_added_tokens_decoder()
    if not all(token.special for token in added.values()):
        return None
    ranks = {piece: index for index, piece in enumerate(table) if index not in added}
    encoding = tiktoken.Encoding(
        "trivium",
        pat_str=SPLIT_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={token.content: index for index, token in added.items()},
    )
    return encoding if _agrees(model, encoding, ranks) else None


def is_plain(text: str) -> bool:
    """Whether tiktoken is sure to treat this text as `tokenizers` does."""
    if not text.isascii() and UNSTABLE.search(text):
        return False
    return len(text) < LONG_TEXT or not LONG_RUN.search(text)


def _agrees(model: tokenizers.Tokenizer, encoding: tiktoken.Encoding, ranks: dict[bytes, int]) -> bool:
    """Probe both encoders: tiktoken goes by a merged token's rank, tokenizers by the pair's."""
    words = [piece.decode(errors="ignore") for piece in ranks]
    probes = [" ".join(words), "".join(words), *(" " * n + "x\n" + " " * n for n in range(1, 130))]
    probes += ["\n" * n + "\t" * m for n in range(1, 6) for m in range(5)]
    reference = [row.ids for row in model.encode_batch(probes, add_special_tokens=False)]
    return encoding.encode_ordinary_batch(probes) == reference
