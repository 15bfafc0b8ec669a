"""The update against plain autograd, enumeration, and the invariances it promises."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from worlds import SHAPE, World, drop_rows, first_gradient, learn, make_learner

from trivium.base.errors import StageFailed
from trivium.batch import Batch, LossOutput
from trivium.model import Decoder, Scorer
from trivium.objectives.advantages import group_advantages
from trivium.objectives.policy import policy_loss
from trivium.objectives.tokens import Aggregate
from trivium.objectives.utility import utility
from trivium.rl.learner import Learner, LearnerConfig
from trivium.rl.ppo import PPO, PPOConfig
from trivium.rl.rollout import Rollout

FREE = {"grad_clip": 0.0, "warmup_steps": 0, "schedule": "constant", "eps": 1e-5}
"""An optimiser whose first step shows the gradient."""
EXACT = PPOConfig(whiten=False, gae_lambda=1.0, aggregate="seq_sum", value_clip=None)


@pytest.fixture
def models(make_decoder: Callable[..., Decoder], make_scorer: Callable[..., Scorer]) -> tuple[Decoder, Decoder, Scorer]:
    """Policy, reference and critic; the policy has moved away from the reference."""
    return make_decoder(seed=1, **SHAPE), make_decoder(seed=0, **SHAPE), make_scorer(seed=2, **SHAPE)


def weights(model: Decoder) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(model: Decoder, expected: dict[str, Tensor]) -> None:
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def assert_near(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Within a tolerance relative to the largest entry of all."""
    assert set(actual) == set(expected)
    largest = max(tensor.abs().max().item() for tensor in expected.values())
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, atol=tolerance * largest, rtol=0, msg=name)


def plain_logprobs(model: Decoder, rollout: Rollout) -> list[Tensor]:
    """Log-probs of each response's tokens, one full forward a response."""
    found = []
    for owner, response in zip(rollout.prompt_of, rollout.responses, strict=True):
        prompt = rollout.prompts[owner]
        logprobs = model(torch.tensor([prompt + response]))[0, len(prompt) - 1 : -1].log_softmax(-1)
        found.append(logprobs.gather(1, torch.tensor(response)[:, None])[:, 0])
    return found


@pytest.mark.parametrize("aggregate", ["seq_sum", "token", "const"])
def test_rlhf_05_the_first_update_is_reinforce(models: tuple[Any, ...], aggregate: Aggregate) -> None:
    policy, reference, critic = models
    rollout = World().sample(policy, 24)
    learner = make_learner(policy, reference, critic, ppo=PPOConfig(aggregate=aggregate), optim=FREE)
    figures = learner.prepare(rollout)
    count = {"seq_sum": 48, "token": int(rollout.lengths.sum()), "const": 48 * rollout.loss_mask.shape[1]}[aggregate]
    terms = zip(rollout.advantages, plain_logprobs(policy, rollout), strict=True)
    loss = -torch.stack([(row[: len(logprobs)] * logprobs).sum() for row, logprobs in terms]).sum() / count
    names = [name for name, _ in policy.named_parameters()]
    expected = dict(zip(names, torch.autograd.grad(loss, list(policy.parameters())), strict=True))
    figures |= learner.update(rollout, 0, figures["sigma"])
    assert figures["ratio/mean"] == pytest.approx(1, abs=1e-6) and figures["ratio/max"] == pytest.approx(1, abs=1e-6)
    assert figures["clipfrac"] == 0 and figures["ratio/first_deviation"] < 1e-6
    assert figures["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert figures["sampler/gap_max"] < 1e-5
    assert_near(first_gradient(learner), expected, 1e-5)


def test_rewards_and_advantages_are_those_of_the_formulas(models: tuple[Any, ...]) -> None:
    policy, reference, critic = models
    rollout = World().sample(policy, 10)
    learner = make_learner(policy, reference, critic, ppo=EXACT, beta=2.0, gamma=0.3)
    figures = learner.prepare(rollout)
    with torch.no_grad():
        new, old = plain_logprobs(policy, rollout), plain_logprobs(reference, rollout)
    for row, (mine, theirs) in enumerate(zip(new, old, strict=True)):
        rewards = -0.3 * (mine - theirs)
        rewards[-1] += 2.0 * rollout.scores[row]
        returns = rewards.flip(0).cumsum(0).flip(0)  # lambda = discount = 1
        torch.testing.assert_close(rollout.returns[row, : len(mine)], returns, atol=1e-5, rtol=0)
        advantages = returns - rollout.values[row, : len(mine)]
        torch.testing.assert_close(rollout.advantages[row, : len(mine)], advantages, atol=1e-5, rtol=0)
    assert figures["kl/sequence"] == pytest.approx(
        sum((a - b).sum().item() for a, b in zip(new, old, strict=True)) / 20, abs=1e-5
    )
    assert figures["reward/mean"] == pytest.approx(rollout.scores.mean().item())
    assert figures["eos_rate"] == pytest.approx(rollout.finished.float().mean().item())
    assert figures["sigma"] == 1.0  # nothing was divided


def test_the_critic_step_is_the_gradient_of_half_the_squared_error(models: tuple[Any, ...]) -> None:
    policy, reference, critic = models
    rollout = World().sample(policy, 16)
    learner = make_learner(policy, reference, critic, critic_optim=FREE, ppo=PPOConfig(value_clip=None))
    learner.prepare(rollout)
    errors = []
    for row, (owner, response) in enumerate(zip(rollout.prompt_of, rollout.responses, strict=True)):
        prompt = rollout.prompts[owner]
        values = critic.scores(critic.hidden(torch.tensor([prompt + response])))[0, len(prompt) - 1 : -1]
        errors.append((values - rollout.returns[row, : len(response)]).square() / 2)
    parameters = dict(critic.named_parameters())
    grads = torch.autograd.grad(torch.cat(errors).mean(), list(parameters.values()), materialize_grads=True)
    figures = learner.update(rollout, 0, 1.0)
    assert figures["loss/value"] == pytest.approx(torch.cat(errors).mean().item(), rel=1e-5)
    assert learner.critic_optimizer is not None
    moments = learner.critic_optimizer.state_tensors()
    actual = {name: moments[f"{name}/exp_avg"] / 0.1 for name in parameters}
    assert_near(actual, dict(zip(parameters, grads, strict=True)), 1e-5)


def utility_terms(world: World, policy: Decoder, reference: Decoder, batch: Batch) -> dict[str, Tensor]:
    """L_SFT, L_R and Omega without sampling, differentiable."""
    log_p, log_ref = world.log_p(policy), world.log_p(reference).detach()
    logits = policy(batch.ids, batch.positions)[:, :-1].flatten(0, 1)
    nll = torch.nn.functional.cross_entropy(logits, batch.ids[:, 1:].flatten(), reduction="none")
    return {
        "sft": nll[batch.loss_mask[:, 1:].flatten()].mean(),
        "reward": -(log_p.exp() * world.scores).sum(1).mean(),
        "omega": (log_p.exp() * (log_p - log_ref)).sum(1).mean(),
    }


def sft_batch(_: int) -> Batch:
    ids = torch.tensor([[1, 3, 3, 1, 0, 2], [2, 3, 1, 1, 1, 0]])
    return Batch(ids, torch.tensor([[0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]]).bool(), torch.arange(6).expand(2, -1))


@pytest.mark.parametrize(
    ("alpha", "beta", "gamma"), [(0.5, 1.0, 0.5), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
)
@pytest.mark.parametrize("ppo", [EXACT, PPOConfig()], ids=["exact", "default"])
def test_rlhf_21_a_step_lowers_u(
    models: tuple[Any, ...], ppo: PPOConfig, alpha: float, beta: float, gamma: float
) -> None:
    """And each term alone, with the other weights at 0. U is computed by enumeration."""
    policy, reference, critic = models
    world, parameters = World(), list(policy.parameters())
    learner = make_learner(
        policy, reference, critic, ppo=ppo, alpha=alpha, beta=beta, gamma=gamma, optim=FREE | {"lr": 1e-4}
    )
    before = utility(**utility_terms(world, policy, reference, sft_batch(0)), alpha=alpha, beta=beta, gamma=gamma)
    slope = torch.cat([grad.flatten() for grad in torch.autograd.grad(before, parameters)])
    learn(learner, world.sample(policy, 512, copies=32), sft_batches=sft_batch)
    after = utility(**utility_terms(world, policy, reference, sft_batch(0)), alpha=alpha, beta=beta, gamma=gamma)
    assert after < before
    found = torch.cat([grad.flatten() for grad in first_gradient(learner).values()])
    assert torch.cosine_similarity(found, slope, dim=0) > 0.9
    if ppo is EXACT:  # the other preset scales it
        assert found.norm() == pytest.approx(slope.norm().item(), rel=0.15)


@pytest.mark.parametrize("aggregate", ["seq_sum", "token", "const"])
@pytest.mark.parametrize("whiten", [True, False])
def test_alpha_is_rescaled_with_the_policy_term(models: tuple[Any, ...], aggregate: Aggregate, whiten: bool) -> None:
    policy, reference, critic = models
    ppo = PPOConfig(aggregate=aggregate, whiten=whiten)
    rollout = World().sample(policy, 20)
    alone = make_learner(copy.deepcopy(policy), reference, copy.deepcopy(critic), ppo=ppo, optim=FREE)
    both = make_learner(copy.deepcopy(policy), reference, copy.deepcopy(critic), ppo=ppo, optim=FREE, alpha=0.7)
    sigma = learn(alone, rollout)["sigma"]
    figures = learn(both, rollout, sft_batches=sft_batch)
    tokens, width = int(rollout.lengths.sum()), rollout.loss_mask.shape[1]
    expected = 0.7 / sigma * {"seq_sum": 1.0, "token": 40 / tokens, "const": 1 / width}[aggregate]
    assert figures["alpha/effective"] == pytest.approx(expected, rel=1e-6) and (sigma == 1.0) != whiten
    batch = sft_batch(0)
    logits = policy(batch.ids, batch.positions)[:, :-1].flatten(0, 1)
    nll = torch.nn.functional.cross_entropy(logits, batch.ids[:, 1:].flatten(), reduction="none")
    grads = torch.autograd.grad(nll[batch.loss_mask[:, 1:].flatten()].mean(), list(policy.parameters()))
    names = [name for name, _ in policy.named_parameters()]
    without, together = first_gradient(alone), first_gradient(both)
    difference = {name: together[name] - without[name] for name in names}
    assert_near(difference, {name: expected * grad for name, grad in zip(names, grads, strict=True)}, 1e-4)


class Leave(PPO):
    """Leave-one-out baselines: an algorithm without a critic, as one file under rl/ would add it."""

    needs_critic = False

    def advantages(self, rollout: Rollout) -> dict[str, float]:
        group = rollout.prompt_of.count(0)
        rollout.advantages = group_advantages(rollout.rewards.sum(1), group, "rloo", rollout.valid)[:, None].expand(
            -1, rollout.loss_mask.shape[1]
        )
        return {"sigma": 1.0}


def leave_one_out(policy: Decoder, reference: Decoder, **config: object) -> Learner:
    settings = LearnerConfig.model_validate({"epochs": 2, "minibatches": 2} | config)
    return Learner(policy, reference, None, Leave(PPOConfig()), settings, 100, 0)


def test_rlhf_11_a_constant_reward_leaves_the_policy_bitwise(models: tuple[Any, ...]) -> None:
    """From M1, with a KL penalty, several epochs and steps: without a critic, and with one that knows nothing."""
    _, reference, critic = models
    world = World()
    world.scores.fill_(0.7)
    before = weights(reference)
    with torch.no_grad():
        critic.score.weight.zero_()
    blind = make_learner(
        copy.deepcopy(reference), reference, critic, ppo=PPOConfig(gae_lambda=1.0), epochs=2, minibatches=3,
        critic_optim={"lr": 0.0}, optim={"lr": 0.01, "weight_decay": 0.0},
    )  # fmt: skip
    free = leave_one_out(copy.deepcopy(reference), reference, optim={"lr": 0.01})
    for learner in (blind, free):
        for step in range(3):
            figures = learn(learner, world.sample(learner.policy, 12, step=step), step)
            assert figures["policy/grad_norm"] == 0 and figures["kl/sequence"] == 0
        assert_equal(learner.policy, before)
    world.scores[0] += torch.arange(len(world.scores[0]))  # with anything to learn it does move
    learn(free, world.sample(free.policy, 200, step=3), 3)
    assert any(not torch.equal(t, before[n]) for n, t in free.policy.state_dict().items())


def test_rlhf_11_a_shifted_reward_changes_no_leave_one_out_update(models: tuple[Any, ...]) -> None:
    policy, reference, _ = models
    world, moved = World(), World()
    moved.scores += 3
    first = leave_one_out(copy.deepcopy(policy), reference)
    second = leave_one_out(copy.deepcopy(policy), reference)
    learn(first, world.sample(first.policy, 16))
    learn(second, moved.sample(second.policy, 16))
    for mine, other in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=0)


def test_rlhf_11_a_rate_of_zero_leaves_all_weights_bitwise(models: tuple[Any, ...]) -> None:
    policy, reference, critic = models
    before, critic_before = weights(policy), weights(critic)
    learner = make_learner(
        policy, reference, critic, minibatches=2, epochs=2, alpha=0.5, optim={"lr": 0.0}, critic_optim={"lr": 0.0}
    )
    for step in range(2):
        learn(learner, World().sample(policy, 10, step=step), step, sft_batches=sft_batch)
    assert_equal(policy, before)
    assert_equal(critic, critic_before)


def test_invalid_rows_count_for_nothing(models: tuple[Any, ...]) -> None:
    """Scores that could not be had are out of the loss, the baseline, the whitening, the critic and the means."""
    policy, reference, critic = models
    whole = World().sample(policy, 8)
    bad = [1, 2, 9, 15]
    whole.valid[bad] = False
    whole.scores[bad] = math.nan
    clean = drop_rows(whole, [row for row in range(16) if row not in bad])
    found = []
    for rollout in (whole, clean):
        learner = make_learner(
            copy.deepcopy(policy), reference, copy.deepcopy(critic), minibatches=2, epochs=2,
            optim={"eps": 1e-3}, critic_optim={"eps": 1e-3}, kl_target=1.0,
        )  # fmt: skip
        figures = learn(learner, rollout)
        found.append((learner, figures))
    (one, figures), (other, expected) = found
    assert figures["invalid"] == 4 and expected["invalid"] == 0
    for key in ("reward/mean", "reward/std", "kl/sequence", "sigma", "loss/policy", "loss/value", "policy/grad_norm"):
        assert figures[key] == pytest.approx(expected[key], abs=1e-5), key
    assert one.controller.gamma == pytest.approx(other.controller.gamma)
    for mine, theirs in ((one.policy, other.policy), (one.critic, other.critic)):
        assert mine is not None and theirs is not None
        for first, second in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


def test_a_rollout_without_a_valid_row_changes_nothing(models: tuple[Any, ...]) -> None:
    policy, reference, critic = models
    before = weights(policy)
    rollout = World().sample(policy, 4)
    rollout.valid[:] = False
    learner = make_learner(policy, reference, critic, kl_target=1.0)
    assert learn(learner, rollout)["invalid"] == 8
    assert_equal(policy, before)
    assert learner.controller.gamma == 0.05 and learner.updates == 0


def test_truncation_can_leave_cut_responses_out(models: tuple[Any, ...]) -> None:
    policy, reference, critic = models
    whole = World().sample(policy, 16)
    clean = drop_rows(whole, whole.finished.nonzero()[:, 0].tolist())
    assert 0 < len(clean.responses) < len(whole.responses)
    found = []
    for rollout, kind in ((whole, "mask"), (clean, "terminal")):
        ppo = PPOConfig(truncation=kind)  # type: ignore[arg-type]
        learner = make_learner(
            copy.deepcopy(policy), reference, copy.deepcopy(critic), ppo=ppo, optim=FREE, critic_optim=FREE
        )
        figures = learn(learner, rollout)
        found.append((first_gradient(learner), figures))
    (masked, figures), (expected, _) = found
    assert_near(masked, expected, 1e-5)
    assert figures["invalid"] == 0  # they have a reward; they are only not learned from
    assert figures["reward/mean"] == pytest.approx(whole.scores.mean().item())


class Watching(PPO):
    """PPO that notes the rows of every loss it is asked for."""

    def __init__(self, config: PPOConfig):
        super().__init__(config)
        self.asked: list[list[float]] = []

    def loss(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, loss_mask: Tensor) -> LossOutput:
        self.asked.append((old_logprobs * loss_mask).sum(1).tolist())
        assert loss_mask.any(1).all()
        return policy_loss(logprobs, old_logprobs, advantages, loss_mask)


def test_minibatches_take_each_response_whole_and_once_an_epoch(models: tuple[Any, ...]) -> None:
    policy, reference, critic = models
    rollout = World(prompts=[[1], [2], [3], [1, 2], [2, 1], [3, 3], [1, 1]]).sample(policy, 4)
    algorithm = Watching(PPOConfig())
    config = LearnerConfig(epochs=3, minibatches=3)
    learner = Learner(policy, reference, critic, algorithm, config, 10, seed=5)
    figures = learner.prepare(rollout)
    learner.update(rollout, 2, figures["sigma"])
    assert learner.updates == 9 == len(algorithm.asked)
    wanted = sorted((rollout.old_logprobs * rollout.loss_mask).sum(1).tolist())
    epochs = [algorithm.asked[k : k + 3] for k in (0, 3, 6)]
    for epoch in epochs:
        assert sorted(len(part) for part in epoch) == [8, 8, 12]  # 7 prompts of 4
        assert sorted(value for part in epoch for value in part) == pytest.approx(wanted)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("aggregate", ["seq_sum", "token", "const"])
def test_micro_batches_do_not_change_the_update(models: tuple[Any, ...], aggregate: Aggregate) -> None:
    policy, reference, critic = models
    found = []
    for tokens in (8192, 8):  # one row a pass
        mine, own = copy.deepcopy(policy), copy.deepcopy(critic)
        learner = make_learner(
            mine, reference, own, ppo=PPOConfig(aggregate=aggregate), microbatch_tokens=tokens, minibatches=2, epochs=2,
            alpha=0.1, optim={"eps": 1e-3}, critic_optim={"eps": 1e-3},
        )  # fmt: skip
        rollout = World(prompts=[[1], [2, 3], [3], [2, 2]]).sample(mine, 6)
        found.append((mine, own, learn(learner, rollout, sft_batches=sft_batch)))
    (policy_1, critic_1, one), (policy_2, critic_2, many) = found
    for first, second in ((policy_1, policy_2), (critic_1, critic_2)):
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert set(one) == set(many)
    for key, value in one.items():
        assert many[key] == pytest.approx(value, abs=1e-4), key


def test_warm_up_trains_the_critic_alone(models: tuple[Any, ...]) -> None:
    policy, reference, critic = models
    before, critic_before = weights(policy), weights(critic)
    learner = make_learner(policy, reference, critic, critic_warmup=2, optim=FREE, critic_optim=FREE | {"lr": 1e-3})
    losses = [learn(learner, World().sample(policy, 32, step=0), step)["loss/value"] for step in range(2)]
    assert_equal(policy, before)
    assert losses[1] < losses[0] and not torch.equal(critic.embedding.weight, critic_before["embedding.weight"])
    learn(learner, World().sample(policy, 32, step=2), 2)
    assert not torch.equal(policy.embedding.weight, before["embedding.weight"])


def test_warm_up_is_counted_from_the_learners_first_step(models: tuple[Any, ...]) -> None:
    """A later round has a new critic: its learner warms up again, at whatever step the round begins."""
    policy, reference, critic = models
    learner = make_learner(policy, reference, critic, critic_warmup=1)
    learner.first_step = 10
    assert "loss/policy" not in learn(learner, World().sample(policy, 8), 10)
    assert "loss/policy" in learn(learner, World().sample(policy, 8, step=1), 11)


def test_updates_on_a_rollout_end_when_the_policy_has_moved_far(models: tuple[Any, ...]) -> None:
    policy, reference, critic = models
    learner = make_learner(policy, reference, critic, epochs=20, max_approx_kl=0.01, optim=FREE | {"lr": 0.02})
    figures = learn(learner, World().sample(policy, 32))
    assert figures["stopped_early"] == 1.0 and 1 < learner.updates < 20


def test_the_kl_coefficient_follows_its_target(models: tuple[Any, ...]) -> None:
    policy, reference, critic = models
    learner = make_learner(policy, reference, critic, gamma=0.2, kl_target=1e-3, kl_horizon=100, optim={"lr": 0.0})
    rollout = World().sample(policy, 10)
    assert learner.prepare(rollout)["kl/coefficient"] == 0.2  # as it was when the rollout was drawn
    assert learner.controller.gamma == pytest.approx(0.2 * (1 + 0.2 * 20 / 100))


def test_rlhf_23_a_restored_learner_goes_on_to_the_bit(models: tuple[Any, ...]) -> None:
    policy, reference, critic = models
    world = World()

    def fresh(policy: Decoder, critic: Scorer) -> Learner:
        return make_learner(
            policy, reference, critic, epochs=2, minibatches=2, kl_target=0.5, kl_horizon=50, alpha=0.2, seed=3,
            optim={"lr": 1e-3, "kind": "muon"},
        )  # fmt: skip

    def go(learner: Learner, steps: range) -> list[dict[str, float]]:
        return [learn(learner, world.sample(learner.policy, 12, step=k), k, sft_batches=sft_batch) for k in steps]

    straight = fresh(copy.deepcopy(policy), copy.deepcopy(critic))
    rows = go(straight, range(5))
    first = fresh(policy, critic)
    assert first.critic is not None and first.critic_optimizer is not None
    assert go(first, range(2)) == rows[:2]
    second = fresh(copy.deepcopy(first.policy), copy.deepcopy(first.critic))
    assert second.critic_optimizer is not None
    second.optimizer.load_state_tensors(first.optimizer.state_tensors())
    second.critic_optimizer.load_state_tensors(first.critic_optimizer.state_tensors())
    second.controller.load_state_dict(first.controller.state_dict())
    second.updates = first.updates
    assert go(second, range(2, 5)) == rows[2:]
    assert_equal(second.policy, weights(straight.policy))


@pytest.mark.parametrize("where", ["reward", "value", "reference"])
def test_a_rollout_whose_numbers_are_not_finite_changes_nothing(models: tuple[Any, ...], where: str) -> None:
    policy, reference, critic = models
    rollout = World().sample(policy, 4)
    if where == "reward":
        rollout.scores[2] = math.inf
    else:
        weight = critic.score.weight if where == "value" else reference.norm.weight
        with torch.no_grad():
            weight[..., 0] = math.nan
    learner = make_learner(policy, reference, critic, kl_target=0.5, gamma=0.1)
    before = weights(policy)
    with pytest.raises(StageFailed, match="not finite; .*Lower the learning rate, or look at the data or the rewards"):
        learn(learner, rollout)
    assert_equal(policy, before)
    assert learner.controller.gamma == 0.1 and learner.updates == 0


def test_an_update_that_is_not_finite_is_left_out_and_told(models: tuple[Any, ...]) -> None:
    """One response's old log-prob is broken: its minibatch teaches the critic alone, all the others both networks."""
    policy, reference, critic = models
    rollout = World().sample(policy, 6)
    learner = make_learner(policy, reference, critic, minibatches=2)
    figures = learner.prepare(rollout)
    rollout.old_logprobs[3, 0] = math.nan
    with pytest.raises(StageFailed, match="the loss is nan"):
        learner.update(rollout, 0, figures["sigma"])
    learner = make_learner(policy, reference, critic, minibatches=2)
    told: list[tuple[str, list[int]]] = []
    figures = learner.update(rollout, 0, 1.0, on_fault=lambda what, rows: told.append((what, list(rows))))
    ((what, rows),) = told
    assert what == "the policy's loss is nan" and 3 in rows and len(rows) == 6
    assert figures["policy/skipped"] == 0.5 and learner.updates == 2
    assert all(tensor.isfinite().all() for model in (policy, critic) for tensor in model.state_dict().values())
    steps = [moment.item() for name, moment in learner.optimizer.state_tensors().items() if name.endswith("/step")]
    assert steps and set(steps) == {1.0}


def test_an_update_whose_loss_exploded_is_left_out_and_told(models: tuple[Any, ...]) -> None:
    policy, reference, critic = models
    rollout = World().sample(policy, 6)
    learner = make_learner(policy, reference, critic, minibatches=1)
    figures = learner.prepare(rollout)
    learner.update(rollout, 0, figures["sigma"])
    before, levels = weights(critic), {name: level.value for name, level in learner.levels.items()}
    rollout.returns[3] = 1e6
    told: list[str] = []
    figures = learner.update(rollout, 1, 1.0, on_fault=lambda what, rows: told.append(what))
    assert figures["critic/skipped"] == 1.0 and "policy/skipped" not in figures
    assert len(told) == 1 and told[0].startswith("the critic's loss is ") and "far above its level" in told[0]
    assert_equal(critic, before)
    assert learner.levels["critic"].value == levels["critic"] and learner.levels["policy"].value != levels["policy"]
