"""Next-token prediction: the loss of pretraining and of supervised fine-tuning."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trivium.batch import LossOutput
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
    at = loss_mask[:, 1:].flatten().nonzero().squeeze(1)
    rows = hidden[:, :-1].flatten(0, 1).index_select(0, at)  # cheaper backward than a mask
    rows, weight = _operands(rows, weight)
    targets = ids[:, 1:].flatten().index_select(0, at)
    loss_sum: Tensor = _LinearNLLSum.apply(rows, weight, targets, chunk)  # pyright: ignore
    return _token_loss(loss_sum, torch.tensor(at.numel(), device=at.device))


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


class _Softmax:
    """Buffers for one chunk of logits at a time: allocating them anew would cost more than the softmax itself."""

    def __init__(self, hidden: Tensor, weight: Tensor, chunk: int) -> None:
        shape = (min(chunk, hidden.shape[0]), weight.shape[0])
        self.wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        self.chunk = chunk
        self.raw = hidden.new_empty(shape)
        self.logits = hidden.new_empty(shape, dtype=self.wide)
        self.probs = hidden.new_empty(shape, dtype=self.wide)

    def parts(self, rows: int) -> Iterator[slice]:
        """Slices of at most `chunk` rows."""
        return (slice(start, min(start + self.chunk, rows)) for start in range(0, rows, self.chunk))

    def forward(self, rows: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> Tensor:
        """NLL of `ids` (n, 1) given `rows` (n, d): (n,). Leaves the probabilities (n, V) in `probs`."""
        n = rows.shape[0]
        logits, probs = self.logits[:n], self.probs[:n]
        logits.copy_(torch.mm(rows, weight.t(), out=self.raw[:n]))
        if temperature != 1.0:
            logits /= temperature
        torch.softmax(logits, 1, out=probs)
        # log(sum(exp)) from what the fused softmax leaves: the largest logit less the log of its probability, >= 1/V.
        norms = logits.amax(1) - probs.amax(1).log()
        return norms - logits.gather(1, ids).squeeze(1)

    def error(self, ids: Tensor, scale: Tensor | None = None) -> Tensor:
        """Gradient of the last chunk's NLL, times `scale` (n, 1), by its logits: (n, V) in the inputs' type."""
        n = ids.shape[0]
        probs = self.probs[:n]
        probs.scatter_add_(1, ids, probs.new_full((n, 1), -1.0))
        if scale is not None:
            probs *= scale
        return self.raw[:n].copy_(probs)


class _LinearNLLSum(torch.autograd.Function):
    """Sum of the tokens' NLL; its gradients are made while a chunk's logits are at hand (Liger, arXiv:2410.10989)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        softmax = _Softmax(hidden, weight, chunk)
        total = torch.zeros((), dtype=softmax.wide, device=hidden.device)
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden, memory_format=torch.contiguous_format) if for_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=softmax.wide) if for_weight else None
        for part in softmax.parts(hidden.shape[0]):
            rows, ids = hidden[part], targets[part, None]
            total += softmax.forward(rows, weight, ids, 1.0).sum()
            if for_hidden or for_weight:
                _add_gradients(softmax.error(ids), rows, weight, part, hidden_grad, weight_grad)
        ctx.save_for_backward(hidden_grad, weight_grad)
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
        softmax = _Softmax(hidden, weight, chunk)
        nll = torch.empty(hidden.shape[0], dtype=softmax.wide, device=hidden.device)
        for part in softmax.parts(hidden.shape[0]):
            nll[part] = softmax.forward(hidden[part], weight, targets[part, None], temperature)
        ctx.save_for_backward(hidden, weight, targets)
        ctx.chunk, ctx.temperature = chunk, temperature
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, targets = ctx.saved_tensors
        softmax = _Softmax(hidden, weight, ctx.chunk)
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden, memory_format=torch.contiguous_format) if for_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=softmax.wide) if for_weight else None
        for part in softmax.parts(hidden.shape[0]):
            rows, ids = hidden[part], targets[part, None]
            softmax.forward(rows, weight, ids, ctx.temperature)
            error = softmax.error(ids, grad[part, None] / ctx.temperature)
            _add_gradients(error, rows, weight, part, hidden_grad, weight_grad)
        return hidden_grad, None if weight_grad is None else weight_grad.to(weight.dtype), None, None, None


def _add_gradients(
    error: Tensor, rows: Tensor, weight: Tensor, part: slice, hidden_grad: Tensor | None, weight_grad: Tensor | None
) -> None:
    """Put in what a chunk has to say of those gradients that are wanted; a frozen head has none."""
    if hidden_grad is not None:
        torch.mm(error, weight, out=hidden_grad[part])
    if weight_grad is not None:
        weight_grad += error.t() @ rows
