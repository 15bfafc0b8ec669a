import math

import pytest
import torch
from tabular import Tabular, assert_close, grad_of

from trivium.objectives.advantages import gae, group_advantages, whiten
from trivium.objectives.kl import shape_rewards
from trivium.objectives.policy import policy_loss
from trivium.objectives.tokens import Aggregate
from trivium.objectives.utility import effective_weight, mean_and_se, ratio_and_se, utility, utility_log

ALPHA, BETA, GAMMA = 0.7, 1.3, 0.4
CLOSE = 1e-10


def test_utility_by_hand():
    assert utility(2.0, -0.5, 3.0, alpha=0.1, beta=1.0, gamma=0.05) == pytest.approx(0.2 - 0.5 + 0.15)
    assert utility(torch.tensor(2.0), torch.tensor(0.0), torch.tensor(0.0), 3.0, 1.0, 1.0).item() == 6.0


def test_logged_total_is_recomputable_from_the_logged_terms():
    terms = {"sft": (1.1, 0.1), "reward": (-0.3, 0.02), "omega": (2.7, 0.3)}
    row = utility_log(terms, alpha=0.2, beta=1.0, gamma=0.1, n=9)
    weight_of = {"sft": "alpha", "reward": "beta", "omega": "gamma"}
    total = sum(row[f"utility/{weight}"] * row[f"utility/{term}"] for term, weight in weight_of.items())
    assert abs(row["utility/total"] - total) <= 1e-9
    assert row["utility/total_se"] == pytest.approx(math.hypot(0.02, 0.02 + 0.03))
    assert row["utility/reward_se"] == 0.02
    assert row["utility/n"] == 9


def test_standard_errors():
    assert mean_and_se(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4, 0, 2])) == pytest.approx((2.0, 1 / math.sqrt(3)))
    ratio, error = ratio_and_se(torch.tensor([2.0, 4.0, 9.0]), torch.tensor([1, 2, 4]))
    # residuals 2 - 15/7, 4 - 30/7, 9 - 60/7
    residuals = [2 - 15 / 7, 4 - 30 / 7, 9 - 60 / 7]
    assert ratio == pytest.approx(15 / 7)
    assert error == pytest.approx(math.sqrt(sum(x * x for x in residuals) * 3 / 2) / 7)
    assert math.isnan(ratio_and_se(torch.ones(1), torch.ones(1))[1])


def test_equal_clusters_give_the_plain_standard_error():
    sums = torch.tensor([1.0, 5.0, 2.0, 2.5])
    assert ratio_and_se(sums, torch.ones(4)) == pytest.approx(mean_and_se(sums, torch.arange(4)))


def test_responses_that_repeat_their_prompts_say_no_more_than_one_each():
    values, prompts = torch.tensor([1.0, 5.0, 2.0, 2.5]), torch.tensor([7, 3, 9, 1])
    alone = mean_and_se(values, prompts)
    assert mean_and_se(values.repeat_interleave(4), prompts.repeat_interleave(4)) == pytest.approx(alone)
    assert mean_and_se(values.repeat(4), prompts.repeat(4)) == pytest.approx(alone)
    mean, error = mean_and_se(torch.ones(3), torch.tensor([0, 0, 0]))
    assert mean == 1 and math.isnan(error)


class ExactBatch:
    """64 rows that are the policy's distribution: tokens have 1/2, 1/4, 1/4, so every response a number of 64ths."""

    def __init__(self, seed: int = 0) -> None:
        self.world = Tabular(symbols=3, steps=3)
        order = torch.stack([torch.randperm(3, generator=torch.Generator().manual_seed(s)) for s in range(7)])
        dyadic = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
        self.theta = dyadic[order].log().requires_grad_()
        self.ref, self.other, self.scores = self.world.logits(seed + 1), self.world.logits(3), self.world.scores(seed)
        copies = (self.world.p(self.theta) * 64).round().long()
        assert copies.sum() == 64
        self.rows = torch.repeat_interleave(torch.arange(len(copies)), copies)
        self.mask = self.world.mask[self.rows]

    def sft(self, theta: torch.Tensor) -> torch.Tensor:
        """Mean NLL per token of a fixed corpus: the other policy's distribution over responses."""
        weight = self.world.p(self.other).unsqueeze(1) * self.world.mask
        return -(weight * self.world.logprobs(theta)).sum() / weight.sum()

    def utility(self, theta: torch.Tensor, alpha: float, beta: float, gamma: float) -> torch.Tensor:
        reward = -(self.world.p(theta) * self.scores).sum()
        return utility(self.sft(theta), reward, self.world.kl(theta, self.ref), alpha, beta, gamma)

    def gradient(self, alpha: float, beta: float, gamma: float) -> torch.Tensor:
        return grad_of(self.utility(self.theta, alpha, beta, gamma), self.theta)

    def rewards(self, beta: float, gamma: float) -> torch.Tensor:
        new, ref = self.world.logprobs(self.theta)[self.rows], self.world.logprobs(self.ref)[self.rows]
        return shape_rewards(self.scores[self.rows], new, ref, self.mask, beta, gamma)

    def update(self, advantages: torch.Tensor, alpha: float, aggregate: Aggregate = "seq_sum") -> torch.Tensor:
        """Gradient of the whole update: policy term plus alpha times the SFT term."""
        new = self.world.logprobs(self.theta)[self.rows]
        loss = policy_loss(new, new.detach(), advantages, self.mask, aggregate=aggregate).mean
        return grad_of(loss + alpha * self.sft(self.theta), self.theta)


@pytest.fixture(scope="module")
def batch():
    return ExactBatch()


def test_rlhf_08_gradient_is_that_of_u_for_any_values(batch):
    rewards = batch.rewards(BETA, GAMMA)
    expected = batch.gradient(ALPHA, BETA, GAMMA)
    exact = batch.world.values(batch.theta.detach(), returns_to_go(batch, BETA, GAMMA))[batch.rows]
    # Any function of the state will do as a baseline; here a random number for each prefix.
    table = batch.world.scores(7)[:7]
    arbitrary = table[batch.world.states][batch.rows] * batch.mask
    for values in (torch.zeros_like(rewards), arbitrary, exact):
        advantages, _ = gae(rewards, values, batch.mask, 1.0, 1.0)
        assert_close(batch.update(advantages, ALPHA), expected, CLOSE)


def returns_to_go(batch, beta, gamma):
    """(responses, steps) sum of rewards from each action on."""
    world = batch.world
    rewards = shape_rewards(
        batch.scores, world.logprobs(batch.theta), world.logprobs(batch.ref), world.mask, beta, gamma
    )
    return rewards.flip(1).cumsum(1).flip(1)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
def test_rlhf_08_any_lambda_with_exact_values(batch, gae_lambda):
    values = batch.world.values(batch.theta.detach(), returns_to_go(batch, BETA, GAMMA))[batch.rows]
    advantages, _ = gae(batch.rewards(BETA, GAMMA), values, batch.mask, 1.0, gae_lambda)
    assert_close(batch.update(advantages, ALPHA), batch.gradient(ALPHA, BETA, GAMMA), CLOSE)


def test_rlhf_08_whitening_divides_by_sigma_and_so_must_alpha(batch):
    advantages, _ = gae(batch.rewards(BETA, GAMMA), torch.zeros(64, 3), batch.mask, 1.0, 1.0)
    whitened, _, std = whiten(advantages, batch.mask)
    alpha = effective_weight(ALPHA, sigma=std.item())
    expected = batch.gradient(ALPHA, BETA, GAMMA)
    assert_close(batch.update(whitened, alpha) * std, expected, CLOSE)
    assert (batch.update(whitened, ALPHA) * std - expected).norm() > 1e-2


@pytest.mark.parametrize("aggregate", ["const", "token"])
def test_rlhf_08_aggregates_rescale_alpha(batch, aggregate):
    advantages, _ = gae(batch.rewards(BETA, GAMMA), torch.zeros(64, 3), batch.mask, 1.0, 1.0)
    tokens = int(batch.mask.sum())
    alpha = effective_weight(ALPHA, aggregate=aggregate, n=64, l_max=3, token_count=tokens)
    divisor = 3 if aggregate == "const" else tokens / 64
    expected = batch.gradient(ALPHA, BETA, GAMMA)
    assert_close(batch.update(advantages, alpha, aggregate) * divisor, expected, CLOSE)


def test_rlhf_08_rloo_is_exact_up_to_its_factor(batch):
    total = batch.rewards(BETA, GAMMA).sum(1)
    advantages = group_advantages(total, 64, "rloo").unsqueeze(1)
    expected = batch.gradient(0.0, BETA, GAMMA)
    assert_close(batch.update(advantages, 0.0) * 63 / 64, expected, CLOSE)


@pytest.mark.parametrize("weights", [(ALPHA, BETA, GAMMA), (ALPHA, 0.0, 0.0), (0.0, BETA, 0.0), (0.0, 0.0, GAMMA)])
def test_rlhf_21_a_step_down_the_update_lowers_u(batch, weights):
    alpha, beta, gamma = weights
    advantages, _ = gae(batch.rewards(beta, gamma), torch.zeros(64, 3), batch.mask, 1.0, 0.95)
    theta = batch.theta.detach()
    moved = theta - 0.01 * batch.update(advantages, alpha)
    drop = batch.utility(theta, *weights) - batch.utility(moved, *weights)
    assert drop > 1e-5


def test_effective_weight_by_hand():
    assert effective_weight(2.0) == 2.0
    assert effective_weight(2.0, sigma=4.0) == 0.5
    assert effective_weight(2.0, sigma=0.0) == 2.0
    assert effective_weight(2.0, aggregate="const", l_max=32) == 2 / 32
    assert effective_weight(2.0, sigma=0.5, aggregate="token", n=4, token_count=40) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="token_count 0"):
        effective_weight(2.0, token_count=0)
