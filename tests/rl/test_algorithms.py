"""The algorithms behind one interface: advantages and losses by hand, and what they promise together."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from worlds import SHAPE, World

from trivium.model import Decoder, Scorer
from trivium.rl import ALGORITHMS
from trivium.rl.group import level_groups
from trivium.rl.learner import Learner, LearnerConfig
from trivium.rl.ppo import PPOConfig
from trivium.rl.reinforce import ReinforceConfig
from trivium.rl.rollout import Rollout
from trivium.stages.rl import RLConfig

FREE = {"lr": 1e-2, "warmup_steps": 0, "schedule": "constant", "grad_clip": 0.0}
WITHOUT_CRITIC = sorted(set(ALGORITHMS) - {"ppo"})


def hand_made(scores: list[float], lengths: list[int], group: int, valid: list[bool] | None = None) -> Rollout:
    """Rewards on the last token only, no KL penalty."""
    count, width = len(scores), max(lengths)
    rollout = Rollout(
        [[1]] * (count // group), [[2] * length for length in lengths],
        [index // group for index in range(count)], torch.ones(count, dtype=torch.bool), torch.zeros(count, width),
    )  # fmt: skip
    rollout.scores = torch.tensor(scores)
    rollout.valid = torch.ones(count, dtype=torch.bool) if valid is None else torch.tensor(valid)
    rollout.rewards = torch.zeros(count, width)
    for row, (score, length) in enumerate(zip(scores, lengths, strict=True)):
        rollout.rewards[row, length - 1] = score
    return rollout


def make(name: str, **switches: Any) -> Any:
    return ALGORITHMS[name](getattr(RLConfig(), name).model_copy(update=switches))


def first_column(rollout: Rollout) -> list[float]:
    return rollout.advantages[:, 0].tolist()


def test_leave_one_out_by_hand() -> None:
    rollout = hand_made([1.0, 0.0, 4.0, 2.0, 2.0, 2.0], [1, 2, 2, 1, 1, 1], 3)
    level, compared = level_groups(rollout)
    assert level.tolist() == [False, True] and compared.all()
    figures = make("rloo").advantages(rollout)
    assert first_column(rollout) == pytest.approx([-1.0, -2.5, 3.5, 0, 0, 0])
    assert rollout.advantages[1].tolist() == pytest.approx([-2.5, -2.5])  # every token of the response
    assert rollout.advantages[0].tolist() == pytest.approx([-1.0, 0.0])  # and nothing beyond its end
    assert figures["sigma"] == 1


def test_dr_grpo_is_a_fixed_share_of_leave_one_out() -> None:
    scores, lengths = [1.0, 0.0, 4.0, 2.0, 5.0, 2.5], [1, 2, 2, 1, 1, 1]
    one, other = hand_made(scores, lengths, 3), hand_made(scores, lengths, 3)
    make("rloo").advantages(one)
    make("dr_grpo").advantages(other)
    torch.testing.assert_close(other.advantages, one.advantages * 2 / 3)


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "cispo"])
def test_group_relative_by_hand_and_what_they_were_divided_by(name: str) -> None:
    rollout = hand_made([1.0, 3.0, 0.0, 8.0], [1, 1, 1, 1], 2)
    figures = make(name).advantages(rollout)
    root = math.sqrt(2)
    assert first_column(rollout) == pytest.approx(
        [-1 / (root + 1e-4), 1 / (root + 1e-4), -4 / (4 * root + 1e-4), 4 / (4 * root + 1e-4)], rel=1e-5
    )
    assert figures["sigma"] == pytest.approx(math.sqrt(34 / 2), rel=1e-3)  # root mean square before over after


def test_reinforce_whitens_the_rewards_to_go() -> None:
    rollout = hand_made([1.0, 3.0], [2, 1], 1)
    rollout.rewards[0, 0] = -0.5  # a penalty on the first token counts for it alone
    figures = make("reinforce").advantages(rollout)
    to_go = torch.tensor([0.5, 1.0, 3.0])
    white = (to_go - to_go.mean()) / to_go.std(unbiased=False)
    assert rollout.advantages[rollout.loss_mask].tolist() == pytest.approx(white.tolist())
    assert figures["sigma"] == pytest.approx(to_go.std(unbiased=False).item())


def test_reinforce_with_a_baseline_forgets_what_a_prompt_is_worth() -> None:
    shifts = ([1.0, 3.0, 0.0, 8.0], [11.0, 13.0, -5.0, 3.0])
    found = []
    for scores in shifts:
        rollout = hand_made(scores, [1, 2, 1, 1], 2)
        ALGORITHMS["reinforce"](ReinforceConfig(baseline=True)).advantages(rollout)
        found.append(rollout.advantages)
    torch.testing.assert_close(*found)
    assert found[0].abs().max() > 1


@pytest.mark.parametrize("name", sorted(set(WITHOUT_CRITIC) - {"reinforce"}))
def test_invalid_rows_and_groups_without_a_baseline_are_left_out(name: str) -> None:
    whole = hand_made([1.0, 2.0, 4.0, 9.0, 9.0, 9.0], [1] * 6, 3, [True, True, False, True, False, False])
    make(name).advantages(whole)
    assert whole.valid.tolist() == [True, True, False, False, False, False]
    small = hand_made([1.0, 2.0], [1, 1], 2)
    make(name).advantages(small)
    assert first_column(whole)[:2] == pytest.approx(first_column(small)) and first_column(whole)[2:] == [0.0] * 4


def test_dapo_leaves_level_groups_out() -> None:
    rollout = hand_made([1.0, 1.0, 0.0, 8.0], [1, 1, 1, 1], 2)
    make("dapo").advantages(rollout)
    assert rollout.valid.tolist() == [False, False, True, True]
    kept = hand_made([1.0, 1.0, 0.0, 8.0], [1, 1, 1, 1], 2)
    make("grpo").advantages(kept)
    assert kept.valid.all()


def test_responses_must_be_grouped() -> None:
    rollout = hand_made([1.0, 2.0, 3.0, 4.0], [1] * 4, 2)
    rollout.prompt_of = [0, 1, 0, 1]
    with pytest.raises(ValueError, match="contiguous by prompt"):
        make("rloo").advantages(rollout)


def loss_gradient(name: str, new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    new = new.clone().requires_grad_()
    loss = make(name).loss(new, old, advantages, mask)
    (loss.loss_sum / loss.count).backward()
    assert new.grad is not None
    return new.grad


def test_losses_differ_where_they_say_so() -> None:
    old = torch.zeros(2, 2, dtype=torch.float64)
    new = torch.tensor([[0.25, 0.0], [0.0, 0.0]], dtype=torch.float64)  # ρ = 1.284 on one token, A > 0
    advantages, mask = torch.ones_like(new), torch.tensor([[True, True], [True, False]])
    rho = math.exp(0.25)
    assert loss_gradient("rloo", new, old, advantages, mask)[0, 0] == 0  # clipped at 1.2
    assert loss_gradient("dapo", new, old, advantages, mask)[0, 0] == 0  # at 1.28
    assert loss_gradient("dapo", new * 0.96, old, advantages, mask)[0, 0] == pytest.approx(-(rho**0.96) / 3)
    assert loss_gradient("cispo", new, old, advantages, mask)[0, 0] == pytest.approx(-1.2 / 3)  # cut, never stopped
    assert loss_gradient("gspo", new, old, advantages, mask)[0].tolist() == [0, 0]  # the mean of both is clipped
    assert loss_gradient("grpo", new, old, advantages, mask)[1].tolist() == pytest.approx([-0.5, 0])
    assert loss_gradient("dr_grpo", new, old, advantages, mask)[1].tolist() == pytest.approx([-0.25, 0])


@pytest.fixture
def models(make_decoder: Callable[..., Decoder], make_scorer: Callable[..., Scorer]) -> tuple[Decoder, Decoder, Scorer]:
    return make_decoder(**SHAPE), make_decoder(seed=1, **SHAPE), make_scorer(**SHAPE)


def learner_of(name: str, models: tuple[Decoder, Decoder, Scorer], switches: Any = None, **config: Any) -> Learner:
    policy, reference, critic = models
    settings = LearnerConfig.model_validate({"minibatches": 1, "missing_eos": "none", "optim": FREE} | config)
    algorithm = make(name, **(switches or {}))
    return Learner(policy, reference, critic if name == "ppo" else None, algorithm, settings, 50, 0)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_algorithm_raises_the_reward(models: tuple[Decoder, Decoder, Scorer], name: str) -> None:
    world, policy = World(), models[0]
    learner = learner_of(name, models, gamma=0.05)
    expected = [(world.log_p(policy).exp() * world.scores).sum().item()]
    for step in range(12):
        rollout = world.sample(policy, 32, step=step)
        figures = learner.prepare(rollout)
        learner.update(rollout, step, figures["sigma"])
    expected.append((world.log_p(policy).exp() * world.scores).sum().item())
    assert expected[1] > expected[0] + 0.3


@pytest.mark.parametrize("name", WITHOUT_CRITIC)
def test_rlhf_11_a_level_reward_moves_nothing_without_a_critic(
    models: tuple[Decoder, Decoder, Scorer], name: str
) -> None:
    policy, before = models[0], copy.deepcopy(models[0].state_dict())
    learner = learner_of(name, models, gamma=0.0)
    rollout = World().sample(policy, 16)
    rollout.scores = torch.full_like(rollout.scores, 0.7)
    learner.update(rollout, 0, learner.prepare(rollout)["sigma"])
    assert all(torch.equal(before[key], value) for key, value in policy.state_dict().items())


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_a_kl_in_the_loss_pulls_towards_the_reference(models: tuple[Decoder, Decoder, Scorer], kind: str) -> None:
    world, (policy, reference, _) = World(), models
    learner = learner_of("grpo", models, {"kl": kind, "aggregate": "seq_sum"}, gamma=1.0, beta=0.0)
    kl = lambda: (world.log_p(policy).exp() * (world.log_p(policy) - world.log_p(reference))).sum().item()  # noqa: E731
    before = kl()
    for step in range(12):
        rollout = world.sample(policy, 32, step=step)
        figures = learner.prepare(rollout)
        assert figures["kl/coefficient"] == 1
        assert "loss/kl" in learner.update(rollout, step, figures["sigma"])
    assert kl() < 0.5 * before


def test_a_kl_in_the_loss_leaves_the_rewards_alone(models: tuple[Decoder, Decoder, Scorer]) -> None:
    rollout = World().sample(models[0], 8)
    learner_of("ppo", models, {"kl": "k3"}, gamma=0.5).prepare(rollout)
    torch.testing.assert_close(rollout.rewards.sum(1), rollout.scores)


def test_bootstrapping_adds_the_value_beyond_the_cap(models: tuple[Decoder, Decoder, Scorer]) -> None:
    policy, critic = models[0], models[2]
    plain, onward = (World().sample(policy, 8) for _ in range(2))
    learner_of("ppo", models, {"whiten": False, "gae_lambda": 1.0}).prepare(plain)
    learner_of("ppo", models, {"whiten": False, "gae_lambda": 1.0, "truncation": "bootstrap"}).prepare(onward)
    gain = (onward.advantages - plain.advantages)[:, 0]
    assert gain[plain.finished].abs().max() < 1e-6 and not plain.finished.all()
    for row in (~plain.finished).nonzero()[:, 0].tolist():
        ids = torch.tensor([plain.prompts[plain.prompt_of[row]] + plain.responses[row]])
        hidden = critic.hidden(ids, torch.arange(ids.shape[1])[None])[0, -1]
        assert gain[row].item() == pytest.approx(critic.scores(hidden).item(), abs=1e-5)


def test_weights_for_another_sampler(models: tuple[Decoder, Decoder, Scorer]) -> None:
    own, other = World().sample(models[0], 8), World().sample(models[0], 8)
    learner = learner_of("ppo", models, importance="token")
    assert learner.prepare(own)["importance/ess"] == pytest.approx(1, abs=1e-4)
    other.sampler_logprobs = other.sampler_logprobs - 0.2  # drawn by a policy that gave every token less
    figures = learner.prepare(other)
    torch.testing.assert_close(other.advantages, own.advantages * math.exp(0.2), rtol=1e-4, atol=1e-5)
    assert figures["sampler/gap_mean"] == pytest.approx(0.2, abs=1e-4)


def test_one_response_a_prompt_leaves_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match=r"samples_per_prompt = 1 leaves rloo nothing to compare"):
        RLConfig(algorithm="rloo", samples_per_prompt=1)
    RLConfig(algorithm="ppo", samples_per_prompt=1)
    assert PPOConfig().kl == "reward"
