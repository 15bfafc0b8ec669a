"""The key/value cache: one slot a row and position, written in place."""

import torch
from torch import Tensor

from trivium.model.config import ModelConfig


class KVCache:
    """Keys and values of the tokens seen so far.

    A row's token at position p lives in slot p, so rows of different lengths sit side by side without
    padding between them, and a finished row's place can be taken by another at once.
    """

    def __init__(self, config: ModelConfig, rows: int, capacity: int, dtype: torch.dtype, device: torch.device):
        shape = (config.n_layers, rows, config.n_kv_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def extend(self, layer: int, positions: Tensor, keys: Tensor, values: Tensor, end: int) -> tuple[Tensor, Tensor]:
        """Store new keys and values; return those of slots [0, end).

        Args:
            positions: (B, T) slots to write: one a row (decoding), or 0..T-1 in every row (prefill, where
                rows are padded on the right and what pads write is never attended).
            keys, values: (B, H_kv, T, D).
            end: slots in use, 1 + the largest position.
        Returns:
            Two (B, H_kv, end, D) views.
        """
        rows, _, length, _ = keys.shape
        if length == 1:
            row = torch.arange(rows, device=keys.device)
            self.keys[layer][row, :, positions[:, 0]] = keys[:, :, 0]
            self.values[layer][row, :, positions[:, 0]] = values[:, :, 0]
        else:
            self.keys[layer][:, :, :length] = keys
            self.values[layer][:, :, :length] = values
        return self.keys[layer][:rows, :, :end], self.values[layer][:rows, :, :end]

    def copy_rows(self, targets: Tensor, source: "KVCache", rows: Tensor) -> None:
        """Overwrite rows `targets` with rows `rows` of another cache, as far as that one reaches."""
        slots = source.keys.shape[3]
        self.keys[:, targets, :, :slots] = source.keys[:, rows]
        self.values[:, targets, :, :slots] = source.values[:, rows]

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
