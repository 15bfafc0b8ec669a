"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split layout of Llama and Qwen."""

import torch
from torch import Tensor


def rotary_table(max_seq_len: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position.

    Returns:
        Two (max_seq_len, head_dim / 2) fp32 tensors; channel i turns with frequency theta^(-2i / head_dim).
    """
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(max_seq_len, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel pairs (i, i + D/2) of x by their position's angle.

    Args:
        x: (..., T, D) queries or keys.
        cos, sin: broadcastable to (..., T, D / 2), of x's dtype.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
