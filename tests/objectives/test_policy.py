import math

import pytest
import torch
from tabular import Tabular, grad_of

from trivium.objectives.advantages import gae, group_advantages
from trivium.objectives.kl import shape_rewards
from trivium.objectives.policy import (
    cispo_loss,
    effective_sample_size,
    explained_variance,
    importance_weights,
    policy_loss,
    ratio_metrics,
    value_loss,
)
from trivium.objectives.tokens import Aggregate

ONE = torch.ones(1, 1).bool()


def cell(value: float, requires_grad: bool = False) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64, requires_grad=requires_grad)


@pytest.mark.parametrize(
    ("advantage", "rho", "slope", "loss"),
    # slope: d loss / d rho; clip 0.2 down, 0.3 up, dual clip at 3
    [
        (2.0, 0.5, -2.0, -1.0),
        (2.0, 1.0, -2.0, -2.0),
        (2.0, 1.29, -2.0, -2.58),
        (2.0, 1.31, 0.0, -2.6),
        (-2.0, 0.5, 0.0, 1.6),
        (-2.0, 0.81, 2.0, 1.62),
        (-2.0, 1.31, 2.0, 2.62),
        (-2.0, 2.9, 2.0, 5.8),
        (-2.0, 3.1, 0.0, 6.0),
        (0.0, 5.0, 0.0, 0.0),
    ],
)
def test_rlhf_06_policy_clip_is_piecewise(advantage, rho, slope, loss):
    new = cell(math.log(rho), requires_grad=True)
    output = policy_loss(new, cell(0.0), cell(advantage), ONE, clip_eps=0.2, clip_eps_high=0.3, dual_clip=3.0)
    assert output.loss_sum.item() == pytest.approx(loss, abs=1e-12)
    assert grad_of(output.loss_sum, new).item() == pytest.approx(slope * rho, abs=1e-12)
    cut = advantage != 0 and slope == 0
    assert output.metrics["clipfrac"].item() == cut
    assert output.metrics["clipfrac_up"].item() == (cut and advantage > 0)
    assert output.metrics["clipfrac_down"].item() == (cut and rho < 1)
    assert output.metrics["clipfrac_dual"].item() == (cut and rho > 3)


def test_rlhf_06_without_dual_clip_a_bad_token_pulls_without_bound():
    new = cell(math.log(10.0), requires_grad=True)
    assert grad_of(policy_loss(new, cell(0.0), cell(-1.0), ONE).loss_sum, new).item() == pytest.approx(10.0)
    with pytest.raises(ValueError, match="dual_clip is 1"):
        policy_loss(new, cell(0.0), cell(-1.0), ONE, dual_clip=1)


@pytest.mark.parametrize(
    ("value", "slope", "loss"),
    # old value 1, clip 0.2, target 2: beyond the interval towards the target, the clipped error is the larger
    [(0.5, -1.5, 1.125), (0.9, -1.1, 0.605), (1.1, -0.9, 0.405), (1.5, 0.0, 0.32), (2.9, 0.9, 0.405)],
)
def test_rlhf_06_value_clip_is_piecewise(value, slope, loss):
    values = cell(value, requires_grad=True)
    output = value_loss(values, cell(1.0), cell(2.0), ONE, clip=0.2)
    assert output.loss_sum.item() == pytest.approx(loss, abs=1e-12)
    assert grad_of(output.loss_sum, values).item() == pytest.approx(slope, abs=1e-12)
    assert output.metrics["value_clipfrac"].item() == (slope == 0)


def test_policy_loss_by_hand():
    ln = math.log
    logprobs = torch.tensor([[ln(0.5), ln(0.3), math.nan], [ln(0.2), ln(0.4), ln(0.9)]], dtype=torch.float64)
    old = torch.tensor([[ln(0.5), ln(0.2), math.inf], [ln(0.4), ln(0.4), ln(0.6)]], dtype=torch.float64)
    advantages = torch.tensor([[1.0, 2.0, math.nan], [-1.0, 3.0, -2.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    # ratios 1, 1.5 | 0.5, 1, 1.5; clipped to 1, 1.2 | 0.8, 1, 1.2
    losses = [[-1.0, -2.4], [0.8, -3.0, 3.0]]
    total = sum(losses[0]) + sum(losses[1])
    expected: dict[Aggregate, tuple[float, int]] = {
        "seq_sum": (total, 2),
        "seq_mean": (sum(losses[0]) / 2 + sum(losses[1]) / 3, 2),
        "token": (total, 5),
        "const": (total, 6),
    }
    for aggregate, (loss_sum, count) in expected.items():
        output = policy_loss(logprobs, old, advantages, mask, aggregate=aggregate)
        assert output.loss_sum.item() == pytest.approx(loss_sum, abs=1e-12)
        assert output.count.item() == count
    output = policy_loss(logprobs, old, advantages, mask)
    metrics = output.metrics
    assert metrics["clipfrac_up"].item() == pytest.approx(0.2)
    assert metrics["clipfrac_down"].item() == pytest.approx(0.2)
    assert metrics["ratio_mean"].item() == pytest.approx(5.5 / 5)
    assert metrics["ratio_max"].item() == pytest.approx(1.5)
    k3 = [0.0, 0.5 - ln(1.5), -0.5 - ln(0.5), 0.0, 0.5 - ln(1.5)]
    assert metrics["approx_kl"].item() == pytest.approx(sum(k3) / 5, abs=1e-12)


def test_weights_multiply_each_token():
    logprobs = torch.zeros(2, 2, requires_grad=True)
    weights = torch.tensor([[0.5, 2.0], [0.0, math.nan]])
    mask = torch.tensor([[True, True], [True, False]])
    output = policy_loss(logprobs, torch.zeros(2, 2), torch.ones(2, 2), mask, weights=weights)
    assert grad_of(output.loss_sum, logprobs).tolist() == [[-0.5, -2.0], [0.0, 0.0]]


def test_one_advantage_per_row_must_be_a_column():
    square, mask = torch.zeros(2, 2), torch.ones(2, 2).bool()
    with pytest.raises(ValueError, match=r"\(B, 1\)"):
        policy_loss(square, square, torch.ones(2), mask)


def test_first_minibatch_is_plain_policy_gradient():
    logprobs = torch.full((2, 3), -1.5, requires_grad=True)
    advantages = torch.tensor([[1.0], [-2.0]])
    output = policy_loss(logprobs, logprobs.detach(), advantages, torch.ones(2, 3).bool())
    assert grad_of(output.loss_sum, logprobs).tolist() == [[-1.0] * 3, [2.0] * 3]
    assert output.metrics["clipfrac"] == 0 and output.metrics["approx_kl"] == 0
    assert output.metrics["ratio_mean"] == 1 and output.metrics["ratio_max"] == 1


def test_arithmetic_is_fp32_under_bf16():
    logprobs = torch.full((1, 3), -1.0).bfloat16().requires_grad_()
    output = policy_loss(logprobs, logprobs.detach(), torch.ones(1, 3).bfloat16(), torch.ones(1, 3).bool())
    assert output.loss_sum.dtype == torch.float32
    values = torch.ones(1, 3).bfloat16()
    assert value_loss(values, values, values, torch.ones(1, 3).bool(), 0.2).loss_sum.dtype == torch.float32
    assert gae(values, values, torch.ones(1, 3).bool(), 1.0, 0.95)[0].dtype == torch.float32


def test_distant_policies_do_not_overflow():
    logprobs = torch.tensor([[0.0, -500.0]], requires_grad=True)
    output = policy_loss(logprobs, torch.tensor([[-500.0, 0.0]]), torch.tensor([[-1.0, 1.0]]), torch.ones(1, 2).bool())
    assert output.loss_sum.isfinite() and grad_of(output.loss_sum, logprobs).isfinite().all()


def test_gspo_ratio_is_the_geometric_mean():
    logprobs = torch.tensor([[0.3, 0.1, math.nan], [-0.2, 0.0, 0.5]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    output = policy_loss(
        logprobs, torch.zeros_like(logprobs), torch.tensor([[1.0], [1.0]]), mask,
        clip_eps=0.5, clip_eps_high=0.5, aggregate="seq_mean", ratio="sequence",
    )  # fmt: skip
    assert output.loss_sum.item() == pytest.approx(-math.exp(0.2) - math.exp(0.1))
    expected = [-math.exp(0.2) / 2] * 2 + [0.0] + [-math.exp(0.1) / 3] * 3
    assert grad_of(output.loss_sum, logprobs).flatten().tolist() == pytest.approx(expected)


def test_cispo_clips_the_weight_and_keeps_the_gradient():
    logprobs = torch.tensor([[math.log(3.0), math.log(0.1), math.nan]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    advantages = torch.tensor([[2.0, -1.0, math.nan]])
    output = cispo_loss(logprobs, torch.zeros_like(logprobs), advantages, mask, clip_eps_high=0.2)
    assert grad_of(output.loss_sum, logprobs).tolist() == [[pytest.approx(-2.4), pytest.approx(0.1), 0.0]]
    assert output.metrics["clipfrac"].item() == 0.5 and output.count == 2


def test_value_loss_by_hand():
    values = torch.tensor([[1.0, 2.0, math.nan], [0.0, math.inf, 5.0]])
    returns = torch.tensor([[2.0, 2.0, 9.0], [1.0, 9.0, 2.0]])
    mask = torch.tensor([[True, True, False], [True, False, True]])
    output = value_loss(values, torch.zeros(2, 3), returns, mask)
    assert (output.loss_sum.item(), output.count.item()) == ((1 + 0 + 1 + 9) / 2, 4)
    # returns 2, 2, 1, 2: variance 3/16; returns - values 1, 0, 1, -3: variance 11/4 - 1/16 = 43/16
    assert output.metrics["explained_variance"].item() == pytest.approx(1 - 43 / 3)


def test_explained_variance_of_perfect_useless_and_undefined_critics():
    returns, mask = torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3).bool()
    assert explained_variance(returns, returns, mask) == 1
    assert explained_variance(torch.zeros(1, 3), returns, mask) == 0
    assert explained_variance(returns, torch.ones(1, 3), mask).isnan()


def test_rlhf_09_tabular_policy_reaches_the_optimum():
    """Sampled responses, k1 in the reward, a group baseline: the closed form pi_ref exp(R/gamma) must come out."""
    world = Tabular(symbols=3, steps=3)
    ref, scores, gamma = world.logits(1), world.scores(2), 0.5
    theta = ref.clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=0.1, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(0)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        rows = torch.multinomial(world.p(theta.detach()), 512, replacement=True, generator=generator)
        logprobs, mask = world.logprobs(theta)[rows], world.mask[rows]
        rewards = shape_rewards(scores[rows], logprobs, world.logprobs(ref)[rows], mask, beta=1.0, gamma=gamma)
        advantages = group_advantages(rewards.sum(1), 512, "rloo").unsqueeze(1)
        optimizer.zero_grad()
        policy_loss(logprobs, logprobs.detach(), advantages, mask).mean.backward()
        optimizer.step()
    target = world.p(world.optimum(ref, scores, gamma))
    assert (world.p(theta.detach()) - target).abs().sum() / 2 < 0.005
    assert (world.p(ref) - target).abs().sum() / 2 > 0.3  # it had some way to go


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_rlhf_10_bandit(gamma):
    arms = torch.tensor([0.0, 1.0, 0.5, -1.0], dtype=torch.float64)
    theta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.1)
    generator, mask = torch.Generator().manual_seed(0), torch.ones(256, 1).bool()
    reference = torch.full((256, 1), -math.log(4), dtype=torch.float64)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        draws = torch.multinomial(theta.detach().softmax(0), 256, replacement=True, generator=generator)
        logprobs = theta.log_softmax(0)[draws].unsqueeze(1)
        rewards = shape_rewards(arms[draws], logprobs, reference, mask, 1.0, gamma)
        optimizer.zero_grad()
        advantages = group_advantages(rewards.squeeze(1), 256, "rloo").unsqueeze(1)
        policy_loss(logprobs, logprobs.detach(), advantages, mask).mean.backward()
        optimizer.step()
    if gamma == 0:
        assert theta.softmax(0)[1] > 0.99
    else:
        assert (theta.detach().softmax(0) - (arms / gamma).softmax(0)).abs().sum() / 2 < 0.005


def test_rlhf_16_only_the_sum_over_tokens_gives_the_gradient():
    """A policy that stops with p = 0.1 at each step and pays 0.3 per token; response length is all there is."""
    kappa, p, longest = 0.3, 0.1, 300
    logit = torch.tensor(math.log(p / (1 - p)), dtype=torch.float64, requires_grad=True)
    log_stop, log_go = torch.nn.functional.logsigmoid(logit), torch.nn.functional.logsigmoid(-logit)
    lengths = torch.arange(1, longest + 1)
    steps = torch.arange(longest).expand(longest, longest)
    mask = steps < lengths.unsqueeze(1)
    logprobs = torch.where(steps == lengths.unsqueeze(1) - 1, log_stop, log_go)
    chance = (p * (1 - p) ** (lengths - 1).double()).unsqueeze(1)
    advantages = -kappa * (lengths.unsqueeze(1) - 1 / p).double()
    ascent = {}
    for aggregate in ("seq_sum", "seq_mean"):
        loss = policy_loss(logprobs, logprobs.detach(), advantages, mask, aggregate=aggregate, weights=chance)
        ascent[aggregate] = -grad_of(loss.loss_sum, logit).item()
    assert ascent["seq_sum"] == pytest.approx(9 * kappa, abs=1e-10)
    assert ascent["seq_mean"] / p == pytest.approx(15.584 * kappa, abs=5e-4)


class TestImportanceWeights:
    world = Tabular(symbols=3, steps=3)

    def test_rlhf_19_untruncated_sequence_weights_are_exact(self):
        theta, sampler = self.world.logits(0).requires_grad_(), self.world.logits(1)
        old, mu = self.world.logprobs(theta), self.world.logprobs(sampler)
        weights = importance_weights(old, mu, self.world.mask, "sequence", cap=None)
        drawn, target = self.world.p(sampler), self.world.p(theta).detach()
        torch.testing.assert_close(drawn * weights[:, 0], target, atol=1e-12, rtol=0)
        advantages = self.world.scores(0).unsqueeze(1)
        gradients = [
            grad_of(policy_loss(old, old.detach(), advantages, self.world.mask, weights=w).loss_sum, theta)
            for w in (drawn.unsqueeze(1) * weights, target.unsqueeze(1))
        ]
        torch.testing.assert_close(gradients[0], gradients[1], atol=1e-12, rtol=0)

    def test_rlhf_19_token_weights_are_biased(self):
        theta, sampler = self.world.logits(0), self.world.logits(1)
        old, mu = self.world.logprobs(theta), self.world.logprobs(sampler)
        weights = importance_weights(old, mu, self.world.mask, "token", cap=None)
        estimate = (self.world.p(sampler) * weights[:, 0] * self.world.scores(0)).sum()
        assert (estimate - (self.world.p(theta) * self.world.scores(0)).sum()).abs() > 1e-2

    @pytest.mark.parametrize("kind", ["token", "icepop", "sequence"])
    def test_rlhf_19_equal_engines_give_exact_ones(self, kind):
        old = self.world.logprobs(self.world.logits(0))
        weights = importance_weights(old, old.clone(), self.world.mask, kind, cap=5.0)
        assert torch.equal(weights, self.world.mask.double())

    def test_by_hand(self):
        old = torch.tensor([[0.0, 0.0, math.nan], [0.0, 0.0, 0.0]], dtype=torch.float64)
        mu = -torch.tensor([[math.log(3), math.log(0.4), 1.0], [math.log(1.5), 0.0, math.log(6)]], dtype=torch.float64)
        mask = torch.tensor([[True, True, False], [True, True, True]])
        expected = {
            ("token", 2.0): [[2.0, 0.4, 0.0], [1.5, 1.0, 2.0]],
            ("icepop", 5.0): [[3.0, 0.0, 0.0], [1.5, 1.0, 0.0]],
            ("sequence", 2.0): [[1.2, 1.2, 0.0], [2.0, 2.0, 2.0]],
            ("sequence", None): [[1.2, 1.2, 0.0], [9.0, 9.0, 9.0]],
        }
        for (kind, cap), rows in expected.items():
            weights = importance_weights(old, mu, mask, kind, cap)
            torch.testing.assert_close(weights, torch.tensor(rows, dtype=torch.float64))
        with pytest.raises(ValueError, match="token, icepop, sequence"):
            importance_weights(old, mu, mask, "none")  # pyright: ignore

    def test_rlhf_19_effective_sample_size(self):
        assert effective_sample_size(torch.full((8,), 0.3)).item() == pytest.approx(8)
        assert effective_sample_size(torch.tensor([1.0, 2.0, 0.0])).item() == pytest.approx(9 / 5)
        assert effective_sample_size(torch.zeros(3)) == 0


def test_ratio_metrics_ignore_what_is_masked():
    new = torch.tensor([[0.0, math.inf]])
    metrics = ratio_metrics(new, torch.tensor([[0.0, -math.inf]]), torch.tensor([[True, False]]))
    assert {name: value.item() for name, value in metrics.items()} == {
        "approx_kl": 0.0,
        "ratio_mean": 1.0,
        "ratio_max": 1.0,
    }
