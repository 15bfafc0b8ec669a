"""Batches by step number: there is no iterator state, so a run resumes exactly from its step."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from trivium.base.errors import ConfigError, DataError
from trivium.batch import Batch
from trivium.data.mixture import Mixture, RowOrder
from trivium.data.packing import Stream, batch_of_rows, cut_row, documents_in_row
from trivium.data.shards import Corpus, open_corpus


class CorpusLoader:
    """Training batches of a tokenised corpus; each row is `seq_len` tokens of one source's documents.

    With several processes, `batch_size` is that of all together and each gets its own rows of every batch.

    Args:
        corpus: directory of shards, or an open corpus.
        split: which documents the training batches come from.
        batch_size: rows in a batch.
    Raises:
        DataError: a source has no tokens in this split.
    """

    def __init__(
        self,
        corpus: Corpus | str | Path,
        split: Literal["train", "validation"] = "train",
        seq_len: int = 256,
        batch_size: int = 16,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if seq_len < 2:
            raise ConfigError(f"seq_len is {seq_len}; a row needs at least 2 tokens, one to predict from.")
        if batch_size < 1 or batch_size % world_size:
            raise ConfigError(f"batch_size is {batch_size}; it must be a positive multiple of {world_size} processes.")
        self.corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
        self.seq_len, self.batch_size = seq_len, batch_size
        self._part = range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self._streams = [getattr(source, split) for source in self.corpus.sources]
        for source, stream in zip(self.corpus.sources, self._streams, strict=True):
            if len(stream.tokens) == 0:
                raise DataError(f"Source {source.name!r} has no {split} tokens. Give it more text.")
        self._mixture = Mixture([source.weight for source in self.corpus.sources])
        self._orders = [
            RowOrder(len(stream.tokens), seq_len, seed, source.name)
            for source, stream in zip(self.corpus.sources, self._streams, strict=True)
        ]

    @property
    def steps_per_epoch(self) -> int:
        """Batches that hold as many rows as the corpus has."""
        return math.ceil(sum(order.rows for order in self._orders) / self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of a step, a pure function of (seed, step)."""
        return batch_of_rows([self._row(step * self.batch_size + place) for place in self._part])

    def contents(self, step: int) -> list[str]:
        """The documents that the batch of a step is cut from, each with its source."""
        found = []
        for place in self._part:
            source, index = self._mixture.locate(step * self.batch_size + place)
            first = self._orders[source].first_token(index)
            names = documents_in_row(self._streams[source], first, self.seq_len)
            found += [f"{self.corpus.sources[source].name}: {name}" for name in names]
        return found

    def _row(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        source, index = self._mixture.locate(row)
        return cut_row(self._streams[source], self._orders[source].first_token(index), self.seq_len)

    def validation(self, source: str, max_rows: int | None = None) -> Iterator[tuple[Batch, int]]:
        """Held-out rows of one source in order, each token in one row, the last row padded.

        Args:
            max_rows: at most so many rows, spread evenly over the held-out text.
        Yields:
            a batch, and the bytes of its targets. Bits per byte is the summed loss over the summed bytes / ln 2.
        Raises:
            DataError: there is no such source.
        """
        stream = next((entry.validation for entry in self.corpus.sources if entry.name == source), None)
        if stream is None:
            names = ", ".join(entry.name for entry in self.corpus.sources)
            raise DataError(f"The corpus has no source {source!r}. It has: {names}.")
        total = -(-len(stream.tokens) // self.seq_len)
        wanted = total if max_rows is None else min(total, max_rows)
        chosen = np.arange(wanted) * total // max(1, wanted)
        token_bytes = torch.from_numpy(self.corpus.token_bytes.astype(np.int64))
        for at in range(0, wanted, self.batch_size):
            rows = [self._held_out_row(stream, int(row) * self.seq_len) for row in chosen[at : at + self.batch_size]]
            batch = batch_of_rows(rows)
            yield batch, int(token_bytes[batch.ids][batch.loss_mask].sum())

    def _held_out_row(self, stream: Stream, first: int) -> tuple[np.ndarray, np.ndarray]:
        length = min(self.seq_len, len(stream.tokens) - first)
        ids, positions = cut_row(stream, first, length)
        pads = (0, self.seq_len - length)
        return (
            np.pad(ids, pads, constant_values=self.corpus.pad_id),
            np.pad(positions, pads, constant_values=-1),
        )
