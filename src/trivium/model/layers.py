"""The two primitive layers: both keep fp32 parameters and compute in their input's dtype."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trivium.model.fp8 import fp8_product
from trivium.model.fused_layers import available, fused_norm


class Linear(nn.Linear):
    """A linear map whose fp32 master weights are cast to the activations' dtype at use."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device: str | None = None):
        super().__init__(in_features, out_features, bias, device)
        self.held: Held | None = None
        """These weights, and those of the maps that `joint` takes with them, made ready for many uses."""
        self.fp8 = False
        """Train with products in 8-bit floats; see `fp8`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if self.held is not None:
            return self.held(input)
        if self.fp8 and torch.is_grad_enabled():
            out = fp8_product(input, self.weight)
            return out if self.bias is None else out + self.bias.to(out.dtype)
        return F.linear(input, *joint_weights((self,), input.dtype))

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """(out_features, in_features): what inputs are multiplied by."""
        return self.weight.to(dtype)


def joint(input: Tensor, *maps: Linear) -> Sequence[Tensor]:
    """Several maps of one input; where they are held, as a single product, which is faster for a few rows.

    Training keeps them apart: what follows then reads whole tensors and not strips of one.

    Args:
        input: (..., in_features).
        maps: all of these in_features.
    Returns:
        (..., out_features) of each.
    """
    held = maps[0].held
    if held is None:
        return [each(input) for each in maps]
    return held(input).split([each.out_features for each in maps], dim=-1)


def joint_weights(maps: Sequence[Linear], dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The matrix and the bias of all maps as one."""
    weights = [each.matrix(dtype) for each in maps]
    biases = [each.bias.to(dtype) for each in maps if each.bias is not None]
    return weights[0] if len(maps) == 1 else torch.cat(weights), torch.cat(biases) if biases else None


class Held:
    """A matrix and its bias, cast once for many uses and laid out as the processor reads them.

    On a CPU in bf16, oneDNN otherwise rearranges the weights at each use, which for a few rows takes as long as the
    product: 64 rows of width 384 are 1.5 times as fast this way, a single one is 2 times as fast.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        self.weight, self.bias = weight, bias
        self.packed: Tensor | None = None
        if weight.device.type == "cpu" and weight.dtype == torch.bfloat16:
            with contextlib.suppress(AttributeError, RuntimeError):  # a PyTorch built without oneDNN
                self.packed = torch.ops.mkldnn._reorder_linear_weight(weight)

    def __call__(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), without a gradient."""
        if self.packed is None:
            return F.linear(input, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")


def select_rows(x: Tensor, places: Tensor) -> Tensor:
    """(M, ...) to (N, ...) of N different places; its gradient is put where it belongs, not added up."""
    return _Rows.apply(x, places)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(x)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,), (places,) = grads, ctx.saved_tensors
        return grad.new_zeros(ctx.count, *grad.shape[1:]).index_copy(0, places, grad), None


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.held: Tensor | None = None
        """The weight as cast for many uses."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        weight = self.weight.to(x.dtype) if self.held is None else self.held
        if available(x):
            return fused_norm(x, weight, self.eps)
        if x.device.type != "cpu" or torch.compiler.is_compiling():  # a compiler fuses the plain form into one pass
            return F.rms_norm(x, (x.shape[-1],), weight, self.eps)
        return _CPURMSNorm.apply(x, weight, self.eps) if torch.is_grad_enabled() else _normed(x, self.eps)[0] * weight


class _CPURMSNorm(torch.autograd.Function):
    """RMSNorm for a CPU without a compiler, where PyTorch's own is made of many passes: it takes twice as long in fp32,
    and 3 to 4 times in bf16, for which it goes through fp32 copies.

    The mean square is summed in fp32 or better; x is read once for it and once for the product.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, scale = _normed(x, eps)
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (grad,) = grads
        normed, scale, weight = ctx.saved_tensors
        product, weight_grad = grad * normed, None
        if ctx.needs_input_grad[1]:
            weight_grad = product.flatten(0, -2).sum(0, dtype=_at_least_fp32(grad.dtype)).to(weight.dtype)
        mean = (product @ weight[:, None]).div_(normed.shape[-1])
        return (grad * weight).sub_(normed * mean).mul_(scale), weight_grad, None


def _normed(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """X / rms(x), and the factor (..., 1)."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=_at_least_fp32(x.dtype))
    scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
    return x * scale, scale


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
