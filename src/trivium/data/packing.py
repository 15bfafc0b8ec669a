"""Rows of a fixed length from documents and examples. A token never shares its position count with another document.

Positions restart at 0 at each piece and are -1 on pads; the first token of a piece is nobody's target.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trivium.base.errors import DataError
from trivium.batch import Batch


@dataclass(frozen=True)
class Stream:
    """Documents laid end to end."""

    tokens: np.ndarray
    """(N,) unsigned integers, memory-mapped or in memory."""
    starts: np.ndarray
    """(n + 1,) int64: where each document begins; the last entry is N."""
    names: Path | None = None
    """File with the path of each document, one a line."""

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.starts) - 1


def documents_in_row(stream: Stream, first: int, length: int) -> list[str]:
    """What a row of `cut_row` holds: the documents' paths, or their numbers where no paths are known."""
    tokens = (first + np.arange(length)) % len(stream.tokens)
    numbers = dict.fromkeys((np.searchsorted(stream.starts, tokens, side="right") - 1).tolist())
    if stream.names is None:
        return [f"document {number + 1}" for number in numbers]
    paths = stream.names.read_text(encoding="utf-8").split("\n")
    return [paths[number] for number in numbers]


def join_documents(documents: Sequence[Sequence[int] | np.ndarray]) -> Stream:
    """Lay tokenised documents end to end in memory."""
    lengths = [len(document) for document in documents]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    tokens = np.concatenate([np.asarray(document, np.int64) for document in documents]) if lengths else np.zeros(0)
    return Stream(tokens.astype(np.int64), starts)


def cut_row(stream: Stream, first: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """A row of `length` tokens from token `first` on; after the last document the first one follows.

    Returns:
        ids and positions, (length,) int64 each. The row's first token begins a piece, whatever it is.
    """
    size = len(stream.tokens)
    ids = np.empty(length, np.int64)
    positions = np.arange(length)
    filled = 0
    while filled < length:
        start = (first + filled) % size
        count = min(length - filled, size - start)
        ids[filled : filled + count] = stream.tokens[start : start + count]
        low, high = np.searchsorted(stream.starts, [start, start + count])
        for boundary in stream.starts[low:high]:
            at = filled + int(boundary) - start
            positions[at:] = np.arange(length - at)
        filled += count
    return ids, positions


def batch_of_rows(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batch:
    """Stack (ids, positions) rows; every token but the first of a piece and pads is a target."""
    ids = torch.from_numpy(np.stack([ids for ids, _ in rows]))
    positions = torch.from_numpy(np.stack([positions for _, positions in rows]))
    return Batch(ids, positions > 0, positions)


def plan_rows(lengths: Sequence[int], seq_len: int) -> list[list[int]]:
    """Which examples share a row: best-fit decreasing.

    The number of rows depends on the lengths alone, not on their order.

    Args:
        lengths: tokens of each example, each at most `seq_len`.
    Returns:
        rows of indices into `lengths`; every index appears once.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        at = bisect_left(free, (lengths[index], -1))
        if at < len(free):
            space, row = free.pop(at)
        else:
            space, row = seq_len, len(rows)
            rows.append([])
        rows[row].append(index)
        if space > lengths[index]:
            insort(free, (space - lengths[index], row))
    return rows


def fill_rows(
    plan: Sequence[Sequence[int]],
    pairs: Sequence[tuple[Sequence[int], Sequence[bool]]],
    seq_len: int,
    pad_id: int,
) -> Batch:
    """Lay out examples (ids, loss_mask) as planned; rows are padded on the right to `seq_len`."""
    ids = np.full((len(plan), seq_len), pad_id, np.int64)
    loss_mask = np.zeros((len(plan), seq_len), bool)
    positions = np.full((len(plan), seq_len), -1, np.int64)
    for row, indices in enumerate(plan):
        start = 0
        for index in indices:
            example, mask = pairs[index]
            end = start + len(example)
            ids[row, start:end] = example
            loss_mask[row, start:end] = mask
            loss_mask[row, start] = False
            positions[row, start:end] = np.arange(len(example))
            start = end
    return Batch(torch.from_numpy(ids), torch.from_numpy(loss_mask), torch.from_numpy(positions))


def pack_examples(
    pairs: Sequence[tuple[Sequence[int], Sequence[bool]]], seq_len: int, pad_id: int = 0, names: Sequence[str] = ()
) -> Batch:
    """Pack examples (ids, loss_mask) whole into as few rows of `seq_len` as best-fit decreasing finds.

    Raises:
        DataError: an example is longer than a row; names it.
    """
    check_lengths([len(ids) for ids, _ in pairs], seq_len, names)
    return fill_rows(plan_rows([len(ids) for ids, _ in pairs], seq_len), pairs, seq_len, pad_id)


def check_lengths(lengths: Sequence[int], seq_len: int, names: Sequence[str] = ()) -> None:
    """Refuse examples that do not fit a row: to cut them would teach answers without an end."""
    too_long = [index for index, length in enumerate(lengths) if length > seq_len]
    if too_long:
        first = too_long[0]
        name = names[first] if names else f"example {first + 1}"
        more = f" and {len(too_long) - 1} more" if len(too_long) > 1 else ""
        raise DataError(
            f"{name} has {lengths[first]} tokens{more}, but a row holds seq_len = {seq_len}. "
            'Raise seq_len, shorten it, or leave such examples out with on_error = "skip".'
        )
