"""How well a reward model agrees with judgements: accuracy, calibration, and what else could explain it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trivium.base.seeding import derive_seed
from trivium.evaluation.probes import probe_reward_model
from trivium.evaluation.reward_bias import JudgedPair, agreement, format_figures, length_figures, ordered_pairs
from trivium.objectives.preference import brier_score, calibration_error
from trivium.rewards import RewardModel
from trivium.rewards.ensemble import score_deviation
from trivium.rewards.learning import RankedTokens
from trivium.rewards.ties import tie_probability

MOST_PROBED = 500
"""Answers of a probe."""


def group_scores(model: RewardModel, groups: Sequence[RankedTokens]) -> list[torch.Tensor]:
    """Raw scores of every group's completions."""
    return _by_group(model.raw_scores(*_flat(groups)), groups)


def _flat(groups: Sequence[RankedTokens]) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Prompts, all their completions, and the prompt that each belongs to."""
    owners = [index for index, group in enumerate(groups) for _ in group.completions]
    return [group.prompt for group in groups], [ids for group in groups for ids in group.completions], owners


def _by_group(scores: torch.Tensor, groups: Sequence[RankedTokens]) -> list[torch.Tensor]:
    return list(scores.split([len(group.completions) for group in groups], dim=-1))


def comparison_figures(model: RewardModel, groups: Sequence[RankedTokens], seed: int) -> dict[str, Any]:
    """Accuracy with an interval clustered by prompt, NLL and calibration over all pairs of the groups.

    Every pair weighs the same. Where the model has learnt Davidson's nu, `ties` compares how often pairs tie with how
    often it expects that.

    Args:
        seed: fixes which pairs are turned round for the calibration.
    Returns:
        Nothing where no group has a better and a worse answer.
    """
    scores = group_scores(model, groups)
    pairs = ordered_pairs(groups, scores)
    if not pairs:
        return {}
    return fit_figures(pairs, seed) | {"pairs": len(pairs)} | _tie_figures(model, groups, scores)


def heldout_figures(model: RewardModel, groups: Sequence[RankedTokens], seed: int) -> dict[str, Any]:
    """`comparison_figures`, with accuracy by source and what else could explain it: the pulls of length and format."""
    scores = group_scores(model, groups)
    pairs = ordered_pairs(groups, scores)
    if not pairs:
        return {}
    names = [groups[pair.group].source for pair in pairs]
    return fit_figures(pairs, seed) | {
        "pairs_heldout": len(pairs),
        "length": length_figures(groups, scores, pairs),
        "format": format_figures(groups, pairs, model.tokenizer),
        "sources": {
            name: agreement([p for p, n in zip(pairs, names, strict=True) if n == name]) for name in sorted(set(names))
        },
        **_tie_figures(model, groups, scores),
    }


def annotator_figures(model: RewardModel, groups: Mapping[str, Sequence[RankedTokens]]) -> dict[str, dict[str, Any]]:
    """R's agreement with each annotator, from what each has judged."""
    pairs = {name: ordered_pairs(own, group_scores(model, own)) for name, own in groups.items()}
    return {name: agreement(own) for name, own in sorted(pairs.items()) if own}


def fit_figures(pairs: Sequence[JudgedPair], seed: int) -> dict[str, Any]:
    """How well the pairs' scores fit what was judged: accuracy, NLL, and the calibration of their probabilities."""
    gap = torch.tensor([pair.gap for pair in pairs])
    flip = torch.rand(len(gap), generator=torch.Generator().manual_seed(derive_seed(seed, "pair order"))) < 0.5
    probability, outcome = torch.sigmoid(torch.where(flip, -gap, gap)), (~flip).float()
    figures = agreement(pairs)
    return {
        "accuracy": figures["accuracy"],
        "accuracy_ci": figures["accuracy_ci"],
        "nll": torch.nn.functional.softplus(-gap).mean().item(),
        "ece": calibration_error(probability, outcome).item(),
        "brier": brier_score(probability, outcome).item(),
        "calibration": _calibration(probability, outcome),
    }


def _tie_figures(model: RewardModel, groups: Sequence[RankedTokens], scores: Sequence[torch.Tensor]) -> dict[str, Any]:
    if (nu := model.figures.get("nu")) is None:
        return {}
    gaps, tied = [], []
    for group, values in zip(groups, scores, strict=True):
        for j, other in enumerate(group.tiers):
            for i in range(j):
                if group.tiers[i] >= 0 and other >= 0:
                    gaps.append(values[i] - values[j])
                    tied.append(group.tiers[i] == other)
    expected = tie_probability(torch.stack(gaps), nu).mean().item()
    return {"ties": {"pairs": sum(tied), "observed": sum(tied) / len(tied), "expected": expected}}


def ensemble_figures(model: RewardModel, groups: Sequence[RankedTokens]) -> dict[str, Any]:
    """How good each member of an ensemble is, and how far they differ.

    Args:
        model: normalised, with members whose figures are those of `comparison_figures`.
    Returns:
        `accuracy` and `nll` of each member; `disagreement`: the members' standard deviation on an answer of these
        groups, in units of the normalised reward, on average; `divided`: share of the pairs, better and worse, on
        whose order the members are not of one mind. Nothing where no group has a pair.
    """
    members = model.ensemble.members if model.ensemble else []
    scores = _by_group(model.member_scores(*_flat(groups)), groups) if groups else []
    divided = [
        0 < sum(right) < len(right)
        for pair in ordered_pairs(groups, [values[0] for values in scores])
        if (right := (scores[pair.group][:, pair.better] > scores[pair.group][:, pair.worse]).tolist())
    ]
    if not divided:
        return {}
    return {
        "accuracy": [member.figures["accuracy"] for member in members],
        "nll": [member.figures["nll"] for member in members],
        "disagreement": (score_deviation(torch.cat(scores, dim=1)).mean() / model.std).item(),
        "divided": sum(divided) / len(divided),
    }


def probe_figures(model: RewardModel, groups: Sequence[RankedTokens], seed: int) -> dict[str, dict[str, Any]]:
    """Probes on the best answers of each held-out prompt, tests that failed and mere ties left out; `MOST_PROBED`."""
    good = [
        (group.prompt, ids)
        for group in groups
        for ids, tier, outcome in zip(group.completions, group.tiers, group.outcomes, strict=True)
        if tier == 0 and (outcome == 1 or (outcome != 0 and any(group.tiers)))
    ][:MOST_PROBED]
    return probe_reward_model(model, [p for p, _ in good], [ids for _, ids in good], seed) if good else {}


def _calibration(probability: torch.Tensor, outcome: torch.Tensor, bins: int = 15) -> list[dict[str, float]]:
    order = probability.argsort()
    return [
        {"predicted": probability[part].mean().item(), "observed": outcome[part].mean().item(), "n": len(part)}
        for part in order.tensor_split(min(bins, len(order)))
        if len(part)
    ]
