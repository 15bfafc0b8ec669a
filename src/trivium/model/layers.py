"""The two primitive layers: both keep fp32 parameters and compute in their input's dtype."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """A linear map whose fp32 master weights are cast to the activations' dtype at use, or once for many uses."""

    held: Tensor | None = None
    """The weights as cast by `hold_casts`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        weight = self.weight if self.held is None else self.held
        return F.linear(input, weight.to(input.dtype), bias)


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        if x.device.type == "cpu":
            return _CPURMSNorm.apply(x, self.weight.to(x.dtype), self.eps)
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class _CPURMSNorm(torch.autograd.Function):
    """RMSNorm for a CPU, where PyTorch's own is made of many passes: it takes twice as long in fp32, and 3 to 4 times
    in bf16, for which it goes through fp32 copies.

    The mean square is summed in fp32 or better; x is read once for it and once for the product.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = _at_least_fp32(x.dtype)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        normed, scale, weight = ctx.saved_tensors
        product = grad * normed
        weight_grad = product.flatten(0, -2).sum(0, dtype=_at_least_fp32(grad.dtype)).to(weight.dtype)
        mean = (product @ weight[:, None]).div_(normed.shape[-1])
        return (grad * weight).sub_(normed * mean).mul_(scale), weight_grad, None


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
