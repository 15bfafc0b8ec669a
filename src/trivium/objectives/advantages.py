"""From rewards to advantages: GAE, whitening, and the group baselines that need no critic."""

from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from trivium.objectives.tokens import keep, upcast

GroupKind = Literal["rloo", "dr_grpo", "grpo"]


def gae(
    rewards: Tensor,
    values: Tensor,
    loss_mask: Tensor,
    discount: float,
    gae_lambda: float,
    bootstrap: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over real actions only.

    delta_t = r_t + discount * V_next - V_t;  A_t = delta_t + discount * gae_lambda * A_next;  G_t = A_t + V_t, where
    "next" is the next True position of the row: interior tokens the policy did not choose (tool output) are stepped
    over. Source: Schulman 2015 (arXiv:1506.02438).

    Args:
        rewards: (B, T) per action.
        values: (B, T) of the state before each action.
        loss_mask: (B, T) bool; what lies under False has no effect.
        discount: in [0, 1].
        gae_lambda: in [0, 1]; 1 makes G the discounted sum of rewards.
        bootstrap: (B,) value after the last action, for responses cut by the cap rather than ended; None means 0.
    Returns:
        advantages, returns: (B, T) each, detached; 0 where the mask is False.
    """
    mask = loss_mask.bool()
    rewards, values = keep(rewards, mask).detach(), keep(values, mask).detach()
    advantages = torch.zeros_like(rewards + values)  # the wider type of the two
    next_advantage = torch.zeros_like(advantages[:, 0])
    next_value = next_advantage if bootstrap is None else upcast(bootstrap).detach()
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + discount * next_value - values[:, t]
        advantage = delta + discount * gae_lambda * next_advantage
        real = mask[:, t]
        advantages[:, t] = torch.where(real, advantage, 0.0)
        next_advantage = torch.where(real, advantage, next_advantage)
        next_value = torch.where(real, values[:, t], next_value)
    return advantages, advantages + values


def whiten(
    advantages: Tensor, loss_mask: Tensor, group: dist.ProcessGroup | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Shift and scale advantages to mean 0 and population variance 1 over all real tokens of a rollout.

    Do it once per rollout, never per minibatch. Two passes, about a pivot: equal advantages give exact zeros, and a
    spread that rounding alone could have made counts as none.

    Args:
        advantages: (B, T).
        loss_mask: (B, T) bool.
        group: the data-parallel process group whose ranks share the rollout; None for this process alone.
    Returns:
        advantages (B, T), 0 where the mask is False; mean () and standard deviation () as divided by. Zero variance
        gives zeros and a standard deviation of 0.
    """
    mask = loss_mask.bool()
    values = keep(advantages, mask).detach()
    count = _reduce(mask.sum().to(values.dtype), group).clamp(min=1)
    pivot = _reduce(values.masked_fill(~mask, -torch.inf).amax(), group, dist.ReduceOp.MAX)
    pivot = torch.where(pivot.isfinite(), pivot, 0.0)  # -inf: nothing is real
    shifted = (values - pivot).masked_fill(~mask, 0.0)
    offset = _reduce(shifted.sum(), group) / count
    centred = (shifted - offset).masked_fill(~mask, 0.0)
    std = (_reduce(centred.square().sum(), group) / count).sqrt()
    largest = _reduce(values.abs().amax(), group, dist.ReduceOp.MAX)
    std = torch.where(std > 8 * torch.finfo(values.dtype).eps * largest, std, 0.0)
    whitened = torch.where(std > 0, centred / std.clamp(min=torch.finfo(values.dtype).tiny), 0.0)
    return whitened, pivot + offset, std


def group_advantages(scores: Tensor, group_size: int, kind: GroupKind = "rloo", valid: Tensor | None = None) -> Tensor:
    """Advantage of each response over the others drawn for its prompt; K is the group's number of valid rows.

    - `rloo`: score minus the mean of the other K - 1 (Ahmadian 2024, arXiv:2402.14740); unbiased.
    - `dr_grpo`: score minus the mean of all K (arXiv:2503.20783); (K-1)/K of rloo. REINFORCE++-baseline whitens these.
    - `grpo`: the same over (sample standard deviation + 1e-4) (arXiv:2402.03300, as TRL and verl compute it); also
      DAPO, GSPO and CISPO. The divisor biases towards prompts of low variance.

    Args:
        scores: (B,) one per response, KL penalty included if it is to count; groups are contiguous.
        group_size: rows per prompt; divides B.
        kind: one of the above.
        valid: (B,) bool; False rows take no part in baselines. None means all.
    Returns:
        (B,) detached. Rows that are invalid, or whose group has fewer than two valid rows, get 0 and belong outside the
        loss (`usable_rows`). Equal scores give exactly 0.
    Raises:
        ValueError: B is not a multiple of group_size, or the kind is unknown.
    """
    if kind not in get_args(GroupKind):
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(get_args(GroupKind))}.")
    rows = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid.bool()
    usable = _grouped(usable_rows(rows, group_size), group_size)
    grouped = _grouped(keep(scores, rows).detach(), group_size)  # (prompts, group_size)
    pivot = grouped.masked_fill(~usable, -torch.inf).amax(-1, keepdim=True)
    shifted = (grouped - pivot).masked_fill(~usable, 0.0)  # exact zeros for equal scores
    k = usable.sum(-1, keepdim=True).clamp(min=2)
    total = shifted.sum(-1, keepdim=True)
    if kind == "rloo":
        return ((k * shifted - total) / (k - 1)).masked_fill(~usable, 0.0).flatten()
    centred = (shifted - total / k).masked_fill(~usable, 0.0)
    if kind == "grpo":
        centred = centred / ((centred.square().sum(-1, keepdim=True) / (k - 1)).sqrt() + 1e-4)
    return centred.flatten()


def usable_rows(valid: Tensor, group_size: int) -> Tensor:
    """(B,) bool: the row is valid and its group has at least two valid rows, so that it has a baseline."""
    grouped = _grouped(valid.bool(), group_size)
    return (grouped & (grouped.sum(-1, keepdim=True) >= 2)).flatten()


def _grouped(rows: Tensor, group_size: int) -> Tensor:
    if group_size < 1 or rows.dim() != 1 or rows.shape[0] % group_size:
        raise ValueError(f"{tuple(rows.shape)} rows cannot be split into groups of {group_size}.")
    return rows.view(-1, group_size)


def _reduce(value: Tensor, group: dist.ProcessGroup | None, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
    if group is not None:
        dist.all_reduce(value, op=op, group=group)
    return value
