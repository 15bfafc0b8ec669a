"""The step's loss against one completion at a time."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.model import Scorer
from trivium.optim import OptimConfig, Optimizer
from trivium.rewards.learning import (
    RankedTokens,
    RewardLossConfig,
    RewardStep,
    as_trained,
    in_training,
    learning_rates,
)
from trivium.rewards.ties import TieScorer, first_nu, tie_probability, tied_share

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


ONLY_RANKING = {"outcome_weight": 0.0, "lm_weight": 0.0, "centering": 0.0}


def finals(scorer: Scorer, example: RankedTokens) -> list[Tensor]:
    """Each completion's score, forwarded alone."""
    return [scorer.scores(scorer.hidden(torch.tensor([example.prompt + each])))[0, -1] for each in example.completions]


def step_loss(scorer: Scorer, examples: list[RankedTokens], config: RewardLossConfig, max_tokens: int = 8192) -> Tensor:
    return torch.stack([loss.loss_sum for loss in RewardStep(scorer, examples, config, max_tokens).losses()]).sum()


def slow_rankings(scorer: Scorer, config: RewardLossConfig) -> Tensor:
    """Mean over prompts of the mean over comparisons, each written out: choices, or pairs with Davidson's ties."""
    terms = []
    for example in EXAMPLES:
        ranked = [(r, t) for r, t in zip(finals(scorer, example), example.tiers, strict=True) if t >= 0]
        each: list[Tensor] = []
        if config.ranking == "plackett_luce":
            for r, t in ranked:
                if below := [other for other, tier in ranked if tier > t]:
                    each.append(torch.logsumexp(torch.stack([r, *below]), 0) - r)
        else:
            assert isinstance(scorer, TieScorer)
            nu = scorer.log_nu[0].exp()
            for place, (r, t) in enumerate(ranked):
                for other, tier in ranked[:place]:
                    win, lose, tie = (r - other).div(2).exp(), (other - r).div(2).exp(), nu
                    chosen = tie if t == tier else win if t < tier else lose
                    each.append(-(chosen / (win + lose + tie)).log())
        if each:
            terms.append(torch.stack(each).mean())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("max_tokens", [8192, 30, 1])
@pytest.mark.parametrize("options", [{"ranking": "plackett_luce"}, {"ties": "davidson"}])
def test_rankings_of_every_kind_are_those_written_out(
    make_scorer: Callable[..., Scorer], options: dict[str, str], max_tokens: int
) -> None:
    config = RewardLossConfig.model_validate(ONLY_RANKING | options)
    scorer = in_training(make_scorer(), config, EXAMPLES, nu=0.6)
    expected, actual = slow_rankings(scorer, config), step_loss(scorer, EXAMPLES, config, max_tokens)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    for one, other in zip(grads(scorer, actual), grads(scorer, expected), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * max(1.0, other.abs().max().item()), rtol=0)
    losses = list(RewardStep(scorer, EXAMPLES, config, max_tokens).losses())
    assert sum(float(loss.metrics["ranking_nll"]) for loss in losses) == pytest.approx(expected.item(), abs=1e-5)


def judged(first: int, second: int, ties: int) -> list[RankedTokens]:
    """Two completions of one prompt, judged so often in favour of each and as equal."""
    counts = {(0, 1): first, (1, 0): second, (0, 0): ties}
    return [
        RankedTokens([1, 7], [[4, 2], [9, 5, 2]], list(tiers), [NAN, NAN])
        for tiers, n in counts.items()
        for _ in range(n)
    ]


def test_rlhf_12_two_items_with_ties_recover_strengths_and_nu(make_scorer: Callable[..., Scorer]) -> None:
    """n_1, n_2 wins and n_t ties of two items: r_1 - r_2 = ln(n_1/n_2), nu = n_t / sqrt(n_1 n_2)."""
    config = RewardLossConfig.model_validate(ONLY_RANKING | {"ties": "davidson"})
    examples = judged(first=8, second=2, ties=6)
    scorer = in_training(make_scorer(), config, examples)
    assert isinstance(scorer, TieScorer)
    scorer.requires_grad_(False)
    optimizer = torch.optim.LBFGS(
        [scorer.score.weight.requires_grad_(), scorer.log_nu.requires_grad_()], max_iter=60, tolerance_change=0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = step_loss(scorer, examples, config)
        loss.backward()
        return loss

    optimizer.step(closure)
    plain, learnt = as_trained(scorer)
    one, two = finals(plain, examples[0])
    assert (one - two).item() == pytest.approx(math.log(8 / 2), abs=2e-3)
    assert learnt["nu"] == pytest.approx(6 / math.sqrt(8 * 2), rel=2e-3)
    assert tie_probability((one - two).detach(), learnt["nu"]).item() == pytest.approx(6 / 16, abs=1e-3)
    assert not isinstance(plain, TieScorer) and "log_nu" not in plain.state_dict()


def test_nu_begins_where_equal_scores_are_likeliest_and_has_its_own_rate(make_scorer: Callable[..., Scorer]) -> None:
    assert [tied_share(tiers) for tiers in ([0, 1], [0, 0], [0, 1, 1, -1], [0, -1])] == [
        0,
        1,
        pytest.approx(1 / 3),
        None,
    ]
    many = [0.25] * 10000
    assert first_nu(many) == pytest.approx(2 * 0.25 / 0.75, rel=1e-3)
    assert 0 < first_nu([0.0] * 9) < 0.2 and 5 < first_nu([1.0] * 9) < math.inf
    assert first_nu([1.0, 0.0], [3.0, 1.0]) == first_nu([1.0, 1.0, 1.0, 0.0])
    config = RewardLossConfig.model_validate(ONLY_RANKING | {"ties": "davidson", "tie_lr": 0.5})
    scorer = in_training(make_scorer(), config, judged(1, 1, 20), nu=1.0)
    assert isinstance(scorer, TieScorer) and scorer.nu == 1
    frozen = OptimConfig(lr=0.0, muon_lr=0.0, kind="muon", warmup_steps=0)
    optimizer = Optimizer(scorer, frozen, 10, learning_rates(scorer, config))
    before = {name: value.clone() for name, value in scorer.state_dict().items()}
    step_loss(scorer, judged(1, 1, 20), config).backward()
    optimizer.step(0)
    assert {name for name, value in scorer.state_dict().items() if not torch.equal(value, before[name])} == {"log_nu"}
    assert scorer.log_nu.item() == pytest.approx(0.5, rel=1e-3)  # Adam's first step is its rate, towards more ties
    assert learning_rates(make_scorer(), config) == {}


def test_margins_change_the_gradient_as_the_formula_says(make_scorer: Callable[..., Scorer]) -> None:
    """d/d(r_1 - r_2) of -log sigmoid(r_1 - r_2 - m) is -sigmoid(m - (r_1 - r_2)), whatever the scores."""
    scorer = make_scorer()
    example = replace(judged(1, 0, 0)[0], margin=2.0)
    one, two = finals(scorer, example)
    gap = one - two
    along = grads(scorer, gap)
    for scale in (0.0, 0.5, 1.5):
        config = RewardLossConfig.model_validate(ONLY_RANKING | {"margins": scale})
        found = grads(scorer, step_loss(scorer, [example], config))
        factor = -torch.sigmoid(2.0 * scale - gap).detach()
        for one, other in zip(found, along, strict=True):
            torch.testing.assert_close(one, factor * other, atol=1e-5 * max(1.0, other.abs().max().item()), rtol=0)


@pytest.mark.parametrize("max_tokens", [8192, 1])
def test_each_prompt_has_its_own_margin(make_scorer: Callable[..., Scorer], max_tokens: int) -> None:
    scorer = make_scorer()
    examples = [replace(example, margin=float(place)) for place, example in enumerate(EXAMPLES)]
    config = RewardLossConfig.model_validate(ONLY_RANKING | {"margins": 1.0})
    terms = []
    for example in examples[:3]:
        rated = list(zip(finals(scorer, example), example.tiers, strict=True))
        pairs = [F.softplus(example.margin - a + b) for a, t in rated for b, u in rated if 0 <= t < u]
        terms.append(torch.stack(pairs).mean())
    torch.testing.assert_close(
        step_loss(scorer, examples, config, max_tokens), torch.stack(terms).mean(), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("other", [{"ties": "davidson"}, {"ties": "half"}, {"margins": 1.0}, {"label_smoothing": 0.1}])
def test_options_for_pairs_are_refused_with_plackett_luce(other: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f'{next(iter(other))} is for ranking = "pairs"'):
        RewardLossConfig.model_validate({"ranking": "plackett_luce"} | other)
