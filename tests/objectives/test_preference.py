import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from tabular import grad_of

from trivium.objectives.preference import dpo_beta, dpo_loss, outcome_loss, ranking_loss

LN = math.log


def minimise(loss, start: torch.Tensor) -> torch.Tensor:
    """Newton's method on a convex function of a vector; the pseudo-inverse leaves free directions alone."""
    point = start.clone()
    for _ in range(12):
        variable = point.clone().requires_grad_()
        gradient = torch.autograd.grad(loss(variable), variable)[0]
        point = point - torch.linalg.pinv(torch.autograd.functional.hessian(loss, point), hermitian=True) @ gradient
    assert gradient.abs().max() < 1e-10
    return point


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_ranking_loss_by_hand():
    scores = torch.tensor([[LN(3), 0.0, -LN(2)], [0.0, 0.0, 99.0]], dtype=torch.float64)
    tiers = torch.tensor([[0, 1, 1], [1, 0, -1]])  # the first beats two that tie; then a pair of equal scores
    loss = ranking_loss(scores, tiers)
    first = -(LN(3 / 4) + LN(6 / 7)) / 2
    assert loss.loss_sum.item() == pytest.approx(first + LN(2), abs=1e-12)
    assert loss.count.item() == 2
    assert loss.metrics["accuracy"].item() == pytest.approx((1 + 0.5) / 2)
    assert loss.metrics["ranking_nll"].item() == pytest.approx((first + LN(2)) / 2)


def test_ranking_loss_takes_one_prompt_unbatched():
    loss = ranking_loss(torch.tensor([1.0, 0.0]), torch.tensor([0, 1]))
    assert loss.mean.item() == pytest.approx(-LN(sigmoid(1.0)))


def test_each_prompt_weighs_the_same_whatever_its_size():
    scores = torch.zeros(2, 4, dtype=torch.float64)
    loss = ranking_loss(scores, torch.tensor([[0, 1, 2, 3], [0, 1, -1, -1]]))
    assert loss.loss_sum.item() == pytest.approx(2 * LN(2)) and loss.count == 2


def test_prompts_without_a_comparison_count_for_nothing():
    scores = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    tiers = torch.tensor([[0, 0], [0, -1], [-1, -1]])
    loss = ranking_loss(scores, tiers, centering=0.01)
    assert loss.loss_sum.item() == 0 and loss.count == 0 and loss.mean == 0
    assert (grad_of(loss.mean, scores) == 0).all()
    half = ranking_loss(torch.zeros(3, 2), tiers, ties="half")
    assert half.loss_sum.item() == pytest.approx(LN(2)) and half.count == 1


def test_absent_completions_may_hold_anything():
    scores = torch.tensor([[1.0, math.nan, 0.0]], requires_grad=True)
    for model in ("pairs", "plackett_luce"):
        loss = ranking_loss(scores, torch.tensor([[0, -1, 1]]), model=model, centering=0.1)
        assert loss.loss_sum.isfinite()
        gradient = grad_of(loss.loss_sum, scores)
        assert gradient.isfinite().all() and gradient[0, 1] == 0


def test_margin_and_smoothing_by_hand():
    scores, tiers = torch.tensor([[2.0, 0.5]], dtype=torch.float64), torch.tensor([[0, 1]])
    for margin in (1.0, torch.tensor([1.0]).view(1, 1, 1), torch.ones(1, 2, 2)):
        assert ranking_loss(scores, tiers, margin=margin).mean.item() == pytest.approx(-LN(sigmoid(0.5)))
    smoothed = -0.9 * LN(sigmoid(1.5)) - 0.1 * LN(sigmoid(-1.5))
    assert ranking_loss(scores, tiers, label_smoothing=0.1).mean.item() == pytest.approx(smoothed)


def test_davidson_by_hand():
    # strengths 4 and 1, nu = 3: wins 4, losses 1, ties 3 * 2, out of 11
    scores, log_nu = torch.tensor([[LN(4), 0.0]], dtype=torch.float64), torch.tensor(LN(3), dtype=torch.float64)
    for tiers, chance in (([0, 1], 4 / 11), ([1, 0], 1 / 11), ([0, 0], 6 / 11)):
        loss = ranking_loss(scores, torch.tensor([tiers]), ties="davidson", log_nu=log_nu)
        assert loss.mean.item() == pytest.approx(-LN(chance), abs=1e-12)


def test_plackett_luce_by_hand():
    scores = torch.tensor([[LN(3), LN(2), 0.0]], dtype=torch.float64)
    loss = ranking_loss(scores, torch.tensor([[1, 0, 2]]), model="plackett_luce")
    assert loss.mean.item() == pytest.approx(-(LN(2 / 6) + LN(3 / 4)) / 2, abs=1e-12)
    pair = ranking_loss(scores[:, :2], torch.tensor([[1, 0]]), model="plackett_luce")
    assert pair.mean.item() == pytest.approx(ranking_loss(scores[:, :2], torch.tensor([[1, 0]])).mean.item())


@pytest.mark.parametrize(
    "options",
    [
        {"ties": "davidson"},
        {"log_nu": torch.zeros(())},
        {"model": "thurstone"},
        {"ties": "coin"},
        {"label_smoothing": 0.5},
        {"model": "plackett_luce", "margin": 1.0},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError):
        ranking_loss(torch.zeros(1, 2), torch.tensor([[0, 1]]), **options)


def test_shapes_must_match():
    with pytest.raises(ValueError, match="differ in shape"):
        ranking_loss(torch.zeros(2, 2), torch.zeros(2, 3, dtype=torch.long))


TRUTH = torch.tensor([1.2, 0.1, -0.4, -0.9], dtype=torch.float64)


def expected_ranking_loss(scores: torch.Tensor, tiers: torch.Tensor, chances: torch.Tensor, **options) -> torch.Tensor:
    """Mean loss over rankings `tiers` (n, K) of the same K completions, each with its own probability."""
    return (torch.vmap(lambda row: ranking_loss(scores, row, **options).mean)(tiers) * chances).sum()


def recover(outcomes, **options) -> torch.Tensor:
    """Scores, mean zero, at the minimum of the expected loss; `outcomes` are (tiers, probability).

    With ties="davidson" a fifth number follows, log nu.
    """
    outcomes = list(outcomes)
    tiers = torch.tensor([row for row, _ in outcomes])
    chances = torch.tensor([chance for _, chance in outcomes], dtype=torch.float64)
    davidson = options.get("ties") == "davidson"

    def loss(x):
        extra = {"log_nu": x[4]} if davidson else {}
        return expected_ranking_loss(x[:4], tiers, chances, **options, **extra)

    fitted = minimise(loss, torch.zeros(5 if davidson else 4, dtype=torch.float64))
    return torch.cat([centred(fitted[:4]), fitted[4:]])


def centred(scores: torch.Tensor) -> torch.Tensor:
    return scores - scores.mean()


def pair_outcomes():
    for i, j in itertools.combinations(range(4), 2):
        for a, b in ((i, j), (j, i)):
            tiers = [-1] * 4
            tiers[a], tiers[b] = 0, 1
            yield tiers, sigmoid((TRUTH[a] - TRUTH[b]).item())


def test_rlhf_12_expected_bradley_terry_recovers_scores():
    torch.testing.assert_close(recover(pair_outcomes()), centred(TRUTH), atol=1e-6, rtol=0)


def triple_outcomes():
    strength = TRUTH.exp()
    for order in itertools.permutations(range(4), 3):
        chance = 1.0
        for place, item in enumerate(order):
            chance *= (strength[item] / strength[list(order[place:])].sum()).item()
        tiers = [-1] * 4
        for place, item in enumerate(order):
            tiers[item] = place
        yield tiers, chance


@pytest.mark.parametrize("model", ["pairs", "plackett_luce"])
def test_rlhf_12_plackett_luce_triples_recover_scores(model):
    fitted = recover(triple_outcomes(), model=model)
    torch.testing.assert_close(fitted, centred(TRUTH), atol=1e-6, rtol=0)


def test_rlhf_12_davidson_recovers_scores_and_nu():
    nu, strength = 0.8, TRUTH.exp()
    outcomes = []
    for i, j in itertools.combinations(range(4), 2):
        parts = [strength[i], strength[j], nu * (strength[i] * strength[j]).sqrt()]
        for (first, second), part in zip(((0, 1), (1, 0), (0, 0)), parts, strict=True):
            tiers = [-1] * 4
            tiers[i], tiers[j] = first, second
            outcomes.append((tiers, (part / sum(parts)).item()))
    fitted = recover(outcomes, ties="davidson")
    torch.testing.assert_close(fitted[:4], centred(TRUTH), atol=1e-6, rtol=0)
    assert fitted[4].exp().item() == pytest.approx(nu, abs=1e-6)
    shrunk = recover(outcomes, ties="half")
    assert shrunk.std() < 0.95 * TRUTH.std()  # why half-labels are opt-in


def test_rlhf_12_two_items_differ_by_the_log_odds():
    tiers = torch.tensor([[0, 1]] * 7 + [[1, 0]] * 3)
    fitted = minimise(lambda x: ranking_loss(x.expand(10, 2), tiers).mean, torch.zeros(2, dtype=torch.float64))
    assert (fitted[0] - fitted[1]).item() == pytest.approx(LN(7 / 3), abs=1e-6)


def test_rlhf_12_sampled_pairs_recover_scores():
    generator = torch.Generator().manual_seed(0)
    truth = centred(torch.randn(8, generator=generator, dtype=torch.float64))
    pairs = torch.stack([torch.randperm(8, generator=generator)[:2] for _ in range(20_000)])
    gap = truth[pairs[:, 0]] - truth[pairs[:, 1]]
    wins = torch.rand(20_000, generator=generator, dtype=torch.float64) < torch.sigmoid(gap)
    results, counts = torch.where(wins.unsqueeze(1), pairs, pairs.flip(1)).unique(dim=0, return_counts=True)
    tiers = torch.full((len(results), 8), -1).scatter(1, results, torch.tensor([0, 1]).expand(len(results), 2))
    zeros = torch.zeros(8, dtype=torch.float64)
    fitted = minimise(lambda x: expected_ranking_loss(x, tiers, counts / 20_000), zeros)
    assert (centred(fitted) - truth).square().mean().sqrt() < 0.06


def test_rlhf_13_centring_leaves_differences_intact():
    """Four completions, noisy rankings: with K > 2 the pairwise form of centring would shrink the differences."""
    tiers, chances = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]), torch.tensor([0.8, 0.2], dtype=torch.float64)
    start = torch.tensor([2.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    fits = {}
    for centering in (0.0, 0.01):

        def loss(x, centering=centering):
            return expected_ranking_loss(x, tiers, chances, centering=centering)

        fits[centering] = minimise(loss, start)
    torch.testing.assert_close(centred(fits[0.01]), centred(fits[0.0]), atol=1e-8, rtol=0)
    assert fits[0.01].mean().abs() < 1e-8
    assert fits[0.0].mean().item() == pytest.approx(start.mean().item())


def test_centering_by_hand():
    scores = torch.tensor([[3.0, 1.0, 2.0]])
    loss = ranking_loss(scores, torch.tensor([[0, 2, 1]]), centering=0.01)
    plain = ranking_loss(scores, torch.tensor([[0, 2, 1]]))
    assert (loss.loss_sum - plain.loss_sum).item() == pytest.approx(0.01 * 4 * 2.0**2, rel=1e-5)


def test_outcome_loss_by_hand():
    scores = torch.tensor([[LN(3), math.nan, 0.0], [LN(4), math.inf, math.nan]], dtype=torch.float64)
    mask = torch.tensor([[True, False, True], [True, False, False]])
    loss = outcome_loss(scores, torch.tensor([1, 0]), mask)
    assert loss.loss_sum.item() == pytest.approx(-LN(3 / 4) - LN(1 / 2) - LN(1 / 5), abs=1e-12)
    assert loss.count == 3
    assert loss.metrics["outcome_accuracy"].item() == pytest.approx(1 / 3)


def test_rlhf_17_dpo_is_ln_2_at_the_reference():
    lp_w, lp_l = torch.tensor([-3.0, -10.0]), torch.tensor([-4.0, -2.0])
    loss = dpo_loss(lp_w, lp_l, lp_w, lp_l, beta=0.3)
    assert loss.mean.item() == pytest.approx(LN(2)) and loss.count == 2
    assert loss.metrics["accuracy"] == 0.5 and loss.metrics["reward_margin"] == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_rlhf_17_dpo_gradient_in_closed_form(smoothing):
    lp_w = torch.tensor([-3.0, -7.0], dtype=torch.float64, requires_grad=True)
    lp_l = torch.tensor([-4.0, -5.0], dtype=torch.float64, requires_grad=True)
    ref_w, ref_l, beta = torch.tensor([-3.5, -6.0]).double(), torch.tensor([-3.0, -6.5]).double(), 0.3
    loss = dpo_loss(lp_w, lp_l, ref_w, ref_l, beta=beta, label_smoothing=smoothing)
    h = beta * ((lp_w - ref_w) - (lp_l - ref_l)).detach()
    slope = -beta * ((1 - smoothing) * torch.sigmoid(-h) - smoothing * torch.sigmoid(h))
    torch.testing.assert_close(grad_of(loss.loss_sum, lp_w), slope, atol=1e-12, rtol=0)
    torch.testing.assert_close(grad_of(loss.loss_sum, lp_l), -slope, atol=1e-12, rtol=0)


def test_dpo_metrics_and_ipo_by_hand():
    lp_w, lp_l = torch.tensor([-1.0, -2.0]).double(), torch.tensor([-3.0, -1.0]).double()
    ref = torch.tensor([-2.0, -2.0]).double()
    loss = dpo_loss(lp_w, lp_l, ref, ref, beta=0.5, kind="ipo")  # h = 2, -1
    assert loss.loss_sum.item() == pytest.approx((2 - 1) ** 2 + (-1 - 1) ** 2)
    metrics = {name: value.item() for name, value in loss.metrics.items()}
    assert metrics == {"accuracy": 0.5, "reward_chosen": 0.25, "reward_rejected": 0.0, "reward_margin": 0.25}
    with pytest.raises(ValueError, match="sigmoid, ipo"):
        dpo_loss(lp_w, lp_l, ref, ref, kind="hinge")  # pyright: ignore


@pytest.mark.parametrize("gamma_beta_s", [(0.4, 1.0, 1.0), (0.2, 0.5, 1.7)])
def test_rlhf_17_dpo_optimum_is_that_of_u(gamma_beta_s):
    """Expected loss over all pairs of four responses with Bradley-Terry labels from r."""
    gamma, beta, s = gamma_beta_s
    reward, ref = TRUTH, torch.tensor([0.2, -0.3, 0.8, 0.0], dtype=torch.float64).log_softmax(0)
    pairs = torch.tensor([(i, j) for i in range(4) for j in range(4) if i != j])
    wins = torch.sigmoid(reward[pairs[:, 0]] - reward[pairs[:, 1]])
    strength = dpo_beta(gamma, beta, s)

    def loss(theta):
        logprobs = theta.log_softmax(0)[pairs].unsqueeze(-1)  # (pairs, 2, 1)

        def pair_loss(lp, old):
            return dpo_loss(lp[0], lp[1], old[0], old[1], beta=strength).mean

        return (torch.vmap(pair_loss)(logprobs, ref[pairs].unsqueeze(-1)) * wins).sum()

    fitted = minimise(loss, ref).softmax(0)
    normalised = (reward - reward.mean()) / s
    optimum = F.softmax(ref + beta * normalised / gamma, dim=0)
    assert (fitted - optimum).abs().sum() / 2 < 1e-5
