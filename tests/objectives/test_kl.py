import math

import pytest
import torch
from tabular import Tabular, assert_close, grad_of

from trivium.objectives.advantages import gae
from trivium.objectives.kl import KLController, best_of_n_kl, exact_kl, kl_estimate, kl_loss, shape_rewards
from trivium.objectives.policy import policy_loss
from trivium.objectives.tokens import keep

TIGHT = 1e-12


def test_estimators_by_hand():
    new, ref = torch.tensor([0.0, -1.0]), torch.tensor([-2.0, -0.5])  # d = 2, -0.5
    assert kl_estimate(new, ref, "k1").tolist() == [2.0, -0.5]
    assert kl_estimate(new, ref, "k2").tolist() == [2.0, 0.125]
    expected = [math.exp(-2) - 1 + 2, math.exp(0.5) - 1 - 0.5]
    assert kl_estimate(new, ref, "k3").tolist() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="k1, k2, k3"):
        kl_estimate(new, ref, "k4")  # pyright: ignore


def test_k3_keeps_its_digits_near_zero():
    d = torch.tensor([1e-5])
    assert kl_estimate(d, torch.zeros(1), "k3").item() == pytest.approx(5e-11, rel=0.2)


def test_exact_kl_by_hand_and_at_impossible_tokens():
    logits = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64).log().requires_grad_()
    ref = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64).log()
    value = exact_kl(logits, ref)
    value.backward()
    assert value.item() == pytest.approx(math.log(2), abs=1e-12)
    assert logits.grad is not None and logits.grad[:2].isfinite().all()
    assert exact_kl(ref, logits.detach()).item() == math.inf


def test_exact_kl_is_the_mean_of_k1_and_k3():
    world = Tabular(steps=1)
    theta, ref = world.logits(0), world.logits(1)
    p, new, old = world.p(theta), world.log_p(theta), world.log_p(ref)
    for kind in ("k1", "k3"):
        assert_close((p * kl_estimate(new, old, kind)).sum(), exact_kl(theta, ref)[0], TIGHT)


def test_shape_rewards_by_hand():
    scores = torch.tensor([2.0, -1.0])
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, math.nan, math.nan]])
    ref = torch.tensor([[-2.0, -2.0, -1.0], [-0.5, math.nan, math.inf]])
    mask = torch.tensor([[True, False, True], [True, False, False]])
    rewards = shape_rewards(scores, logprobs, ref, mask, beta=3.0, gamma=0.5)
    assert rewards.tolist() == [[-0.5, 0.0, 6.0 + 1.0], [-3.0 + 0.25, 0.0, 0.0]]


def test_shape_rewards_carries_no_gradient_and_skips_empty_rows():
    logprobs = torch.full((1, 2), -1.0, requires_grad=True)
    invalid = torch.full((1,), math.nan)  # the score of a sample that could not be judged
    rewards = shape_rewards(invalid, logprobs, torch.zeros(1, 2), torch.zeros(1, 2).bool(), 1.0, 1.0)
    assert rewards.tolist() == [[0.0, 0.0]] and not rewards.requires_grad


def weighted_policy_gradient(world, theta, rewards, mask=None):
    """Expected policy gradient (of the loss, so to be descended) with reward-to-go and no baseline."""
    mask = world.mask if mask is None else mask
    advantages, _ = gae(rewards, torch.zeros_like(rewards), mask, 1.0, 1.0)
    logprobs = world.logprobs(theta)
    weights = world.p(theta).detach().unsqueeze(1)
    return grad_of(policy_loss(logprobs, logprobs.detach(), advantages, mask, weights=weights).loss_sum, theta)


class TestEstimatorTable:
    """Which use of a KL estimate gives which gradient on policy, by enumeration."""

    world = Tabular(symbols=3, steps=3)

    def parameters(self):
        return self.world.logits(0).requires_grad_(), self.world.logits(1)

    def kl_gradient(self, theta, ref):
        return grad_of(self.world.kl(theta, ref), theta)

    def in_reward(self, theta, ref, kind):
        new, old = self.world.logprobs(theta).detach(), self.world.logprobs(ref)
        return weighted_policy_gradient(self.world, theta, -keep(kl_estimate(new, old, kind), self.world.mask))

    def in_loss(self, theta, ref, kind):
        p = self.world.p(theta).detach().unsqueeze(1)
        estimate = kl_estimate(self.world.logprobs(theta), self.world.logprobs(ref), kind)
        return grad_of((p * keep(estimate, self.world.mask)).sum(), theta)

    def visits(self, theta):
        """Probability of reaching each state."""
        reach = torch.zeros(len(theta), dtype=torch.float64)
        p = self.world.p(theta).detach().unsqueeze(1).expand_as(self.world.states)
        return reach.index_add(0, self.world.states[self.world.mask], p[self.world.mask])

    def test_rlhf_07_k1_in_reward_is_exact(self):
        theta, ref = self.parameters()
        new, old = self.world.logprobs(theta).detach(), self.world.logprobs(ref)
        rewards = shape_rewards(torch.zeros(len(new)), new, old, self.world.mask, beta=1.0, gamma=1.0)
        gradient = weighted_policy_gradient(self.world, theta, rewards)
        assert_close(gradient, self.kl_gradient(theta, ref), TIGHT)

    def test_rlhf_07_full_vocabulary_is_exact(self):
        theta, ref = self.parameters()
        per_state = exact_kl(theta, ref)[self.world.states] * self.world.mask
        to_go = per_state.flip(1).cumsum(1).flip(1) - per_state  # of later states only
        direct = (self.world.p(theta).detach().unsqueeze(1) * per_state).sum()
        score = (
            self.world.p(theta).detach().unsqueeze(1)
            * to_go.detach()
            * keep(self.world.logprobs(theta), self.world.mask)
        )
        assert_close(grad_of(direct + score.sum(), theta), self.kl_gradient(theta, ref), TIGHT)

    def test_rlhf_07_omega_by_full_vocabulary_is_unbiased_with_less_variance(self):
        theta, ref = self.parameters()
        theta = theta.detach()
        p = self.world.p(theta)
        by_state = (exact_kl(theta, ref)[self.world.states] * self.world.mask).sum(1)
        by_ratio = self.world.log_p(theta) - self.world.log_p(ref)
        omega = self.world.kl(theta, ref)
        for estimate in (by_state, by_ratio):
            assert_close((p * estimate).sum(), omega, TIGHT)
        assert (p * (by_state - omega).square()).sum() < 0.5 * (p * (by_ratio - omega).square()).sum()

    def test_rlhf_07_k1_in_loss_is_zero(self):
        theta, ref = self.parameters()
        assert_close(self.in_loss(theta, ref, "k1"), torch.zeros_like(theta), TIGHT)

    @pytest.mark.parametrize("kind", ["k2", "k3"])
    def test_rlhf_07_k2_and_k3_in_reward_are_biased(self, kind):
        theta, ref = self.parameters()
        exact = self.kl_gradient(theta, ref)
        assert (self.in_reward(theta, ref, kind) - exact).norm() > 0.1 * exact.norm()

    def test_rlhf_07_k3_in_reward_vanishes_near_the_reference(self):
        _, ref = self.parameters()
        shares = []
        for step in (1e-2, 1e-3):
            theta = (ref + step * self.world.logits(2)).requires_grad_()
            shares.append((self.in_reward(theta, ref, "k3").norm() / self.kl_gradient(theta, ref).norm()).item())
        assert shares[0] < 0.03 and shares[1] == pytest.approx(shares[0] / 10, rel=0.1)

    def test_rlhf_07_only_k1_in_reward_rests_at_the_optimum(self):
        _, ref = self.parameters()
        scores, gamma = self.world.scores(0), 0.7
        theta = self.world.optimum(ref, scores, gamma).requires_grad_()
        reward = torch.zeros_like(self.world.ids, dtype=torch.float64)
        reward[torch.arange(len(scores)), self.world.mask.sum(1) - 1] = scores
        pull = weighted_policy_gradient(self.world, theta, reward)
        assert (pull + gamma * self.in_reward(theta, ref, "k1")).abs().max() < 1e-12
        assert (pull + gamma * self.in_reward(theta, ref, "k3")).norm() > 0.1 * pull.norm()

    def test_rlhf_07_k2_per_token_in_loss_freezes_the_states(self):
        theta, ref = self.parameters()
        frozen = grad_of((self.visits(theta) * exact_kl(theta, ref)).sum(), theta)
        gradient = self.in_loss(theta, ref, "k2")
        assert_close(gradient, frozen, TIGHT)
        assert (gradient - self.kl_gradient(theta, ref)).norm() > 1e-2

    def test_rlhf_07_k2_is_exact_for_one_token(self):
        world = Tabular(symbols=3, steps=1)
        theta, ref = world.logits(0).requires_grad_(), world.logits(1)
        loss = world.p(theta).detach() * kl_estimate(world.log_p(theta), world.log_p(ref), "k2")
        assert_close(grad_of(loss.sum(), theta), grad_of(world.kl(theta, ref), theta), TIGHT)

    def test_rlhf_07_k2_of_the_summed_ratio_is_exact(self):
        theta, ref = self.parameters()
        summed = kl_estimate(self.world.log_p(theta), self.world.log_p(ref), "k2")
        gradient = grad_of((self.world.p(theta).detach() * summed).sum(), theta)
        assert_close(gradient, self.kl_gradient(theta, ref), TIGHT)

    def test_rlhf_07_k3_in_loss_follows_the_forward_kl(self):
        theta, ref = self.parameters()
        forward = grad_of((self.visits(theta) * exact_kl(ref, theta)).sum(), theta)
        assert_close(self.in_loss(theta, ref, "k3"), forward, TIGHT)

    def test_rlhf_07_kl_in_loss_needs_the_ratio_off_policy(self):
        theta, ref = self.parameters()
        old = self.world.logits(3)
        rows = self.world.p(old).unsqueeze(1)
        new, ref_logprobs, old_logprobs = (self.world.logprobs(x) for x in (theta, ref, old))
        frozen = grad_of((self.visits(old) * exact_kl(theta, ref)).sum(), theta)
        options = {"kind": "k2", "weights": rows}
        weighted = kl_loss(new, ref_logprobs, self.world.mask, old_logprobs=old_logprobs, **options).loss_sum
        assert_close(grad_of(weighted, theta), frozen, TIGHT)
        without = grad_of(kl_loss(new, ref_logprobs, self.world.mask, **options).loss_sum, theta)
        assert (without - frozen).norm() > 1e-2


def test_kl_loss_by_hand():
    logprobs = torch.tensor([[-1.0, -1.0], [-1.0, math.nan]])
    ref = torch.tensor([[-2.0, -1.5], [-3.0, math.nan]])  # d = 1, 0.5; 2
    mask = torch.tensor([[True, True], [True, False]])
    loss = kl_loss(logprobs, ref, mask, kind="k1", aggregate="token")
    assert (loss.loss_sum.item(), loss.count.item()) == (3.5, 3)
    assert loss.metrics["kl_loss"].item() == pytest.approx(3.5 / 3)


def test_rlhf_20_controller():
    controller = KLController(0.2, target=6.0, horizon=10_000)
    path = [controller.update(kl, n=512) for kl in (12.0, 12.0, 3.0, 6.0)]
    assert path == pytest.approx([0.202048, 0.204117, 0.202027, 0.202027], abs=5e-7)
    resumed = KLController(0.2, target=6.0, horizon=10_000)
    resumed.load_state_dict(controller.state_dict())
    assert resumed.update(12.0, 512) == controller.update(12.0, 512)


def test_fixed_controller_never_moves():
    controller = KLController(0.05)
    assert [controller.update(kl, 512) for kl in (0.0, 100.0)] == [0.05, 0.05]
    with pytest.raises(ValueError, match="target 0"):
        KLController(0.1, target=0)


def best_of_n(p: torch.Tensor, scores: torch.Tensor, n: int) -> torch.Tensor:
    """Exact distribution of the best of n draws, ties broken evenly among the draws."""
    result = torch.zeros_like(p)
    for level in scores.unique():
        tied, below = scores == level, scores < level
        chance = (p[tied].sum() + p[below].sum()) ** n - p[below].sum() ** n
        result[tied] = chance * p[tied] / p[tied].sum()
    return result


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_rlhf_22_best_of_n(n):
    bound = best_of_n_kl(n)
    assert bound == pytest.approx(math.log(n) - (n - 1) / n)
    generator = torch.Generator().manual_seed(0)
    p = torch.softmax(torch.randn(50, generator=generator, dtype=torch.float64), 0)
    for scores in (torch.randn(50, generator=generator), torch.randint(0, 3, (50,), generator=generator)):
        q = best_of_n(p, scores, n)
        assert q.sum().item() == pytest.approx(1.0)
        assert exact_kl(q.log(), p.log()).item() <= bound + 1e-12
    fine = torch.full((200_000,), 1 / 200_000, dtype=torch.float64)  # no two draws alike, in the limit
    edges = torch.arange(200_001, dtype=torch.float64) / 200_000
    q = edges[1:] ** n - edges[:-1] ** n
    assert exact_kl(q.log(), fine.log()).item() == pytest.approx(bound, abs=1e-4)
