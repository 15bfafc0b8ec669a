"""Softmax cross-entropy of rows of logits and its gradient in their place; on a CPU by compiled code.

The plain form goes over the logits eight times, in fp32. `cross_entropy.cpp` visits each row once, while a processor
has it in its cache, and reads and writes it in the inputs' type.
"""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from trivium.base import compiled

SOURCE = Path(__file__).with_suffix(".cpp")
_Pointer = ctypes.c_void_p


class _Rows(ctypes.Structure):
    _fields_ = (
        *((name, _Pointer) for name in ("logits", "targets", "scales", "nll")),
        *((name, ctypes.c_long) for name in ("count", "width")),
        ("per_temperature", ctypes.c_float),
    )


class CrossEntropy:
    """-log softmax(logits / temperature)[target] for at most `count` rows at a time.

    Args:
        like: of the logits' type and device.
        count: most rows of a call.
        width: logits of a row.
    """

    def __init__(self, like: Tensor, count: int, width: int, temperature: float = 1.0) -> None:
        self.temperature = temperature
        self.wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        compilable = like.device.type == "cpu" and like.dtype in (torch.bfloat16, torch.float32)
        self._library = compiled.library(SOURCE) if compilable else None
        # Buffers of the plain form: allocating them anew would cost more than the softmax itself.
        buffers = 0 if self._library is not None else count
        self._scaled, self._probs = (like.new_empty(buffers, width, dtype=self.wide) for _ in range(2))

    def __call__(self, logits: Tensor, targets: Tensor, gradient: bool = False, scales: Tensor | None = None) -> Tensor:
        """The negative log-likelihoods.

        Args:
            logits: (n, width), contiguous; overwritten by their gradient where that is wanted.
            targets: (n,) int64.
            gradient: leave the gradient by logits / temperature, times `scales`, in the logits' place.
            scales: (n,), or None for 1.
        Returns:
            (n,) in nats, fp32 (fp64 for fp64 logits).
        Raises:
            IndexError: a target is not the index of a logit.
        """
        if self._library is None:
            return self._plain(logits, targets, gradient, scales)
        targets, nll = targets.contiguous(), logits.new_empty(len(logits), dtype=torch.float32)
        scales = None if scales is None else scales.to(torch.float32).contiguous()
        pointers = [None if each is None else each.data_ptr() for each in (logits, targets, scales, nll)]
        rows, bf16 = _Rows(*pointers, *logits.shape, 1 / self.temperature), logits.dtype == torch.bfloat16
        if self._library.trivium_cross_entropy(ctypes.byref(rows), gradient, bf16, torch.get_num_threads()):
            raise IndexError(f"a target is outside [0, {logits.shape[1]}).")
        return nll

    def _plain(self, logits: Tensor, targets: Tensor, gradient: bool, scales: Tensor | None) -> Tensor:
        ids, n = targets[:, None], len(logits)
        scaled, probs = self._scaled[:n].copy_(logits), self._probs[:n]
        if self.temperature != 1.0:
            scaled /= self.temperature
        torch.softmax(scaled, 1, out=probs)
        # log(sum(exp)) from what the fused softmax leaves: the largest logit less the log of its probability, >= 1/V.
        nll = scaled.amax(1) - probs.amax(1).log() - scaled.gather(1, ids).squeeze(1)
        if gradient:
            probs.scatter_add_(1, ids, probs.new_full((n, 1), -1.0))
            if scales is not None:
                probs *= scales[:, None]
            logits.copy_(probs)
        return nll
