"""Real text for the benchmarks: the running Python's own standard library."""

import sysconfig
from functools import cache
from pathlib import Path

from trivium.data.front import load_corpus
from trivium.data.loader import CorpusLoader
from trivium.tokenizer import Tokenizer


def python_sources(megabytes: float) -> list[str]:
    """Modules of the standard library up to this size, gone through again where they are fewer.

    A repeated module gets a first line of its own, so that no part takes it for a duplicate.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in sorted(root.rglob("*.py")) if "site-packages" not in path.parts]
    once = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    found: list[str] = []
    size, goal = 0, megabytes * 1e6
    for turn in range(1000):
        for text in once:
            if size >= goal:
                return found
            text = f"# copy {turn}\n{text}" if turn else text
            found.append(text)
            size += len(text.encode())
    return found


@cache
def trained_tokenizer(vocab_size: int = 4096) -> Tokenizer:
    """Trained on a few megabytes of it."""
    return Tokenizer.train(python_sources(4), vocab_size=vocab_size)


def loader(seq_len: int, batch_size: int, megabytes: float = 4, vocab_size: int = 4096) -> CorpusLoader:
    """Packed rows of it, documents kept apart by their positions."""
    tokenizer = trained_tokenizer(vocab_size)
    return CorpusLoader(load_corpus(python_sources(megabytes), tokenizer), "train", seq_len, batch_size, seed=0)
