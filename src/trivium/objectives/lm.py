"""Next-token prediction: the loss of pretraining and of supervised fine-tuning."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from trivium.batch import LossOutput
from trivium.objectives.cross_entropy import CrossEntropy
from trivium.objectives.tokens import keep, token_logprobs


def lm_loss(logits: Tensor, ids: Tensor, loss_mask: Tensor) -> LossOutput:
    """Negative log-likelihood of every token that carries loss, given the tokens before it.

    Args:
        logits: (B, T, V); those at index i predict the token at index i + 1.
        ids: (B, T) int64.
        loss_mask: (B, T) bool, True at the tokens to be predicted. Column 0 has no predecessor and is ignored.
    Returns:
        Sum over tokens in nats, count of tokens, metric `nll`.
    """
    mask = loss_mask[:, 1:]
    nll = keep(-token_logprobs(logits[:, :-1], ids[:, 1:]), mask)
    return _token_loss(nll.sum(), mask.sum())


def linear_lm_loss(hidden: Tensor, weight: Tensor, ids: Tensor, loss_mask: Tensor, chunk: int = 1024) -> LossOutput:
    """`lm_loss(hidden @ weight.T, ids, loss_mask)` without ever holding all the logits.

    Only positions whose successor carries loss are projected. The gradient is computed chunk by chunk in the forward
    pass, so the logits are formed once and memory is (chunk, V) whatever the batch.

    Args:
        hidden: (B, T, d) last hidden states, any float type.
        weight: (V, d) output embedding.
        ids: (B, T) int64.
        loss_mask: (B, T) bool, as in `lm_loss`.
        chunk: rows of logits held at a time.
    Returns:
        Sum over tokens in nats, count of tokens, metric `nll`.
    """
    places, targets = predicted(ids, loss_mask)
    return linear_nll_sum(hidden.flatten(0, 1).index_select(0, places), weight, targets, chunk)


def predicted(ids: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens that carry loss: (N,) flat indices of the hidden states that predict them, and their (N,) ids."""
    places = F.pad(loss_mask[:, 1:], (0, 1)).flatten().nonzero().squeeze(1)
    return places, ids.flatten().index_select(0, places + 1)


def linear_nll_sum(rows: Tensor, weight: Tensor, targets: Tensor, chunk: int = 1024) -> LossOutput:
    """The negative log-likelihood of `targets` under softmax(rows @ weight.T), as `linear_lm_loss` has it.

    Args:
        rows: (N, d) any float type.
        weight: (V, d).
        targets: (N,) int64.
        chunk: rows of logits held at a time.
    Returns:
        Sum over tokens in nats, count of tokens, metric `nll`.
    """
    rows, weight = _operands(rows, weight)
    loss_sum: Tensor = _LinearNLLSum.apply(rows, weight, targets, chunk)  # pyright: ignore
    return _token_loss(loss_sum, torch.tensor(len(targets), device=targets.device))


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int = 1024, temperature: float = 1.0
) -> Tensor:
    """Per-token negative log-likelihood of `targets` under softmax(hidden @ weight.T / temperature), in chunks.

    The backward pass recomputes the logits, so any weighting of the tokens may follow. Where the plain sum is wanted,
    `linear_lm_loss` is cheaper.

    Args:
        hidden: (N, d) any float type.
        weight: (V, d).
        targets: (N,) int64.
        chunk: rows of logits held at a time.
        temperature: > 0.
    Returns:
        (N,) in nats, fp32 (fp64 for fp64 inputs); differentiable in hidden and weight.
    Raises:
        ValueError: hidden and targets differ in length.
    """
    if hidden.shape[:1] != targets.shape:
        raise ValueError(f"hidden {tuple(hidden.shape)} does not match targets {tuple(targets.shape)}.")
    hidden, weight = _operands(hidden, weight)
    nll: Tensor = _LinearNLL.apply(hidden, weight, targets, chunk, temperature)  # pyright: ignore
    return nll


def _token_loss(loss_sum: Tensor, count: Tensor) -> LossOutput:
    return LossOutput(loss_sum, count, {"nll": loss_sum.detach() / count.clamp(min=1)})


def _operands(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one type, as `F.linear` would have them: autocast's where that is on, else that of `hidden`."""
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    return hidden.to(dtype), weight.to(dtype)


class _Chunks:
    """Logits of one chunk of rows at a time, in one buffer."""

    def __init__(self, hidden: Tensor, weight: Tensor, chunk: int, temperature: float = 1.0) -> None:
        rows = min(chunk, hidden.shape[0])
        self.hidden, self.weight, self.chunk = hidden, weight, chunk
        self.logits = hidden.new_empty(rows, weight.shape[0])
        self.cross_entropy = CrossEntropy(hidden, rows, weight.shape[0], temperature)
        self.wide = self.cross_entropy.wide

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Which rows, and their logits, to be overwritten at will."""
        for start in range(0, self.hidden.shape[0], self.chunk):
            part = slice(start, min(start + self.chunk, self.hidden.shape[0]))
            yield part, torch.mm(self.hidden[part], self.weight.t(), out=self.logits[: part.stop - start])


class _Gradients:
    """Of `hidden` and `weight`, those that are wanted: a frozen head has none."""

    def __init__(self, chunks: _Chunks, wanted: Sequence[bool]) -> None:
        self.chunks = chunks
        hidden, weight = chunks.hidden, chunks.weight
        self.hidden = torch.empty_like(hidden, memory_format=torch.contiguous_format) if wanted[0] else None
        self.weight = torch.zeros_like(weight, dtype=chunks.wide) if wanted[1] else None

    @property
    def wanted(self) -> bool:
        """Any of them."""
        return self.hidden is not None or self.weight is not None

    def add(self, part: slice, error: Tensor) -> None:
        """What a chunk has to say, whose logits have the gradient `error`."""
        if self.hidden is not None:
            torch.mm(error, self.chunks.weight, out=self.hidden[part])
        if self.weight is not None:
            self.weight += error.t() @ self.chunks.hidden[part]


class _LinearNLLSum(torch.autograd.Function):
    """Sum of the tokens' NLL; its gradients are made while a chunk's logits are at hand (Liger, arXiv:2410.10989)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        chunks = _Chunks(hidden, weight, chunk)
        gradients = _Gradients(chunks, ctx.needs_input_grad)
        total = torch.zeros((), dtype=chunks.wide, device=hidden.device)
        for part, logits in chunks:
            total += chunks.cross_entropy(logits, targets[part], gradients.wanted).sum()
            gradients.add(part, logits)
        ctx.save_for_backward(gradients.hidden, gradients.weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden_grad, weight_grad = ctx.saved_tensors
        return (
            None if hidden_grad is None else hidden_grad * grad.to(hidden_grad.dtype),
            None if weight_grad is None else (weight_grad * grad).to(ctx.weight_dtype),
            None,
            None,
        )


class _LinearNLL(torch.autograd.Function):
    """NLL of each token; the backward pass forms the logits again, for only then are the tokens' weights known."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, temperature: float) -> Tensor:
        chunks = _Chunks(hidden, weight, chunk, temperature)
        nll = torch.empty(hidden.shape[0], dtype=chunks.wide, device=hidden.device)
        for part, logits in chunks:
            nll[part] = chunks.cross_entropy(logits, targets[part])
        ctx.save_for_backward(hidden, weight, targets)
        ctx.chunk, ctx.temperature = chunk, temperature
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, targets = ctx.saved_tensors
        chunks = _Chunks(hidden, weight, ctx.chunk, ctx.temperature)
        gradients = _Gradients(chunks, ctx.needs_input_grad)
        for part, logits in chunks:
            chunks.cross_entropy(logits, targets[part], True, grad[part] / ctx.temperature)
            gradients.add(part, logits)
        return (
            gradients.hidden,
            None if gradients.weight is None else gradients.weight.to(weight.dtype),
            None,
            None,
            None,
        )
