"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split layout of Llama and Qwen."""

from typing import Any

import torch
from torch import Tensor

from trivium.model.fused_layers import available, turned


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
        x: (B, H, T, D) queries or keys.
        cos, sin: (T, D / 2) or (B, 1, T, D / 2), of x's dtype; or as `spread` returns them.
    """
    width = x.shape[-1]
    if torch.compiler.is_compiling():
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    if cos.shape[-1] == width:
        return torch.addcmul(x * cos, x.roll(width // 2, -1), sin)
    return _Rotation.apply(x, cos, sin)


def spread(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Tables of full width: with them a turn takes fewer steps but more memory, which suits single tokens."""
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


class _Rotation(torch.autograd.Function):
    """Written out because its gradient is the inverse turn, which autograd would spell in twice the passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grads[0], cos, sin, -1), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    if available(x):
        return turned(x, cos, sin, direction)
    first, second = x.chunk(2, dim=-1)
    half = first.shape[-1]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin, value=direction)
    return out
