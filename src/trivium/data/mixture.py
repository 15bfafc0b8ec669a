"""Which source each training row comes from, which documents are held out, and which are duplicates.

All three are pure functions, so that the data position of a run is one integer.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from trivium.base.seeding import numpy_rng

BLOCK = 2048
"""Rows after which the pattern of sources repeats; a source has at least one row in each block."""


class Mixture:
    """Rows shared out among sources by weight, as evenly as whole rows allow at every point."""

    def __init__(self, weights: Sequence[float]) -> None:
        shares = np.array(weights, float) / sum(weights)
        self.pattern = np.zeros(BLOCK, np.int64)
        self.before = np.zeros((BLOCK + 1, len(weights)), np.int64)
        """(BLOCK + 1, sources): rows of each source before a place in the block."""
        shares = np.maximum(shares, 1 / BLOCK)
        shares /= shares.sum()
        counts = np.zeros(len(weights), np.int64)
        for place in range(BLOCK):
            source = int(np.argmax(shares * (place + 1) - counts))
            self.pattern[place] = source
            counts[source] += 1
            self.before[place + 1] = counts

    def locate(self, row: int) -> tuple[int, int]:
        """The source of training row `row`, and the how-manieth row of that source it is."""
        block, place = divmod(row, BLOCK)
        source = int(self.pattern[place])
        return source, block * int(self.before[BLOCK, source]) + int(self.before[place, source])


class RowOrder:
    """The order of one source's rows: epoch after epoch, each shuffled and cut anew from (seed, source, epoch)."""

    def __init__(self, tokens: int, seq_len: int, seed: int, name: str) -> None:
        self.rows = -(-tokens // seq_len)
        """Rows of an epoch; the last one runs on into the first document."""
        self._tokens, self._seq_len, self._seed, self._name = tokens, seq_len, seed, name
        self._epochs: dict[int, tuple[int, np.ndarray]] = {}

    def first_token(self, index: int) -> int:
        """Where in the stream row `index` (counted over all epochs) begins."""
        epoch, row = divmod(index, self.rows)
        if epoch not in self._epochs:
            rng = numpy_rng(self._seed, "rows", self._name, epoch)
            if len(self._epochs) > 1:
                self._epochs.pop(min(self._epochs))
            # Another offset each time, so that documents are not always cut at the same places.
            self._epochs[epoch] = (int(rng.integers(self._seq_len)), rng.permutation(self.rows))
        offset, order = self._epochs[epoch]
        return (offset + int(order[row]) * self._seq_len) % self._tokens


def digest(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def is_held_out(key: bytes, fraction: float) -> bool:
    """Whether the document with this digest belongs to validation: the same in every run and on every machine."""
    value = int.from_bytes(hashlib.blake2b(key, digest_size=8, person=b"split").digest(), "big")
    return value < fraction * 2**64
