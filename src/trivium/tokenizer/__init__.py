"""Text to token ids and back: byte-level BPE, special tokens, chats."""

from trivium.tokenizer.codec import Tokenizer
from trivium.tokenizer.training import TokenizerConfig

__all__ = ["Tokenizer", "TokenizerConfig"]
