"""The offline route: what it draws, what it computes, and where it ends."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from worlds import EOS, SHAPE, World

from trivium.model import Decoder
from trivium.rewards.learning import RankedTokens
from trivium.rl.dpo import DPOConfig, DPOLearner, Pair, draw_pairs
from trivium.rl.learner import LearnerConfig

FREE = {"lr": 3e-3, "warmup_steps": 0, "schedule": "constant", "grad_clip": 0.0}
GROUPS = [
    RankedTokens([1], [[2, EOS], [3, EOS]], [0, 1], [math.nan] * 2, "first"),
    RankedTokens([2], [[1, EOS], [2, EOS], [3, EOS]], [1, 0, 0], [math.nan] * 3, "second"),
    RankedTokens([3], [[1, EOS], [2, EOS]], [0, 0], [math.nan] * 2, "a tie"),
    RankedTokens([3], [[1, EOS], [2, EOS], [3]], [0, 1, -1], [math.nan] * 3, "third"),
]


def make_learner(policy: Decoder, reference: Decoder, kind: Any = "sigmoid", beta: float = 0.5, **config: Any) -> Any:
    settings = LearnerConfig.model_validate({"minibatches": 1, "optim": FREE} | config)
    return DPOLearner(policy, reference, DPOConfig(), kind, settings, beta, 1000, seed=0)


def test_every_epoch_takes_each_prompt_once() -> None:
    drawn = [pair for step in range(6) for pair in draw_pairs(GROUPS, 2, 7, step)]
    assert [Counter(pair.name for pair in drawn[at : at + 3]) for at in (0, 3, 6, 9)] == [
        Counter(["first", "second", "third"])
    ] * 4
    for pair in drawn:
        group = next(each for each in GROUPS if each.name == pair.name)
        tiers = {tuple(ids): tier for ids, tier in zip(group.completions, group.tiers, strict=True)}
        assert 0 <= tiers[tuple(pair.chosen)] < tiers[tuple(pair.rejected)]
    assert draw_pairs(GROUPS, 2, 7, 3) == drawn[6:8]  # a function of (seed, step)
    assert draw_pairs([GROUPS[2]], 2, 7, 0) == []


def plain_logprob(model: Decoder, prompt: list[int], answer: list[int]) -> torch.Tensor:
    logprobs = model(torch.tensor([prompt + answer]))[0, len(prompt) - 1 : -1].log_softmax(-1)
    return logprobs.gather(1, torch.tensor(answer)[:, None]).sum()


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_rlhf_17_the_update_is_the_gradient_of_the_formula(make_decoder: Callable[..., Decoder], kind: str) -> None:
    policy, reference = make_decoder(**SHAPE), make_decoder(seed=1, **SHAPE)
    pairs = [Pair([1, 2], [3, EOS], [2, 2, EOS]), Pair([3], [1, 1, 2], [EOS]), Pair([1, 2], [2, EOS], [1, EOS])]
    losses = []
    for pair in pairs:
        gap = [
            plain_logprob(policy, pair.prompt, answer) - plain_logprob(reference, pair.prompt, answer).detach()
            for answer in (pair.chosen, pair.rejected)
        ]
        h = gap[0] - gap[1]
        losses.append(-torch.nn.functional.logsigmoid(0.5 * h) if kind == "sigmoid" else (h - 1).square())
    expected = torch.autograd.grad(torch.stack(losses).mean(), list(policy.parameters()))
    learner = make_learner(policy, reference, kind)
    figures = learner.update(pairs, 0)
    assert figures["loss/policy"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    moments = learner.optimizer.state_tensors()
    rounding = 2e-6 * max(float(gradient.abs().max()) for gradient in expected)  # pairs' large terms cancel
    for (name, _), gradient in zip(policy.named_parameters(), expected, strict=True):
        torch.testing.assert_close(moments[f"{name}/exp_avg"] / 0.1, gradient, rtol=1e-4, atol=rounding)


def test_rlhf_17_at_the_reference_the_loss_is_ln_2(make_decoder: Callable[..., Decoder]) -> None:
    figures = make_learner(make_decoder(**SHAPE), make_decoder(**SHAPE)).update(draw_pairs(GROUPS, 3, 0, 0), 0)
    assert figures["loss/policy"] == pytest.approx(math.log(2), rel=1e-6)
    assert figures["dpo/accuracy"] == 0.5 and figures["dpo/reward_margin"] == pytest.approx(0, abs=1e-6)


def test_micro_batches_and_the_order_of_pairs_change_nothing(make_decoder: Callable[..., Decoder]) -> None:
    pairs = [Pair([1, 2], [3, EOS], [2, 2, EOS]), Pair([3], [1, 1, 2], [EOS]), Pair([2], [2, EOS], [1, EOS])]
    found = []
    for given, tokens in ((pairs, 4096), (pairs[::-1], 1)):
        learner = make_learner(make_decoder(**SHAPE), make_decoder(seed=1, **SHAPE), microbatch_tokens=tokens)
        found.append((learner.update(given, 0), learner.optimizer.state_tensors()))
    for name, moment in found[0][1].items():
        rounding = 1e-6 * float(moment.abs().max())  # terms that cancel leave a little of the larger ones' rounding
        torch.testing.assert_close(moment, found[1][1][name], rtol=1e-5, atol=rounding)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)


def test_comparisons_by_a_reward_move_the_policy_towards_it(make_decoder: Callable[..., Decoder]) -> None:
    """Pairs drawn from the reference and labelled by Bradley-Terry raise the expected reward, IPO and DPO alike."""
    world = World()
    for kind in ("sigmoid", "ipo"):
        policy, reference = make_decoder(**SHAPE), make_decoder(**SHAPE)
        learner = make_learner(policy, reference, kind)
        generator = torch.Generator().manual_seed(0)
        before = (world.log_p(policy).exp() * world.scores).sum().item()
        for step in range(15):
            rollout = world.sample(reference, 32, step=step)
            pairs = []
            for at in range(0, len(rollout.responses), 2):
                first, second = rollout.responses[at : at + 2]
                wins = torch.sigmoid(rollout.scores[at] - rollout.scores[at + 1]) > torch.rand((), generator=generator)
                if first != second:
                    prompt = rollout.prompts[rollout.prompt_of[at]]
                    pairs.append(Pair(prompt, *((first, second) if wins else (second, first))))
            learner.update(pairs, step)
        assert (world.log_p(policy).exp() * world.scores).sum().item() > before + 0.1
