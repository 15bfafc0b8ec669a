"""Learning from comparisons: reward-model losses over rankings and outcomes, and direct preference optimisation."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.batch import LossOutput
from trivium.objectives.preference_metrics import (
    brier_score,
    calibration_error,
    comparison_accuracy,
    correlation,
    ordered_pairs,
    reward_metrics,
)
from trivium.objectives.tokens import aggregate_loss, keep, masked_mean, upcast

__all__ = [
    "brier_score",
    "calibration_error",
    "comparison_accuracy",
    "correlation",
    "dpo_beta",
    "dpo_loss",
    "ordered_pairs",
    "outcome_loss",
    "ranking_loss",
    "reward_metrics",
]

Ties = Literal["drop", "davidson", "half"]
RankingModel = Literal["pairs", "plackett_luce"]
DPOKind = Literal["sigmoid", "ipo"]


def ranking_loss(
    scores: Tensor,
    tiers: Tensor,
    *,
    model: RankingModel = "pairs",
    ties: Ties = "drop",
    log_nu: Tensor | None = None,
    margin: Tensor | float = 0.0,
    label_smoothing: float = 0.0,
    centering: float = 0.0,
    weights: Tensor | None = None,
) -> LossOutput:
    """Fit scores to human rankings; one prompt is one term of the mean, however many completions it has.

    `pairs`: mean over a prompt's ordered pairs of -log sigmoid(r_i - r_j - m_ij) (Bradley-Terry; InstructGPT,
    arXiv:2203.02155, eq. 1). `plackett_luce`: mean over a prompt's choices of -log(exp(r_i) / sum over i and all that
    rank below it); equal to `pairs` for two completions. Ties: `drop` leaves tied pairs out; `davidson` (Davidson
    1970) models them with one learned nu, P(tie) ~ nu exp((r_i + r_j)/2); `half` scores them as half a win each, which
    shrinks scores. Centering adds centering * 4 * (mean_i r_i)^2: it pins the free constant, differences stay.

    Args:
        scores: (B, K), or (K,) for one prompt.
        tiers: same shape, integer rank of each completion: 0 is best, equal is tied, negative is absent (padding).
        model: the likelihood, above.
        ties: treatment of tied pairs; `plackett_luce` never compares tied completions and takes `drop` only.
        log_nu: () learned parameter of `davidson`.
        margin: m_ij broadcastable to (B, K, K), e.g. (B, 1, 1); by how much a winner should win. Inflates the scale.
        label_smoothing: in [0, 0.5), probability that a label is wrong. Shrinks the scale.
        centering: coefficient; 0.01 is usual in training.
        weights: (B,) non-negative, how much each prompt counts in the mean; all alike without.
    Returns:
        Sum over prompts, and the count of prompts with at least one comparison (others add nothing), both weighted.
        Metrics, not weighted: accuracy
        (equal scores count half) and ranking_nll, both per prompt, centering, and score_mean.
    Raises:
        ValueError: shapes differ, an option is unknown, or options exclude one another.
    """
    _check_ranking(scores, tiers, model, ties, log_nu, margin, label_smoothing)
    scores, tiers = torch.atleast_2d(upcast(scores)), torch.atleast_2d(tiers)
    present = tiers >= 0
    scores = scores.masked_fill(~present, 0.0)
    both = present.unsqueeze(2) & present.unsqueeze(1)
    wins = both & (tiers.unsqueeze(2) < tiers.unsqueeze(1))  # (B, K, K): i beats j
    ties_above = both & (tiers.unsqueeze(2) == tiers.unsqueeze(1))
    tied = torch.triu(ties_above, diagonal=1)  # each tied pair once
    gap = scores.unsqueeze(2) - scores.unsqueeze(1)
    if model == "plackett_luce":
        nll, compared = _plackett_luce(scores, wins)
    else:
        nll, compared = _pair_nll(gap, margin, wins, tied, ties, log_nu, label_smoothing)
    has_any = compared > 0
    per_prompt = nll / compared.clamp(min=1)
    pull = 4 * (scores.sum(-1) / present.sum(-1).clamp(min=1)).square()
    total = (per_prompt + centering * pull).masked_fill(~has_any, 0.0)
    with torch.no_grad():
        right = ((gap > 0).to(gap.dtype) + 0.5 * (gap == 0).to(gap.dtype)).masked_fill(~wins, 0.0).sum((1, 2))
        decided = wins.sum((1, 2))
        metrics = {
            "accuracy": masked_mean(right / decided.clamp(min=1), decided > 0),
            "ranking_nll": masked_mean(per_prompt, has_any),
            "centering": masked_mean(pull, has_any),
            "score_mean": masked_mean(scores, present),
        }
    if weights is not None:
        weights = weights.to(total.dtype)
        return LossOutput((weights * total).sum(), (weights * has_any).sum(), metrics)
    return LossOutput(total.sum(), has_any.sum(), metrics)


def outcome_loss(scores_per_token: Tensor, labels: Tensor, loss_mask: Tensor) -> LossOutput:
    """Binary cross-entropy of the reward head at every response token towards the response's outcome.

    Source: the token-level verifier of Cobbe 2021 (arXiv:2110.14168).

    Args:
        scores_per_token: (B, T) the head's output, a logit.
        labels: (B,) 1 for chosen or passing, 0 for rejected or failing; values between are soft labels.
        loss_mask: (B, T) bool, True at response tokens.
    Returns:
        Sum over tokens in nats and their count; metric outcome_accuracy.
    """
    mask = loss_mask.bool()
    logits = keep(scores_per_token, mask)
    target = labels.to(logits.dtype).unsqueeze(-1).expand_as(logits)
    nll = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss_sum, count = aggregate_loss(nll, mask, "token")
    accuracy = masked_mean((logits > 0) == (target > 0.5), mask)
    return LossOutput(loss_sum, count, {"outcome_accuracy": accuracy})


def dpo_loss(
    chosen_logprobs: Tensor,
    rejected_logprobs: Tensor,
    ref_chosen_logprobs: Tensor,
    ref_rejected_logprobs: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    kind: DPOKind = "sigmoid",
) -> LossOutput:
    """Direct preference optimisation: -log sigmoid(beta * h), h = (lp_w - ref_w) - (lp_l - ref_l).

    Sources: Rafailov 2023 (arXiv:2305.18290), eq. 7; label smoothing, "conservative DPO" (Mitchell 2023); `ipo`,
    (h - 1/(2 beta))^2, Azar 2023 (arXiv:2310.12036), eq. 17.

    Args:
        chosen_logprobs, rejected_logprobs: (B,) log-probability of each whole response, EOS included, by the policy.
        ref_chosen_logprobs, ref_rejected_logprobs: (B,) by the reference.
        beta: strength of the tie to the reference, > 0; see `dpo_beta`.
        label_smoothing: in [0, 0.5), probability that a label is wrong; `sigmoid` only.
        kind: sigmoid or ipo.
    Returns:
        Sum over pairs and their count. Metrics: accuracy (equal implicit rewards count half), reward_chosen,
        reward_rejected (beta * (lp - ref)), reward_margin.
    Raises:
        ValueError: beta is not positive, or an option is unknown or out of range.
    """
    if not beta > 0 or not 0 <= label_smoothing < 0.5:
        raise ValueError(f"beta {beta}, label_smoothing {label_smoothing}: expected > 0 and in [0, 0.5).")
    chosen = upcast(chosen_logprobs) - upcast(ref_chosen_logprobs).detach()
    rejected = upcast(rejected_logprobs) - upcast(ref_rejected_logprobs).detach()
    h = chosen - rejected
    if kind == "sigmoid":
        loss = -(1 - label_smoothing) * F.logsigmoid(beta * h) - label_smoothing * F.logsigmoid(-beta * h)
    elif kind == "ipo":
        loss = (h - 1 / (2 * beta)).square()
    else:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(get_args(DPOKind))}.")
    with torch.no_grad():
        metrics = {
            "accuracy": comparison_accuracy(chosen, rejected),
            "reward_chosen": beta * chosen.mean(),
            "reward_rejected": beta * rejected.mean(),
            "reward_margin": beta * h.mean(),
        }
    return LossOutput(loss.sum(), torch.tensor(loss.numel(), device=loss.device), metrics)


def dpo_beta(gamma: float, beta: float, reward_std: float) -> float:
    """The beta of DPO whose optimum is that of U: gamma * s / beta, where s is the reward model's standard deviation.

    Both are pi_ref exp(r / beta_DPO): U's is pi_ref exp(beta (r - mu) / (s gamma)).
    """
    return gamma * reward_std / beta


def _pair_nll(
    gap: Tensor,
    margin: Tensor | float,
    wins: Tensor,
    tied: Tensor,
    ties: Ties,
    log_nu: Tensor | None,
    smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Per-prompt sum of pair losses and the number of pairs in it: (B,), (B,)."""
    shifted = gap - margin
    if ties == "davidson" and log_nu is not None:
        nu = upcast(log_nu).to(gap.dtype)
        win, loss, tie = _davidson(shifted, nu)
        decided = -(1 - smoothing) * win - smoothing * loss
        level = -_davidson(gap, nu)[2]
    else:
        decided = -(1 - smoothing) * F.logsigmoid(shifted) - smoothing * F.logsigmoid(-shifted)
        level = -(F.logsigmoid(gap) + F.logsigmoid(-gap)) / 2
    nll = decided.masked_fill(~wins, 0.0).sum((1, 2))
    count = wins.sum((1, 2))
    if ties == "drop":
        return nll, count
    return nll + level.masked_fill(~tied, 0.0).sum((1, 2)), count + tied.sum((1, 2))


def _davidson(gap: Tensor, log_nu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of win, loss and tie at a score difference; all the shape of `gap`."""
    parts = torch.stack([gap / 2, -gap / 2, log_nu.expand_as(gap)])
    win, loss, tie = parts - torch.logsumexp(parts, dim=0)
    return win, loss, tie


def _plackett_luce(scores: Tensor, wins: Tensor) -> tuple[Tensor, Tensor]:
    """Per-prompt sum over choices and the number of choices: each completion against itself and all it beats."""
    options = wins | torch.eye(wins.shape[1], dtype=torch.bool, device=wins.device)
    field = scores.unsqueeze(1).expand_as(options).masked_fill(~options, -torch.inf)
    chooses = wins.any(-1)
    nll = (torch.logsumexp(field, dim=-1) - scores).masked_fill(~chooses, 0.0)
    return nll.sum(-1), chooses.sum(-1)


def _check_ranking(
    scores: Tensor,
    tiers: Tensor,
    model: RankingModel,
    ties: Ties,
    log_nu: Tensor | None,
    margin: Tensor | float,
    smoothing: float,
) -> None:
    if scores.shape != tiers.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and tiers {tuple(tiers.shape)} differ in shape.")
    if model not in get_args(RankingModel) or ties not in get_args(Ties) or not 0 <= smoothing < 0.5:
        raise ValueError(f"model {model!r}, ties {ties!r}, label_smoothing {smoothing}: unknown or out of range.")
    if (ties == "davidson") != (log_nu is not None):
        raise ValueError("ties='davidson' and log_nu go together: give both or neither.")
    plain = ties == "drop" and smoothing == 0 and not isinstance(margin, Tensor) and margin == 0
    if model == "plackett_luce" and not plain:
        raise ValueError("plackett_luce takes no margin, no label smoothing and ties='drop' only.")
