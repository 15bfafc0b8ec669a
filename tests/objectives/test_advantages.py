import itertools
import math

import pytest
import torch
import torch.distributed as dist
from tabular import grad_of
from torch.multiprocessing.spawn import spawn

from trivium.objectives.advantages import GroupKind, gae, group_advantages, usable_rows, whiten
from trivium.objectives.policy import policy_loss

KAPPA = 0.3


def random_rollout(seed: int = 0, rows: int = 6, steps: int = 9):
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, rows, steps, generator=generator, dtype=torch.float64)
    mask = torch.rand(rows, steps, generator=generator) < 0.7
    mask[:, 0] = True
    mask[-1] = False  # an invalid sample
    return rewards, values, mask, torch.randn(rows, generator=generator, dtype=torch.float64)


def direct_gae(rewards, values, mask, discount, gae_lambda, bootstrap):
    """The definition, A_t = sum_k (discount lambda)^k delta_{t+k}, over each row's real actions: O(T^2)."""
    result = torch.zeros_like(rewards)
    for row in range(len(rewards)):
        real = mask[row].nonzero().squeeze(1).tolist()
        r, v = [rewards[row, t].item() for t in real], [values[row, t].item() for t in real] + [bootstrap[row].item()]
        deltas = [r[k] + discount * v[k + 1] - v[k] for k in range(len(real))]
        for k, t in enumerate(real):
            result[row, t] = sum((discount * gae_lambda) ** j * delta for j, delta in enumerate(deltas[k:]))
    return result


@pytest.mark.parametrize(("discount", "gae_lambda"), [(1.0, 0.95), (0.97, 0.9), (1.0, 0.0), (0.5, 1.0)])
@pytest.mark.parametrize("cut", [False, True])
def test_rlhf_03_gae_is_the_direct_sum(discount, gae_lambda, cut):
    rewards, values, mask, after = random_rollout()
    bootstrap = after if cut else torch.zeros_like(after)
    expected = direct_gae(rewards, values, mask, discount, gae_lambda, bootstrap)
    rewards[~mask], values[~mask] = math.nan, math.inf  # holes and pads may hold anything
    advantages, returns = gae(rewards, values, mask, discount, gae_lambda, bootstrap if cut else None)
    torch.testing.assert_close(advantages, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(returns[mask], (expected + values)[mask], atol=1e-10, rtol=0)
    assert (returns[~mask] == 0).all()


def test_rlhf_03_lambda_one_gives_returns_minus_values():
    rewards, values, mask, _ = random_rollout(1)
    advantages, returns = gae(rewards, values, mask, 1.0, 1.0)
    to_go = (rewards * mask).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns[mask], to_go[mask], atol=1e-10, rtol=0)
    torch.testing.assert_close(advantages[mask], (to_go - values)[mask], atol=1e-10, rtol=0)


def test_rlhf_03_a_final_reward_decays_backwards():
    rewards = torch.tensor([[0.0, 0.0, 0.0, 5.0]], dtype=torch.float64)
    advantages, _ = gae(rewards, torch.zeros_like(rewards), torch.ones(1, 4).bool(), 0.9, 0.8)
    expected = [5 * 0.72**k for k in (3, 2, 1, 0)]
    assert advantages[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_gae_by_hand():
    rewards = torch.tensor([[0.0, 0.0, 1.0], [2.0, 9.0, 9.0]])
    values = torch.tensor([[0.5, 0.25, 0.5], [1.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    advantages, returns = gae(rewards, values, mask, 1.0, 0.5)
    assert advantages.tolist() == [[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]
    assert returns.tolist() == [[0.5, 0.75, 1.0], [2.0, 0.0, 0.0]]


def stop_policy(length: int, p: float):
    """Length penalty on a policy that stops with probability p at each step: rewards, exact values, mask."""
    rewards = torch.zeros(1, length, dtype=torch.float64)
    rewards[0, -1] = -KAPPA * length
    values = -KAPPA * (torch.arange(length, dtype=torch.float64) + 1 / p)
    return rewards, values.unsqueeze(0), torch.ones(1, length).bool()


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_rlhf_04_stop_policy(p):
    for length in (1, 2, 7):
        advantages, _ = gae(*stop_policy(length, p), 1.0, 0.0)
        expected = [-KAPPA] * (length - 1) + [KAPPA * (1 / p - 1)]
        assert advantages[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_rlhf_04_stop_policy_values_are_the_mean_returns():
    p, start, longest = 0.1, 3, 600
    lengths = torch.arange(start + 1, longest, dtype=torch.float64)  # responses still going after `start` actions
    chance = p * (1 - p) ** (lengths - start - 1)
    returns = torch.tensor([gae(*stop_policy(int(n), p), 1.0, 1.0)[1][0, start] for n in lengths[:200]])
    mean = (chance[:200] * returns).sum() + (chance[200:] * -KAPPA * lengths[200:]).sum()
    assert mean.item() == pytest.approx(-KAPPA * (start + 1 / p), abs=1e-10)


def test_whiten_by_hand():
    advantages = torch.tensor([[1.0, 3.0, math.nan], [5.0, math.inf, 7.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, True]])
    whitened, mean, std = whiten(advantages, mask)
    assert (mean.item(), std.item()) == (4.0, pytest.approx(math.sqrt(5)))
    assert (whitened * std).tolist() == [[pytest.approx(x) for x in row] for row in [[-3, -1, 0], [1, 0, 3]]]


@pytest.mark.parametrize("value", [0.1, 0.0, -1e6, 1e-20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_advantages_whiten_to_exact_zeros(value, dtype):
    whitened, mean, std = whiten(torch.full((7, 1001), value, dtype=dtype), torch.ones(7, 1001).bool())
    assert (whitened == 0).all() and std == 0 and mean.item() == pytest.approx(value, rel=1e-2)


def test_rounding_is_not_variance():
    advantages = 0.1 + 1e-8 * torch.randn(4, 100, generator=torch.Generator().manual_seed(0))
    whitened, _, std = whiten(advantages, torch.ones(4, 100).bool())
    assert (whitened == 0).all() and std == 0


def test_whiten_without_real_tokens():
    whitened, mean, std = whiten(torch.full((1, 2), math.nan), torch.zeros(1, 2).bool())
    assert whitened.tolist() == [[0.0, 0.0]] and mean == 0 and std == 0


def _whiten_rank(rank: int, store: str, advantages, mask, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    rows = slice(0, 3) if rank == 0 else slice(3, None)
    whitened, mean, std = whiten(advantages[rows], mask[rows], dist.group.WORLD)
    torch.save({"whitened": whitened, "mean": mean, "std": std}, f"{out}.{rank}")
    dist.destroy_process_group()


@pytest.mark.distributed
def test_rlhf_18_two_ranks_whiten_as_one(tmp_path):
    advantages, _, mask, _ = random_rollout(2)
    spawn(_whiten_rank, (str(tmp_path / "store"), advantages, mask, str(tmp_path / "out")), nprocs=2)
    parts = [torch.load(tmp_path / f"out.{rank}", weights_only=True) for rank in (0, 1)]
    whitened, mean, std = whiten(advantages, mask)
    torch.testing.assert_close(torch.cat([part["whitened"] for part in parts]), whitened, atol=1e-12, rtol=0)
    for part in parts:
        torch.testing.assert_close((part["mean"], part["std"]), (mean, std), atol=1e-12, rtol=0)


def test_group_advantages_by_hand():
    scores = torch.tensor([1.0, 0.0, 0.0, 3.0, 5.0, 7.0], dtype=torch.float64)
    assert group_advantages(scores, 3, "rloo").tolist() == [1.0, -0.5, -0.5, -3.0, 0.0, 3.0]
    third = 1 / 3
    dr_grpo = [2 * third, -third, -third, -2.0, 0.0, 2.0]
    assert group_advantages(scores, 3, "dr_grpo").tolist() == pytest.approx(dr_grpo)
    deviations = [math.sqrt(third) + 1e-4] * 3 + [2.0 + 1e-4] * 3
    expected = [a / d for a, d in zip(dr_grpo, deviations, strict=True)]
    assert group_advantages(scores, 3, "grpo").tolist() == pytest.approx(expected)


def test_invalid_rows_leave_the_baseline():
    scores = torch.tensor([1.0, math.nan, 3.0, 4.0, math.nan, math.inf])
    valid = torch.tensor([True, False, True, True, False, False])
    assert group_advantages(scores, 3, "rloo", valid).tolist() == [-2.0, 0, 2.0, 0, 0, 0]
    assert group_advantages(scores, 3, "dr_grpo", valid).tolist() == [-1.0, 0, 1.0, 0, 0, 0]
    assert usable_rows(valid, 3).tolist() == [True, False, True, False, False, False]


@pytest.mark.parametrize("kind", ["rloo", "dr_grpo", "grpo"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_give_exactly_zero(kind, dtype):
    scores = torch.tensor([0.1] * 7 + [1e8 / 3] * 7 + [-0.7] * 7, dtype=dtype)
    assert (group_advantages(scores, 7, kind) == 0).all()
    valid = torch.ones(21).bool()
    valid[::4] = False
    assert (group_advantages(scores, 7, kind, valid) == 0).all()


@pytest.mark.parametrize("kind", ["rloo", "dr_grpo", "grpo"])
def test_rlhf_11_a_constant_on_all_rewards_changes_nothing(kind):
    scores = torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = group_advantages(scores + 3.7, 8, kind)
    torch.testing.assert_close(moved, group_advantages(scores, 8, kind), atol=1e-6, rtol=0)


def test_groups_must_divide_the_batch():
    with pytest.raises(ValueError, match="groups of 4"):
        group_advantages(torch.zeros(6), 4)
    with pytest.raises(ValueError, match="rloo, dr_grpo, grpo"):
        group_advantages(torch.zeros(6), 3, "mean")  # pyright: ignore


@pytest.mark.parametrize("k", [2, 3])
def test_rlhf_15_rloo_is_unbiased(k):
    """Expectation of the update over every group of k draws from three arms, against the gradient of E[R]."""
    theta = torch.tensor([0.3, -0.5, 0.9], dtype=torch.float64, requires_grad=True)
    arms = torch.tensor([1.0, -2.0, 0.7], dtype=torch.float64)
    exact = -grad_of((theta.softmax(0) * arms).sum(), theta)
    expected: dict[GroupKind, torch.Tensor] = {"rloo": torch.zeros(3).double(), "dr_grpo": torch.zeros(3).double()}
    for draws in itertools.product(range(3), repeat=k):
        logprobs = theta.log_softmax(0)[list(draws)].unsqueeze(1)
        chance = logprobs.detach().sum().exp()
        for kind in expected:
            advantages = group_advantages(arms[list(draws)], k, kind).unsqueeze(1)
            loss = policy_loss(logprobs, logprobs.detach(), advantages, torch.ones(k, 1).bool()).mean
            expected[kind] += chance * grad_of(loss, theta)
    torch.testing.assert_close(expected["rloo"], exact, atol=1e-12, rtol=0)
    torch.testing.assert_close(expected["dr_grpo"], exact * (k - 1) / k, atol=1e-12, rtol=0)
