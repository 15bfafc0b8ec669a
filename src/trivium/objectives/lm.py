"""Next-token prediction: the loss of pretraining and of supervised fine-tuning."""

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


def linear_lm_loss(hidden: Tensor, weight: Tensor, ids: Tensor, loss_mask: Tensor, chunk: int = 256) -> LossOutput:
    """`lm_loss(hidden @ weight.T, ids, loss_mask)` without ever holding all the logits.

    Only positions whose successor carries loss are projected. The gradient is computed chunk by chunk in the forward
    pass, so the logits are formed once and memory is (chunk, V) whatever the batch.

    Args:
        hidden: (B, T, d) last hidden states, any float type.
        weight: (V, d) output embedding, same type.
        ids: (B, T) int64.
        loss_mask: (B, T) bool, as in `lm_loss`.
        chunk: rows of logits held at a time.
    Returns:
        Sum over tokens in nats, count of tokens, metric `nll`.
    """
    mask = loss_mask[:, 1:]
    loss_sum: Tensor = _LinearNLLSum.apply(hidden[:, :-1][mask], weight, ids[:, 1:][mask], chunk)  # pyright: ignore
    return _token_loss(loss_sum, mask.sum())


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int = 256, temperature: float = 1.0
) -> Tensor:
    """Per-token negative log-likelihood of `targets` under softmax(hidden @ weight.T / temperature), in chunks.

    The backward pass recomputes the logits, so any weighting of the tokens may follow. Where the plain sum is wanted,
    `linear_lm_loss` is cheaper.

    Args:
        hidden: (N, d) any float type.
        weight: (V, d) same type.
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
    nll: Tensor = _LinearNLL.apply(hidden, weight, targets, chunk, temperature)  # pyright: ignore
    return nll


def _token_loss(loss_sum: Tensor, count: Tensor) -> LossOutput:
    return LossOutput(loss_sum, count, {"nll": loss_sum.detach() / count.clamp(min=1)})


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class _LinearNLLSum(torch.autograd.Function):
    """Sum of the tokens' NLL; its gradients are made while a chunk's logits are at hand (Liger, arXiv:2410.10989)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        wide = _wide(hidden.dtype)
        differentiable = any(ctx.needs_input_grad[:2])
        hidden_grad = torch.empty_like(hidden) if differentiable else None
        weight_grad = torch.zeros_like(weight, dtype=wide) if differentiable else None
        total = torch.zeros((), dtype=wide, device=hidden.device)
        for start in range(0, hidden.shape[0], chunk):
            rows, ids = hidden[start : start + chunk], targets[start : start + chunk, None]
            logits = (rows @ weight.t()).to(wide)  # (chunk, V)
            logits -= logits.amax(1, keepdim=True)
            picked = logits.gather(1, ids)
            probs = logits.exp_()
            norm = probs.sum(1, keepdim=True)
            total += (norm.log() - picked).sum()
            if hidden_grad is not None and weight_grad is not None:
                probs /= norm
                probs.scatter_add_(1, ids, -torch.ones_like(picked))
                error = probs.to(hidden.dtype)
                torch.mm(error, weight, out=hidden_grad[start : start + chunk])
                weight_grad += error.t() @ rows
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * grad.to(hidden_grad.dtype), (weight_grad * grad).to(ctx.weight_dtype), None, None


class _LinearNLL(torch.autograd.Function):
    """NLL of each token; backward recomputes the chunk's logits and needs no maximum, for it has the normaliser."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, temperature: float) -> Tensor:
        wide = _wide(hidden.dtype)
        norms = torch.empty(hidden.shape[0], dtype=wide, device=hidden.device)
        picked = torch.empty_like(norms)
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            logits = (hidden[part] @ weight.t()).to(wide) / temperature  # (chunk, V)
            norms[part] = torch.logsumexp(logits, 1)
            picked[part] = logits.gather(1, targets[part, None]).squeeze(1)
        ctx.save_for_backward(hidden, weight, targets, norms)
        ctx.chunk, ctx.temperature = chunk, temperature
        return norms - picked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, targets, norms = ctx.saved_tensors
        hidden_grad = torch.empty_like(hidden)
        weight_grad = torch.zeros_like(weight, dtype=norms.dtype)
        for start in range(0, hidden.shape[0], ctx.chunk):
            part = slice(start, start + ctx.chunk)
            rows = hidden[part]
            logits = (rows @ weight.t()).to(norms.dtype) / ctx.temperature
            probs = logits.sub_(norms[part, None]).exp_()
            probs.scatter_add_(1, targets[part, None], probs.new_full((rows.shape[0], 1), -1.0))
            error = probs.mul_(grad[part, None] / ctx.temperature).to(hidden.dtype)
            hidden_grad[part] = error @ weight
            weight_grad += error.t() @ rows
        return hidden_grad, weight_grad.to(weight.dtype), None, None, None
