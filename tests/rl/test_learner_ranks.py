"""The update on several ranks is that of one, however its responses are split, packed and padded."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from worlds import SHAPE, World, learn, make_learner

from trivium.batch import Batch
from trivium.distributed import gathered, shard
from trivium.model import Decoder, Scorer

OPTIM = {"lr": 3e-3, "eps": 1e-3, "warmup_steps": 0}
"""A large eps: Adam would magnify the rounding of gradients near 0."""


def sft_batch(_: int) -> Batch:
    ids = torch.tensor([[1, 3, 3, 1, 0, 2], [2, 3, 1, 1, 1, 0], [3, 3, 2, 0, 1, 2]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0]])
    return Batch(ids, mask.bool(), torch.arange(6).expand(3, -1))


def two_steps(models: tuple[Decoder, Decoder, Scorer], microbatch_tokens: int) -> dict[str, Any]:
    """Two rollouts, drawn on all ranks together, with two updates each; five prompts are an even share for no rank."""
    policy, reference, critic = copy.deepcopy(models)
    learner = make_learner(
        shard(policy), reference, shard(critic), alpha=0.3, gamma=0.2, minibatches=2, kl_target=1.0, optim=OPTIM,
        critic_optim=OPTIM, microbatch_tokens=microbatch_tokens,
    )  # fmt: skip
    world, figures = World(prompts=[[1], [2, 3], [3], [2, 2], [1, 3, 1]]), []
    for step in range(2):
        rollout = world.sample(gathered(learner.policy), 6, step=step)
        rollout.valid[3] = False
        figures.append(learn(learner, rollout, step, sft_batches=sft_batch))
    return {
        "policy": dict(gathered(learner.policy).named_parameters()),
        "critic": dict(gathered(critic).named_parameters()),
        "figures": figures,
    }


def on_a_rank(rank: int, ranks: int, folder: str, models: tuple[Decoder, Decoder, Scorer]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    found = two_steps(models, microbatch_tokens=16)
    if rank == 0:
        torch.save(found, f"{folder}/found")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.distributed
@pytest.mark.timeout(300)
@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_rlhf_18_the_update_is_the_same_on_any_number_of_ranks(
    make_decoder: Callable[..., Decoder], make_scorer: Callable[..., Scorer], tmp_path: Path, ranks: int
) -> None:
    models = make_decoder(seed=1, **SHAPE), make_decoder(**SHAPE), make_scorer(seed=2, **SHAPE)
    before: dict[str, Tensor] = dict(models[0].named_parameters())
    alone = two_steps(models, microbatch_tokens=4096)
    spawn(on_a_rank, (ranks, str(tmp_path), models), nprocs=ranks)
    spread = torch.load(tmp_path / "found", weights_only=False)
    for network in ("policy", "critic"):
        for name, expected in alone[network].items():
            torch.testing.assert_close(spread[network][name], expected, atol=1e-5, rtol=0, msg=f"{network} {name}")
    assert max((alone["policy"][name] - before[name]).abs().max().item() for name in before) > 1e-3, "it did learn"
    for mine, theirs in zip(alone["figures"], spread["figures"], strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert theirs[key] == pytest.approx(value, abs=2e-4, rel=2e-4), key
