"""What is logged of a rollout before any update: its rewards, its distance from M1, and how far its parts agree."""

from torch import Tensor

from trivium.objectives.kl import kl_estimate
from trivium.objectives.tokens import keep, masked_mean
from trivium.rl.group import level_groups
from trivium.rl.rollout import Rollout


def rollout_figures(rollout: Rollout, trainer: Tensor) -> dict[str, float]:
    """Means over real tokens of valid responses; lengths and ends are of all responses.

    Args:
        rollout: with scores, validity, old and reference log-probabilities.
        trainer: (N, L) log-probabilities by the trainer, which are the old ones unless the sampler's took their place.
    """
    mask, valid = rollout.loss_mask, rollout.valid
    k1 = keep(kl_estimate(rollout.old_logprobs, rollout.ref_logprobs, "k1"), mask).sum(1)
    gap = keep((trainer - rollout.sampler_logprobs).abs(), mask)
    level, compared = level_groups(rollout)
    scores, lengths = rollout.scores[valid], rollout.lengths.float()
    return {
        "reward/mean": scores.mean().item(),
        "reward/std": scores.std(unbiased=False).item() if valid.any() else 0.0,
        "kl/sequence": k1[valid].mean().item(),
        "kl/token": (k1.sum() / mask.sum().clamp(min=1)).item(),
        "sampler/gap_mean": masked_mean(gap, mask).item(),
        "sampler/gap_max": gap.max().item(),
        "length/mean": lengths.mean().item(),
        "length/p95": lengths.quantile(0.95).item(),
        "eos_rate": rollout.finished.float().mean().item(),
        "invalid": float((~valid).sum()),
        "groups/zero_variance": ((level & compared).sum() / compared.sum().clamp(min=1)).item(),
        "surprisal": -masked_mean(rollout.old_logprobs, mask).item(),
    }
