"""Kullback-Leibler divergence: estimators, the exact sum, its place in the reward, and the coefficient's controller."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from trivium.batch import LossOutput
from trivium.objectives.tokens import Aggregate, aggregate_loss, keep, keep_spread, masked_mean, upcast

KLKind = Literal["k1", "k2", "k3"]
LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to +-20 before they are exponentiated."""


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: KLKind = "k1") -> Tensor:
    """Single-sample estimates of KL(pi || pi_ref) for tokens drawn from pi; with d = logprobs - ref_logprobs.

    k1 = d is unbiased; k2 = d^2/2 is biased, of low variance; k3 = exp(-d) - 1 + d is unbiased and never negative.
    Source: Schulman, "Approximating KL divergence" (2020). Which of them gives a sound gradient where: docs/rlhf.md.

    Args:
        logprobs: (...) under the policy that sampled.
        ref_logprobs: (...) under the reference.
        kind: k1, k2 or k3.
    Returns:
        (...) in nats, differentiable.
    Raises:
        ValueError: the kind is unknown.
    """
    d = upcast(logprobs) - upcast(ref_logprobs)
    if kind == "k1":
        return d
    if kind == "k2":
        return d.square() / 2
    if kind == "k3":
        # expm1 keeps the d^2/2 that exp(-d) - 1 + d would lose to rounding near d = 0.
        return torch.expm1((-d).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)) + d
    raise ValueError(f"kind is {kind!r}, expected one of {', '.join(get_args(KLKind))}.")


def exact_kl(logits: Tensor, ref_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(softmax(logits / temperature) || softmax(ref_logits / temperature)) over the whole vocabulary.

    Summed over the positions of the policy's own samples it estimates Omega without bias and with less variance than
    the sum of log-ratios.

    Args:
        logits: (..., V) of the policy; minus infinity marks a token it never produces.
        ref_logits: (..., V) of the reference.
        temperature: shared, > 0.
    Returns:
        (...) in nats, >= 0 up to rounding; infinite where the policy reaches what the reference cannot.
    """
    logp = torch.log_softmax(upcast(logits) / temperature, dim=-1)
    logq = torch.log_softmax(upcast(ref_logits) / temperature, dim=-1)
    impossible = logp == -math.inf
    difference = logp.masked_fill(impossible, 0.0) - logq.masked_fill(impossible, 0.0)
    return (logp.exp() * difference).sum(-1)


def kl_loss(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    loss_mask: Tensor,
    *,
    kind: KLKind = "k3",
    aggregate: Aggregate = "seq_sum",
    old_logprobs: Tensor | None = None,
    weights: Tensor | None = None,
    l_max: int | None = None,
) -> LossOutput:
    """A KL estimate used as a loss, as GRPO (arXiv:2402.03300) does with k3.

    Biased, whichever the kind: k1 has gradient 0 in expectation, k2 freezes the distribution of states, k3 follows the
    forward KL. The sound place for the penalty is the reward (`shape_rewards`).

    Args:
        logprobs: (B, T) under the policy being trained.
        ref_logprobs: (B, T) under the reference.
        loss_mask: (B, T) bool.
        kind: k1, k2 or k3.
        aggregate: as in `aggregate_loss`.
        old_logprobs: (B, T) under the policy that sampled; weights each token by the detached ratio new/old, as every
            minibatch after the first needs. None means on-policy.
        weights: (B, T) or (B, 1) further constants, as in `policy_loss`.
        l_max: as in `aggregate_loss`.
    Returns:
        Sum in nats with its count; metric `kl_loss`, the estimate's mean per token.
    """
    estimate = kl_estimate(keep(logprobs, loss_mask), keep(ref_logprobs, loss_mask), kind)
    weighted = estimate
    if old_logprobs is not None:
        log_ratio = keep(logprobs, loss_mask) - keep(old_logprobs, loss_mask)
        weighted = estimate * log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp().detach()
    if weights is not None:
        weighted = weighted * keep_spread(weights, loss_mask).detach()
    loss_sum, count = aggregate_loss(weighted, loss_mask, aggregate, l_max)
    return LossOutput(loss_sum, count, {"kl_loss": masked_mean(estimate.detach(), loss_mask)})


def shape_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, loss_mask: Tensor, beta: float, gamma: float
) -> Tensor:
    """Token rewards r_t = -gamma * k1_t + 1[last real action] * beta * score, detached.

    With reward-to-go the gradient of its expected sum is exactly that of beta * E[score] - gamma * KL. Source: Ziegler
    2019 (arXiv:1909.08593), InstructGPT (arXiv:2203.02155).

    Args:
        scores: (B,) normalised reward of each response.
        logprobs: (B, T) under the policy that sampled.
        ref_logprobs: (B, T) under the reference.
        loss_mask: (B, T) bool, True at real actions, a sampled EOS included; holes and pads are False.
        beta: weight of the score.
        gamma: weight of the KL penalty, reward per nat.
    Returns:
        (B, T) rewards; 0 outside the mask. A row without actions has nowhere to put its score and gets none.
    """
    mask = loss_mask.bool()
    penalty = kl_estimate(keep(logprobs, mask), keep(ref_logprobs, mask), "k1")
    later = mask.flip(-1).cumsum(-1).flip(-1)  # real actions from here on, this one included
    last = mask & (later == 1)
    final = torch.where(last, (beta * upcast(scores)).unsqueeze(-1), 0.0)
    return (final - gamma * penalty).detach()


def best_of_n_kl(n: int) -> float:
    """Upper bound, in nats, of KL(best-of-n || base): ln n - (n - 1)/n; an equality when scores never tie.

    Source: Stiennon 2020 (arXiv:2009.01325); proof of the inequality: Beirami 2024 (arXiv:2401.01879).
    """
    if n < 1:
        raise ValueError(f"n is {n}, expected at least 1.")
    return math.log(n) - (n - 1) / n


class KLController:
    """The KL coefficient gamma: constant, or steered so that the KL per sequence meets a target.

    gamma <- gamma * (1 + clip(KL/target - 1, +-0.2) * n/horizon). Source: Ziegler 2019 (arXiv:1909.08593).

    Args:
        gamma: initial coefficient, reward per nat.
        target: KL per sequence in nats, > 0; None keeps gamma constant.
        horizon: sequences over which a full deviation acts.
    Raises:
        ValueError: target or horizon is not positive, or gamma is negative.
    """

    def __init__(self, gamma: float, target: float | None = None, horizon: float = 10_000) -> None:
        if gamma < 0 or horizon <= 0 or (target is not None and target <= 0):
            raise ValueError(f"gamma {gamma}, target {target}, horizon {horizon}: expected >= 0, > 0 and > 0.")
        self.gamma = float(gamma)
        self.target = target
        self.horizon = horizon

    def update(self, kl: float, n: int) -> float:
        """Take the mean KL per sequence (nats, summed over tokens) of n sequences; return the new gamma."""
        if self.target is not None:
            error = min(max(float(kl) / self.target - 1, -0.2), 0.2)
            self.gamma *= 1 + error * n / self.horizon
        return self.gamma

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint must hold."""
        return {"gamma": self.gamma}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a checkpoint; target and horizon come from the configuration."""
        self.gamma = float(state["gamma"])
