"""Policy-gradient objectives: PPO's clipped surrogate and its relatives, the value loss, importance weights."""

from typing import Literal, get_args

import torch
from torch import Tensor

from trivium.batch import LossOutput
from trivium.objectives.advantages import gae, group_advantages, usable_rows, whiten
from trivium.objectives.kl import LOG_RATIO_LIMIT
from trivium.objectives.tokens import Aggregate, aggregate_loss, entropy, keep, keep_spread, masked_mean, upcast

__all__ = [
    "cispo_loss",
    "effective_sample_size",
    "entropy",
    "explained_variance",
    "gae",
    "group_advantages",
    "importance_weights",
    "policy_loss",
    "ratio_metrics",
    "usable_rows",
    "value_loss",
    "whiten",
]

Ratio = Literal["token", "sequence"]
WeightKind = Literal["token", "icepop", "sequence"]


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    clip_eps: float = 0.2,
    clip_eps_high: float | None = None,
    dual_clip: float | None = None,
    aggregate: Aggregate = "seq_sum",
    weights: Tensor | None = None,
    ratio: Ratio = "token",
    l_max: int | None = None,
) -> LossOutput:
    """PPO's clipped surrogate: max(-A rho, -A clip(rho, 1 - clip_eps, 1 + clip_eps_high)) per token.

    Sources: Schulman 2017 (arXiv:1707.06347); dual clip, Ye 2020 (arXiv:1912.09729); separate upper clip, DAPO
    (arXiv:2503.14476); `ratio="sequence"`, rho = exp(mean_t(new - old)), GSPO (arXiv:2507.18071) with `seq_mean`.

    Args:
        logprobs: (B, T) of the sampled tokens under the policy being trained.
        old_logprobs: (B, T) from one forward of the trainer before the first step of this rollout.
        advantages: (B, T), or (B, 1) for one per response.
        loss_mask: (B, T) bool; what lies under False has no effect on value or gradient.
        clip_eps: lower clip.
        clip_eps_high: upper clip; None means the same.
        dual_clip: c > 1 bounds the loss of tokens with A < 0 by -c A; None is off.
        aggregate: how tokens are averaged; see `aggregate_loss`.
        weights: (B, T) or (B, 1) constants multiplying each token's loss, e.g. `importance_weights`.
        ratio: token-wise, or one per sequence.
        l_max: cap on response length, for aggregate `const`; T when not given.
    Returns:
        Sum and count by `aggregate`. Metrics over real tokens: clipfrac (tokens where a clip cuts the gradient),
        clipfrac_up, clipfrac_down, clipfrac_dual, and those of `ratio_metrics`.
    Raises:
        ValueError: dual_clip is not above 1, the ratio or aggregate is unknown, or advantages or weights are (B,).
    """
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip is {dual_clip}, expected a number above 1 or None.")
    mask = loss_mask.bool()
    log_ratio = _log_ratio(logprobs, old_logprobs, mask)
    rho = _ratio(log_ratio, mask, ratio)
    advantages = keep_spread(advantages, mask)
    clipped = rho.clamp(1 - clip_eps, 1 + (clip_eps if clip_eps_high is None else clip_eps_high))
    plain, bounded = -advantages * rho, -advantages * clipped
    per_token = torch.maximum(plain, bounded)
    cut = bounded > plain
    dual = torch.zeros_like(cut)
    if dual_clip is not None:
        ceiling = -dual_clip * advantages
        dual = (advantages < 0) & (per_token > ceiling)
        per_token = torch.where(dual, ceiling, per_token)
    if weights is not None:
        per_token = per_token * keep_spread(weights, mask).detach()
    loss_sum, count = aggregate_loss(per_token, mask, aggregate, l_max)
    metrics = {
        "clipfrac": masked_mean(cut | dual, mask),
        "clipfrac_up": masked_mean(cut & (advantages > 0), mask),
        "clipfrac_down": masked_mean(cut & (advantages < 0), mask),
        "clipfrac_dual": masked_mean(dual, mask),
    }
    return LossOutput(loss_sum, count, metrics | ratio_metrics(logprobs, old_logprobs, mask))


def cispo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    clip_eps_high: float = 0.2,
    aggregate: Aggregate = "token",
    weights: Tensor | None = None,
    l_max: int | None = None,
) -> LossOutput:
    """CISPO: -sg(min(rho, 1 + clip_eps_high)) * A * log pi; the weight is clipped, the gradient never cut.

    Source: MiniMax-M1 (arXiv:2506.13585). Arguments, shapes and result as in `policy_loss`; `clipfrac` counts the
    tokens whose weight was clipped.
    """
    mask = loss_mask.bool()
    rho = _log_ratio(logprobs, old_logprobs, mask).exp().detach()
    coefficient = rho.clamp(max=1 + clip_eps_high) * keep_spread(advantages, mask)
    if weights is not None:
        coefficient = coefficient * keep_spread(weights, mask)
    loss_sum, count = aggregate_loss(-coefficient.detach() * keep(logprobs, mask), mask, aggregate, l_max)
    metrics = {"clipfrac": masked_mean(rho > 1 + clip_eps_high, mask)}
    return LossOutput(loss_sum, count, metrics | ratio_metrics(logprobs, old_logprobs, mask))


@torch.no_grad()
def ratio_metrics(logprobs: Tensor, old_logprobs: Tensor, loss_mask: Tensor) -> dict[str, Tensor]:
    """How far the policy has moved from the one that sampled, over real tokens.

    Args:
        logprobs, old_logprobs: (B, T).
        loss_mask: (B, T) bool.
    Returns:
        approx_kl (k3 of KL(old || new) per token, nats), ratio_mean, ratio_max; () each.
    """
    mask = loss_mask.bool()
    log_ratio = _log_ratio(logprobs, old_logprobs, mask)
    rho = log_ratio.exp()
    return {
        "approx_kl": masked_mean(torch.expm1(log_ratio) - log_ratio, mask),
        "ratio_mean": masked_mean(rho, mask),
        "ratio_max": keep(rho, mask).amax(),
    }


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, loss_mask: Tensor, clip: float | None = None
) -> LossOutput:
    """1/2 max((V - G)^2, (clip(V, V_old +- clip) - G)^2) per real token.

    Source: the PPO implementations behind arXiv:2403.17031; the clip is theirs, not the paper's.

    Args:
        values: (B, T) from the critic being trained.
        old_values: (B, T) from the critic at rollout time; unused without a clip.
        returns: (B, T) targets G.
        loss_mask: (B, T) bool.
        clip: half-width of the interval about old_values, > 0; None is off.
    Returns:
        Sum over tokens and their count. Metrics: value_loss, value_clipfrac, explained_variance.
    """
    mask = loss_mask.bool()
    values, old_values, returns = keep(values, mask), keep(old_values, mask).detach(), keep(returns, mask).detach()
    squared = (values - returns).square()
    cut = torch.zeros_like(mask)
    if clip is not None:
        bounded = (torch.clamp(values, old_values - clip, old_values + clip) - returns).square()
        cut = bounded > squared
        squared = torch.maximum(squared, bounded)
    loss_sum, count = aggregate_loss(squared / 2, mask, "token")
    metrics = {
        "value_loss": loss_sum.detach() / count.clamp(min=1),
        "value_clipfrac": masked_mean(cut, mask),
        "explained_variance": explained_variance(values, returns, mask),
    }
    return LossOutput(loss_sum, count, metrics)


@torch.no_grad()
def explained_variance(values: Tensor, returns: Tensor, loss_mask: Tensor) -> Tensor:
    """() 1 - Var(G - V) / Var(G) over real tokens: 1 is a perfect critic, <= 0 a useless one; NaN if G is constant."""
    returns = keep(returns, loss_mask)
    residual = returns - keep(values, loss_mask)
    spread = masked_mean((returns - masked_mean(returns, loss_mask)).square(), loss_mask)
    left = masked_mean((residual - masked_mean(residual, loss_mask)).square(), loss_mask)
    return torch.where(spread > 0, 1 - left / spread, torch.nan)


@torch.no_grad()
def importance_weights(
    old_logprobs: Tensor,
    sampler_logprobs: Tensor,
    loss_mask: Tensor,
    kind: WeightKind = "token",
    cap: float | None = 2.0,
    floor: float = 0.5,
) -> Tensor:
    """Weights exp(old - mu) for tokens that another engine, or older weights, drew with log-probs mu.

    - `token`: min(w_t, cap) (truncated importance sampling, Yao 2025); biased, of low variance.
    - `icepop`: w_t where it lies in [floor, cap], else 0 (Ring-1T, arXiv:2510.18855); cap 5 there.
    - `sequence`: min(prod_t w_t, cap) on every token of the response; without a cap it is exact.

    Args:
        old_logprobs: (B, T) by the trainer.
        sampler_logprobs: (B, T) by the sampler, temperature applied.
        loss_mask: (B, T) bool.
        kind: one of the above.
        cap: upper limit; None is none.
        floor: lower limit of `icepop`.
    Returns:
        (B, T) detached; 0 where the mask is False. Exactly 1 where the two engines agree.
    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in get_args(WeightKind):
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(get_args(WeightKind))}.")
    mask = loss_mask.bool()
    log_weights = keep(old_logprobs, mask) - keep(sampler_logprobs, mask)
    if kind == "sequence":
        log_weights = log_weights.sum(-1, keepdim=True).expand_as(log_weights)
    weights = log_weights.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    limit = torch.inf if cap is None else cap
    if kind == "icepop":
        weights = weights.masked_fill((weights < floor) | (weights > limit), 0.0)
    return weights.clamp(max=limit).masked_fill(~mask, 0.0)


def effective_sample_size(weights: Tensor) -> Tensor:
    """() Kish's (sum w)^2 / sum w^2 over all entries: n for equal weights, 1 when one dominates, 0 when all are 0.

    Give it one weight per independent draw: (B,) for sequences, or the real entries of a (B, T) mask.
    """
    weights = upcast(weights)
    return weights.sum().square() / weights.square().sum().clamp(min=torch.finfo(weights.dtype).tiny)


def _log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    difference = keep(logprobs, mask) - keep(old_logprobs, mask).detach()
    return difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def _ratio(log_ratio: Tensor, mask: Tensor, ratio: Ratio) -> Tensor:
    if ratio == "token":
        return log_ratio.exp()
    if ratio == "sequence":
        mean = log_ratio.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
        return mean.exp().expand_as(log_ratio)
    raise ValueError(f"ratio is {ratio!r}, expected one of {', '.join(get_args(Ratio))}.")
