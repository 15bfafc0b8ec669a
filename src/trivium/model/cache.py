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

    def places(self, positions: Tensor) -> Tensor:
        """Where `extend` puts one new token a row: positions (B, 1) to (B * H_kv,), the same for all layers."""
        _, _, n_heads, capacity, _ = self.keys.shape
        first = torch.arange(len(positions) * n_heads, device=positions.device).view(-1, n_heads) * capacity
        return (first + positions).flatten()

    def extend(
        self, layer: int, keys: Tensor, values: Tensor, places: Tensor | None, end: int
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values; return those of slots [0, end).

        Args:
            keys, values: (B, H_kv, T, D).
            places: of one token a row (decoding); None for slots 0..T-1 of every row (prefill, where rows are padded on
                the right and what pads write is never attended).
            end: slots in use, 1 + the largest position.
        Returns:
            Two (B, H_kv, end, D) views.
        """
        kept = self.keys[layer], self.values[layer]
        for store, new in zip(kept, (keys, values), strict=True):
            if places is None:
                store[:, :, : new.shape[2]] = new
            else:
                width = new.shape[-1]
                store.view(-1, width).index_copy_(0, places, new.reshape(-1, width))
        rows = len(keys)
        return kept[0][:rows, :, :end], kept[1][:rows, :, :end]

    def copy_rows(self, targets: Tensor, source: "KVCache", rows: Tensor, slots: int) -> None:
        """Overwrite the first slots of rows `targets` with those of rows `rows` of another cache, or of this one."""
        self.keys[:, targets, :, :slots] = source.keys[:, rows, :, :slots]
        self.values[:, targets, :, :slots] = source.values[:, rows, :, :slots]

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
