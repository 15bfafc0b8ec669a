"""The same numbers on a CUDA device as on the CPU. Run by `make gpu-check`."""

from collections.abc import Callable

import pytest
import torch

from trivium.data.branches import response_batches
from trivium.generation import generate
from trivium.model import Decoder, Scorer
from trivium.rl.learner import Learner, LearnerConfig
from trivium.rl.ppo import PPO, PPOConfig
from trivium.rl.rollout import response_logprobs, sample_rollout

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PROMPTS = [[1, 5, 9, 7], [1, 3], [1, 8, 8, 2, 11, 30]]


def test_log_probs_equal_those_of_the_cpu(make_decoder: Callable[..., Decoder]) -> None:
    model = make_decoder()
    (batch,) = response_batches(PROMPTS, [[4, 2], [6, 7, 2], [9, 2]], [0, 0, 2])
    here = response_logprobs(model, batch, 1.0)
    there = response_logprobs(model.cuda(), batch.to("cuda"), 1.0).cpu()
    torch.testing.assert_close(there, here, atol=1e-4, rtol=0)


def test_samples_equal_those_of_the_cpu(make_decoder: Callable[..., Decoder]) -> None:
    model = make_decoder()
    drawn = [
        [sample.ids for sample in generate(each, PROMPTS, seeds=[1, 2, 3], max_new_tokens=12, stop_ids=[2])]
        for each in (model, make_decoder().cuda())
    ]
    assert drawn[0] == drawn[1]


def test_a_ppo_step_runs_in_bf16(make_decoder: Callable[..., Decoder], make_scorer: Callable[..., Scorer]) -> None:
    policy, reference, critic = make_decoder().cuda(), make_decoder().cuda(), make_scorer().cuda()
    for model in (policy, reference, critic):
        model.compute_dtype = torch.bfloat16
    learner = Learner(policy, reference, critic, PPO(PPOConfig()), LearnerConfig(minibatches=1), 10, seed=0)
    rollout = sample_rollout(
        policy, PROMPTS, ["a", "b", "c"], samples_per_prompt=4, seed=0, step=0, max_new_tokens=8, eos_id=2
    )
    rollout.valid = torch.ones(len(rollout.responses), dtype=torch.bool)
    rollout.scores = torch.randn(len(rollout.responses), generator=torch.Generator().manual_seed(0))
    before = policy.embedding.weight.detach().clone()
    figures = learner.prepare(rollout)
    figures |= learner.update(rollout, 0, figures["sigma"])
    assert abs(figures["ratio/mean"] - 1) < 0.05
    assert not torch.equal(before, policy.embedding.weight)
