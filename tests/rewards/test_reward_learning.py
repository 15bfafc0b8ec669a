"""The step's loss against one completion at a time."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.model import Scorer
from trivium.rewards.learning import RankedTokens, RewardLossConfig, RewardStep

NAN = math.nan
EXAMPLES = [
    RankedTokens([1, 7, 9], [[4, 2], [8, 9, 10, 2], [11]], [0, 1, 2], [1.0, 0.0, 0.0]),
    RankedTokens([1, 3], [[5, 5, 2], [6, 2]], [1, 0], [0.0, 1.0]),
    RankedTokens([1], [[12, 2], [13, 14], [15, 2], [16, 2]], [0, 1, 1, -1], [NAN, NAN, 0.0, 1.0]),
    RankedTokens([1, 8, 8, 8, 8], [[20, 2], [21, 22, 2]], [0, 0], [1.0, 1.0]),  # a tie: nothing to rank
]
FULL = RewardLossConfig(outcome_weight=0.7, lm_weight=0.3, centering=0.05, label_smoothing=0.1)


def slow_terms(scorer: Scorer, config: RewardLossConfig) -> dict[str, Tensor]:
    """Ranking with its pull to zero, outcome and language-model terms, by their definitions."""
    ranking, outcome, nll = [], [], []
    for example in EXAMPLES:
        finals = []
        for completion, label in zip(example.completions, example.outcomes, strict=True):
            hidden = scorer.hidden(torch.tensor([example.prompt + completion]))[0]
            scores = scorer.scores(hidden)
            finals.append(scores[-1])
            start = len(example.prompt)
            if not math.isnan(label):
                target = torch.full((len(completion),), label)
                outcome += list(F.binary_cross_entropy_with_logits(scores[start:], target, reduction="none"))
            if label == 1:
                logits = scorer.logits(hidden[start - 1 : -1])
                nll += list(F.cross_entropy(logits, torch.tensor(completion), reduction="none"))
        pairs = [
            -(1 - config.label_smoothing) * F.logsigmoid(a - b) - config.label_smoothing * F.logsigmoid(b - a)
            for a, tier in zip(finals, example.tiers, strict=True)
            for b, other in zip(finals, example.tiers, strict=True)
            if 0 <= tier < other
        ]
        ranked = [score for score, tier in zip(finals, example.tiers, strict=True) if tier >= 0]
        if pairs:
            ranking.append(torch.stack(pairs).mean() + config.centering * 4 * torch.stack(ranked).mean().square())
    return {
        name: torch.stack(terms).mean() for name, terms in (("ranking", ranking), ("outcome", outcome), ("lm", nll))
    }


def grads(scorer: Scorer, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(scorer.parameters()), materialize_grads=True))


@pytest.mark.parametrize(
    "config",
    [FULL, RewardLossConfig(outcome_weight=0.0, lm_weight=0.0), RewardLossConfig(lm_weight=0.0), RewardLossConfig()],
)
@pytest.mark.parametrize("max_tokens", [8192, 30, 1])
def test_the_loss_is_that_of_one_completion_at_a_time(
    make_scorer: Callable[..., Scorer], config: RewardLossConfig, max_tokens: int
) -> None:
    scorer = make_scorer(tie_embeddings=False)
    terms = slow_terms(scorer, config)
    expected = terms["ranking"] + config.outcome_weight * terms["outcome"] + config.lm_weight * terms["lm"]
    step = RewardStep(scorer, EXAMPLES, config, max_tokens)
    losses = list(step.losses())
    assert len(losses) == {8192: 1, 30: len(step.batches), 1: 4}[max_tokens] and (max_tokens != 30 or len(losses) > 1)
    total = torch.stack([loss.loss_sum for loss in losses]).sum()
    assert sum(float(loss.count) for loss in losses) == 1
    torch.testing.assert_close(total, expected, atol=1e-5, rtol=0)
    for actual, wanted in zip(grads(scorer, total), grads(scorer, expected), strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-5 * max(1.0, wanted.abs().max().item()), rtol=0)
    logged = {key: sum(float(loss.metrics.get(key, 0.0)) for loss in losses) for key in ("outcome_loss", "lm_loss")}
    assert logged["outcome_loss"] == pytest.approx(terms["outcome"].item() if config.outcome_weight else 0, abs=1e-5)
    assert logged["lm_loss"] == pytest.approx(terms["lm"].item() if config.lm_weight else 0, abs=1e-5)


@pytest.mark.parametrize("max_tokens", [8192, 1])
def test_a_prompt_of_weight_two_counts_as_two(make_scorer: Callable[..., Scorer], max_tokens: int) -> None:
    scorer = make_scorer()
    config = RewardLossConfig(outcome_weight=0.0, lm_weight=0.0)
    weighted = [replace(EXAMPLES[0], weight=2.0), *EXAMPLES[1:]]
    totals = [
        torch.stack([loss.loss_sum for loss in RewardStep(scorer, examples, config, max_tokens).losses()]).sum()
        for examples in (weighted, [EXAMPLES[0], *EXAMPLES], EXAMPLES)
    ]
    torch.testing.assert_close(totals[0], totals[1], atol=1e-5, rtol=0)
    assert abs(totals[0] - totals[2]) > 1e-4
    light = [replace(example, weight=0.25) for example in EXAMPLES]
    total = torch.stack([loss.loss_sum for loss in RewardStep(scorer, light, config, max_tokens).losses()]).sum()
    torch.testing.assert_close(total, totals[2], atol=1e-5, rtol=0)


def test_accuracy_is_the_mean_over_ranked_prompts(make_scorer: Callable[..., Scorer]) -> None:
    scorer = make_scorer()
    shares = []
    for example in EXAMPLES[:3]:
        with torch.no_grad():
            finals = [
                scorer.scores(scorer.hidden(torch.tensor([example.prompt + each])))[0, -1]
                for each in example.completions
            ]
        right = [
            float(a > b)
            for a, tier in zip(finals, example.tiers, strict=True)
            for b, other in zip(finals, example.tiers, strict=True)
            if 0 <= tier < other
        ]
        shares.append(sum(right) / len(right))
    for max_tokens in (8192, 1):
        losses = list(RewardStep(scorer, EXAMPLES, RewardLossConfig(), max_tokens).losses())
        assert sum(float(loss.metrics["accuracy"]) for loss in losses) == pytest.approx(sum(shares) / 3)


def test_ranking_can_be_learned(make_scorer: Callable[..., Scorer]) -> None:
    """The end of a chain that begins with ids: twenty steps order every completion as judged."""
    scorer = make_scorer()
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=3e-3)
    first = last = 0.0
    for step in range(20):
        (loss,) = RewardStep(scorer, EXAMPLES, RewardLossConfig(lm_weight=0.0)).losses()
        optimizer.zero_grad()
        loss.loss_sum.backward()
        optimizer.step()
        first, last = first if step else loss.loss_sum.item(), loss.loss_sum.item()
    (loss,) = RewardStep(scorer, EXAMPLES, RewardLossConfig()).losses()
    assert last < first / 2 and float(loss.metrics["accuracy"]) == 1
