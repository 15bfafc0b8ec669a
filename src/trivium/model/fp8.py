"""Products of weights in 8-bit floats, for training on GPUs that multiply these twice as fast as bf16.

The recipe of Micikevicius et al. 2022 (arXiv:2209.05433): 4 bits of exponent and 3 of mantissa forwards, 5 and 2 for
gradients, one scale a tensor, from its largest value at that very step.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FORWARD, GRADIENT = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16
"""Of which all sides of a product have to be."""


def supported(device: torch.device) -> bool:
    """Whether the device multiplies 8-bit floats: NVIDIA's from compute capability 8.9 (Ada, Hopper) on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def fits(weight: Tensor) -> bool:
    """Whether a matrix has sides that products in fp8 can have."""
    return all(side % MULTIPLE == 0 for side in weight.shape)


def fp8_product(x: Tensor, weight: Tensor) -> Tensor:
    """X W' and both gradients by products of 8-bit floats.

    Args:
        x: (..., in_features) bf16.
        weight: (out_features, in_features) of any precision, rounded once; see `fits`.
    Returns:
        (..., out_features) in x's dtype.
    """
    return _Product.apply(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rows, scale = _rounded(_whole(x), FORWARD)
        matrix, matrix_scale = _rounded(weight, FORWARD)
        ctx.save_for_backward(rows, scale, matrix, matrix_scale)
        ctx.dtypes = x.dtype, weight.dtype
        return _multiply(rows, scale, matrix, matrix_scale, x.dtype, fast=True)[: len(x)]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, scale, matrix, matrix_scale = ctx.saved_tensors
        dtype, weight_dtype = ctx.dtypes
        grad, grad_scale = _rounded(_whole(grads[0]), GRADIENT)
        x_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = _multiply(grad, grad_scale, matrix.t().contiguous(), matrix_scale, dtype)[: len(grads[0])]
        if ctx.needs_input_grad[1]:
            transposed = grad.t().contiguous(), grad_scale, rows.t().contiguous(), scale
            weight_grad = _multiply(*transposed, dtype).to(weight_dtype)
        return x_grad, weight_grad


def _whole(rows: Tensor) -> Tensor:
    """Rows of zeros added up to a number that products take."""
    return F.pad(rows, (0, 0, 0, -len(rows) % MULTIPLE))


def _rounded(tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A tensor as 8-bit floats over their whole range, and the factor that takes them back."""
    scale = (tensor.abs().amax().float() / torch.finfo(dtype).max).clamp(min=torch.finfo(torch.float32).tiny)
    return (tensor.float() / scale).to(dtype), scale


def _multiply(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, dtype: torch.dtype, fast: bool = False) -> Tensor:
    """(M, K) and (N, K) to (M, N), summed in fp32; `fast` lets Hopper sum with fewer bits in between."""
    product: Any = torch.ops.aten._scaled_mm
    return product(a, b.t(), a_scale, b_scale, out_dtype=dtype, use_fast_accum=fast)
