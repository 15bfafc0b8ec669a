"""The whole of PPO, on a task whose optimum is known in closed form."""

from collections.abc import Callable

import pytest
import torch
from worlds import SHAPE, World, learn, make_learner

from trivium.model import Decoder, Scorer
from trivium.rl.ppo import PPOConfig


@pytest.mark.slow
def test_rlhf_09_a_transformer_with_a_critic_reaches_the_optimum(
    make_decoder: Callable[..., Decoder], make_scorer: Callable[..., Scorer]
) -> None:
    """pi* = pi_ref exp(beta R / gamma) / Z for each of two prompts, within a total variation of 0.02."""
    policy, reference = make_decoder(**SHAPE), make_decoder(**SHAPE)
    with torch.no_grad():
        for model in (policy, reference):
            model.norm.weight.mul_(0.5)  # no response is so rare at first that it is never drawn
    world, steps, gamma = World(seed=1), 120, 1.0
    learner = make_learner(
        policy, reference, make_scorer(seed=2, **SHAPE), total=steps, gamma=gamma,
        ppo=PPOConfig(whiten=False, gae_lambda=1.0, aggregate="seq_sum", value_clip=None),
        optim={"lr": 3e-3, "schedule": "linear", "decay_fraction": 1.0, "warmup_steps": 10, "eps": 1e-5},
        critic_optim={"lr": 1e-2, "schedule": "linear", "decay_fraction": 1.0, "warmup_steps": 0},
    )  # fmt: skip
    for step in range(steps):
        figures = learn(learner, world.sample(policy, 256, step=step, copies=16), step)
    with torch.no_grad():
        target = (world.log_p(reference) + world.scores / gamma).softmax(1)
        reached, began = world.log_p(policy).exp(), world.log_p(reference).exp()
    torch.testing.assert_close(reached.sum(1), torch.ones(2), atol=1e-5, rtol=0)
    assert (began - target).abs().sum(1).div(2).min() > 0.2  # it had some way to go
    assert (reached - target).abs().sum(1).div(2).max() < 0.02  # measured: 0.006 and 0.008
    assert figures["explained_variance"] > 0.9
