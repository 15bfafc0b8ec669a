"""What stands between a block's products, on a CPU by compiled code: `fused_layers.cpp`, in fp32 and bf16.

RMSNorm, the gate of SwiGLU and the rotation of queries and keys take a quarter of a step's time as PyTorch's
operations, each of which goes over the memory once more.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trivium.base import compiled

SOURCE = Path(__file__).with_suffix(".cpp")
_Pointer, _Long = ctypes.c_void_p, ctypes.c_long


class _Norm(ctypes.Structure):
    _fields_ = (
        *((name, _Pointer) for name in ("x", "weight", "grad", "out", "scales", "weight_grad")),
        *((name, _Long) for name in ("rows", "width")),
        ("eps", ctypes.c_float),
    )


class _Gate(ctypes.Structure):
    _fields_ = (*((name, _Pointer) for name in ("gate", "up", "grad", "out", "up_grad")), ("count", _Long))


class _Rotation(ctypes.Structure):
    _fields_ = (
        *((name, _Pointer) for name in ("x", "cos", "sin", "out")),
        *((name, _Long) for name in ("tokens", "heads", "half", "tables")),
        ("direction", ctypes.c_float),
    )


def available(x: Tensor) -> bool:
    """Whether these can be used on such a tensor: in fp32 or bf16 on a CPU that has a compiler."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.bfloat16, torch.float32)
        and not torch.compiler.is_compiling()  # which makes one pass of the plain form itself
        and compiled.library(SOURCE) is not None
    )


def fused_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """X / rms(x) * weight; differentiable.

    Args:
        x: (..., width) for which `available` holds.
        weight: (width,) of x's dtype.
        eps: added to the mean square.
    Returns:
        (..., width).
    """
    return _FusedNorm.apply(x, weight, eps) if torch.is_grad_enabled() else _norm(x.contiguous(), weight, eps)[0]


def fused_gate(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up; differentiable.

    Args:
        gate, up: of one shape and dtype, for which `available` holds.
    Returns:
        The same shape.
    """
    return _FusedGate.apply(gate, up) if torch.is_grad_enabled() else _gate(gate.contiguous(), up.contiguous())


class _FusedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        out, scales = _norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scales)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        x, weight, scales = ctx.saved_tensors
        grad, x_grad = grad.contiguous(), torch.empty_like(x)
        weight_grad = torch.empty(weight.shape, dtype=torch.float32)
        pointers = (each.data_ptr() for each in (x, weight, grad, x_grad, scales, weight_grad))
        _call("norm_gradient", _Norm(*pointers, len(scales), x.shape[-1]), x.dtype)
        return x_grad, weight_grad.to(weight.dtype) if ctx.needs_input_grad[1] else None, None


class _FusedGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return _gate(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        grad, gate_grad, up_grad = grad.contiguous(), torch.empty_like(gate), torch.empty_like(up)
        pointers = (each.data_ptr() for each in (gate, up, grad, gate_grad, up_grad))
        _call("gate_gradient", _Gate(*pointers, gate.numel()), gate.dtype)
        return gate_grad, up_grad


def turned(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """Channel pairs (i, i + D/2) turned by their position's angle, or back by it; no gradient of its own.

    Args:
        x: (B, H, T, D) for which `available` holds.
        cos, sin: (T, D / 2) or (B, 1, T, D / 2) of x's dtype.
        direction: 1, or -1 to turn back.
    Returns:
        (B, H, T, D).
    """
    x, cos, sin = x.transpose(1, 2).contiguous(), cos.contiguous(), sin.contiguous()
    out, half = torch.empty_like(x), x.shape[-1] // 2
    sizes = x.shape[0] * x.shape[1], x.shape[2], half, cos.numel() // half
    pointers = (each.data_ptr() for each in (x, cos, sin, out))
    _call("rotate", _Rotation(*pointers, *sizes, direction), x.dtype)
    return out.transpose(1, 2)


def _norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The result and the (rows,) factors 1 / rms."""
    width = x.shape[-1]
    weight, out = weight.contiguous(), torch.empty_like(x)
    scales = torch.empty(x.numel() // width, dtype=torch.float32)
    pointers = (None if each is None else each.data_ptr() for each in (x, weight, None, out, scales, None))
    _call("norm", _Norm(*pointers, len(scales), width, eps), x.dtype)
    return out, scales


def _gate(gate: Tensor, up: Tensor) -> Tensor:
    out = torch.empty_like(gate)
    _call("gate", _Gate(gate.data_ptr(), up.data_ptr(), None, out.data_ptr(), None, gate.numel()), gate.dtype)
    return out


def _call(name: str, arguments: ctypes.Structure, dtype: torch.dtype) -> None:
    function = getattr(compiled.library(SOURCE), f"trivium_{name}")
    function(ctypes.byref(arguments), dtype == torch.bfloat16, torch.get_num_threads())
