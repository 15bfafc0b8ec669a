"""What a step logs, against figures taken by hand from the rollout itself."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from worlds import SHAPE, World, learn, make_learner

from trivium.model import Decoder, Scorer
from trivium.rl.departures import departures
from trivium.rl.learner import LearnerConfig
from trivium.rl.ppo import PPOConfig

OFF = {"lr": 0.0}


@pytest.fixture
def models(make_decoder: Callable[..., Decoder], make_scorer: Callable[..., Scorer]) -> tuple[Decoder, Decoder, Scorer]:
    return make_decoder(seed=1, **SHAPE), make_decoder(**SHAPE), make_scorer(seed=2, **SHAPE)


def test_every_named_figure_is_logged(models: tuple[Any, ...]) -> None:
    learner = make_learner(*models, alpha=0.0, gamma=0.1)
    figures = learn(learner, World().sample(models[0], 8))
    named = (
        "kl/sequence kl/token approx_kl clipfrac_up clipfrac_down ratio/mean ratio/max surprisal explained_variance "
    )
    named += "loss/policy loss/value policy/grad_norm critic/grad_norm sigma advantage_std alpha/effective "
    named += "beta/effective gamma/effective reward/mean reward/std length/mean length/p95 eos_rate invalid "
    named += "groups/zero_variance sampler/gap_mean sampler/gap_max importance/ess staleness/mean staleness/max"
    assert set(named.split()) <= set(figures)
    assert all(math.isfinite(value) for value in figures.values())


def test_figures_of_a_rollout_by_hand(models: tuple[Any, ...]) -> None:
    rollout = World(prompts=[[1], [2], [3]]).sample(models[0], 6)
    rollout.scores[:6] = 0.5  # one prompt of three says nothing
    rollout.valid[7] = False
    rollout.valid[13:] = False  # nor does one with a single reward
    figures = make_learner(*models).prepare(rollout)
    kept = [row for row in range(18) if rollout.valid[row]]
    drift = [(rollout.old_logprobs[row] - rollout.ref_logprobs[row])[: len(rollout.responses[row])] for row in kept]
    lengths = [len(response) for response in rollout.responses]
    assert figures["groups/zero_variance"] == 0.5 and figures["invalid"] == 6
    assert figures["kl/sequence"] == pytest.approx(sum(row.sum().item() for row in drift) / len(kept), abs=1e-6)
    assert figures["kl/token"] == pytest.approx(torch.cat(drift).mean().item(), abs=1e-6)
    assert figures["length/mean"] == pytest.approx(sum(lengths) / 18)
    real = rollout.loss_mask
    values, returns = rollout.values[real], rollout.returns[real]
    left = (returns - values).var(unbiased=False) / returns.var(unbiased=False)
    assert figures["explained_variance"] == pytest.approx(1 - left.item(), abs=1e-5)
    assert figures["surprisal"] == pytest.approx(-rollout.old_logprobs[real].mean().item(), abs=1e-6)


@pytest.mark.parametrize("kl", ["reward", "k3"])
def test_effective_weights_are_what_the_gradient_takes(models: tuple[Any, ...], kl: Any) -> None:
    """Of U's three weights: divided by σ and the mean length, but for a KL in the loss, which no σ divides."""
    learner = make_learner(*models, beta=2.0, gamma=0.3, ppo=PPOConfig(kl=kl, aggregate="token"), optim=OFF)
    rollout = World().sample(models[0], 12)
    figures = learn(learner, rollout)
    mean_length = rollout.lengths.float().mean().item()
    assert figures["beta/effective"] == pytest.approx(2.0 / figures["sigma"] / mean_length, rel=1e-6)
    divisor = figures["sigma"] * mean_length if kl == "reward" else mean_length
    assert figures["gamma/effective"] == pytest.approx(0.3 / divisor, rel=1e-6) and figures["alpha/effective"] == 0


def test_const_divides_by_the_cap_however_long_the_responses_are(models: tuple[Any, ...]) -> None:
    world, losses = World(), []
    for cap in (3, 12):
        rollout = world.sample(models[0], 12)
        assert rollout.cap == 3
        rollout.cap = cap
        learner = make_learner(*models, ppo=PPOConfig(aggregate="const"), optim=OFF, critic_optim=OFF)
        losses.append(learn(learner, rollout))
    assert losses[0]["policy/grad_norm"] == pytest.approx(4 * losses[1]["policy/grad_norm"], rel=1e-5)
    assert losses[0]["beta/effective"] == pytest.approx(4 * losses[1]["beta/effective"])


def test_staleness_counts_the_steps_since_the_draw(models: tuple[Any, ...]) -> None:
    learner = make_learner(*models, minibatches=2, epochs=2)
    world = World()
    fresh = learn(learner, world.sample(models[0], 4))
    assert (fresh["staleness/mean"], fresh["staleness/max"]) == (1.5, 3)  # 0, 1, 2, 3
    old = world.sample(models[0], 4, step=1)
    old.version = 1
    stale = learn(learner, old, 1)
    assert (stale["staleness/mean"], stale["staleness/max"]) == (4.5, 6)


def test_the_samplers_log_probs_may_take_the_place_of_the_old_ones(models: tuple[Any, ...]) -> None:
    rollout = World().sample(models[0], 8)
    rollout.sampler_logprobs = rollout.sampler_logprobs - 0.1
    figures = learn(make_learner(*models, importance="old", optim=OFF), rollout)
    assert torch.equal(rollout.old_logprobs, rollout.sampler_logprobs)
    assert figures["ratio/mean"] == pytest.approx(math.exp(0.1), abs=1e-5)
    assert figures["sampler/gap_mean"] == pytest.approx(0.1, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "weight"),
    # every token of three draws is e^0.8 = 2.23 times likelier by the trainer: within IcePop's range, above the cap
    [
        ({"importance": "icepop"}, math.exp(0.8)),
        ({"importance": "icepop", "icepop_range": (0.5, 2.0)}, 0.0),
        ({"importance": "token"}, 2.0),
        ({"importance": "token", "importance_cap": None}, math.exp(0.8)),
        ({"importance": "none"}, 1.0),
    ],
)
def test_each_correction_has_its_own_limits(models: tuple[Any, ...], options: dict[str, Any], weight: float) -> None:
    own, other = World().sample(models[0], 8), World().sample(models[0], 8)
    make_learner(*models).prepare(own)
    other.sampler_logprobs = other.sampler_logprobs - 0.8
    make_learner(*models, **options).prepare(other)
    torch.testing.assert_close(other.advantages, own.advantages * weight, rtol=1e-4, atol=1e-5)


def test_a_sampler_that_differs_is_seen_in_the_effective_sample_size(models: tuple[Any, ...]) -> None:
    rollout = World().sample(models[0], 8)
    assert make_learner(*models).prepare(rollout)["importance/ess"] == pytest.approx(1, abs=1e-5)
    rollout.sampler_logprobs[0] -= 50.0  # one response outweighs the fifteen others
    assert make_learner(*models).prepare(rollout)["importance/ess"] == pytest.approx(1 / 16, rel=1e-3)


def test_what_a_correction_costs_is_told() -> None:
    exact = PPOConfig(whiten=False, gae_lambda=1.0, aggregate="seq_sum", value_clip=None)

    def found(**options: Any) -> list[str]:
        return departures("ppo", exact, LearnerConfig(minibatches=1, **options))

    assert found() == found(importance="sequence", importance_cap=None) == []
    assert "weights above it are cut" in found(importance="sequence")[0]
    for kind in ("token", "icepop", "old"):
        assert "biased" in found(importance=kind)[0]
