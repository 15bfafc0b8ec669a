"""The same numbers on a CUDA device as on the CPU. Run by `make gpu-check`."""

from collections.abc import Callable

import pytest
import torch

from trivium.batch import Batch
from trivium.data.branches import response_batches
from trivium.generation import generate
from trivium.model import Decoder, Scorer
from trivium.model.fp8 import supported
from trivium.rl.learner import Learner, LearnerConfig
from trivium.rl.ppo import PPO, PPOConfig
from trivium.rl.rollout import response_logprobs, sample_rollout
from trivium.training.losses import next_token_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

WIDE = {"d_model": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "d_ff": 96, "max_seq_len": 512}
"""Heads wide enough for attention over blocks, sides that fit products in fp8."""
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


def packed_rows(rows: int, length: int) -> Batch:
    """Documents of 1 to 150 tokens, pads at the end of every second row."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(48, (rows, length), generator=generator)
    positions = torch.empty_like(ids)
    for row in positions:
        starts = torch.randint(1, 150, (length,), generator=generator)
        row.copy_(torch.cat([torch.arange(int(n)) for n in starts])[:length])
    positions[1::2, -7:] = -1
    return Batch(ids=ids, loss_mask=positions > 0, positions=positions)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("length", [384, 301])
def test_gradients_of_packed_rows_equal_those_of_the_cpu(
    make_decoder: Callable[..., Decoder], length: int, compiled: bool
) -> None:
    batch, found = packed_rows(4, length), []
    for device in ("cpu", "cuda"):
        model = make_decoder(**WIDE).to(device)
        if compiled and device == "cuda":
            model.compile_blocks()
        next_token_loss(model, batch.to(device)).mean.backward()
        found.append({name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, atol=1e-3 * expected.abs().max().item(), rtol=0, msg=name)


def test_gradients_of_forked_rows_equal_those_of_the_cpu(make_decoder: Callable[..., Decoder]) -> None:
    (batch,) = response_batches(PROMPTS, [[4, 2], [6, 7, 2], [9, 2]], [0, 0, 2])
    found = []
    for device in ("cpu", "cuda"):
        model = make_decoder(**WIDE).to(device)
        response_logprobs(model, batch.to(device), 1.0).sum().backward()
        found.append({name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None})
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, atol=1e-3 * expected.abs().max().item(), rtol=0, msg=name)


@pytest.mark.parametrize("compiled", [False, True])
def test_training_in_fp8_keeps_to_that_in_bf16(
    make_decoder: Callable[..., Decoder],
    train_briefly: Callable[[Decoder, Callable[[], torch.Tensor]], list[float]],
    compiled: bool,
) -> None:
    if not supported(torch.device("cuda")):
        pytest.skip("this device has no products in fp8")
    batch, ended = packed_rows(4, 384).to("cuda"), []
    for fp8 in (False, True):
        model = make_decoder(**WIDE).cuda()
        model.compute_dtype = torch.bfloat16
        if fp8:
            model.train_in_fp8()
        if compiled:
            model.compile_blocks()
        ended.append(train_briefly(model, lambda model=model: next_token_loss(model, batch).mean))
    plain, rounded = ended
    assert plain[-1] < 0.8 * plain[0]
    assert rounded[-1] == pytest.approx(plain[-1], abs=0.1 * (plain[0] - plain[-1]))
