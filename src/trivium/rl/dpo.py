"""Direct preference optimisation (Rafailov 2023, arXiv:2305.18290) and IPO: from comparisons to a policy, offline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from trivium.base.config import Config
from trivium.base.errors import NumericalFault
from trivium.base.ranks import own_share, totals
from trivium.base.seeding import python_rng
from trivium.batch import Batch
from trivium.model import Decoder
from trivium.objectives.kl import KLController
from trivium.objectives.preference import DPOKind, dpo_loss
from trivium.optim import Optimizer
from trivium.rewards.learning import RankedTokens
from trivium.rl.learner import LearnerConfig, OnFault, averages, backward, descend, finite, named, sft_gradient, split
from trivium.rl.rollout import Rollout, over_rollout, response_logprobs
from trivium.training.faults import Level


class DPOConfig(Config):
    """Switches of the offline route; `dpo` and `ipo` share them."""

    beta: float | None = Field(default=None, gt=0)
    """Strength of the tie to M1; unset takes γ·s/β with R's deviation s, whose optimum is that of U."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed share of wrong comparisons; `dpo` only."""


@dataclass(frozen=True)
class Pair:
    """One comparison as token ids, end tokens included."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    name: str = ""
    """For messages."""


def draw_pairs(groups: Sequence[RankedTokens], count: int, seed: int, step: int) -> list[Pair]:
    """`count` comparisons for one step: every epoch goes through the prompts in an order of its own, one pair each.

    Args:
        groups: prompts with ranked completions; those without an ordered pair are left out.
        count: prompts a step.
        seed: with the step it decides everything.
    """
    usable = [group for group in groups if _ordered(group)]
    drawn: list[Pair] = []
    orders: dict[int, list[int]] = {}
    for place in range(step * count, (step + 1) * count) if usable else ():
        epoch, index = divmod(place, len(usable))
        if epoch not in orders:
            orders[epoch] = python_rng(seed, "pair order", epoch).sample(range(len(usable)), len(usable))
        group = usable[orders[epoch][index]]
        better, worse = python_rng(seed, "pair", place).choice(_ordered(group))
        drawn.append(Pair(group.prompt, group.completions[better], group.completions[worse], group.name))
    return drawn


def _ordered(group: RankedTokens) -> list[tuple[int, int]]:
    ranked = [(index, tier) for index, tier in enumerate(group.tiers) if tier >= 0]
    return [(i, j) for i, a in ranked for j, b in ranked if a < b]


class DPOLearner:
    """A policy that learns from comparisons, with its reference; there is no critic and no rollout."""

    critic = None
    critic_optimizer = None

    def __init__(
        self,
        policy: Decoder,
        reference: Decoder,
        switches: DPOConfig,
        kind: DPOKind,
        config: LearnerConfig,
        beta: float,
        total_updates: int,
        seed: int,
        temperature: float = 1.0,
    ):
        self.policy, self.reference, self.switches = policy, reference, switches
        self.kind: DPOKind = kind
        self.config, self.beta, self.seed, self.temperature = config, beta, seed, temperature
        self.optimizer = Optimizer(policy, config.optim, total_updates)
        self.controller = KLController(config.gamma)
        self.updates = 0
        """Optimiser steps done; sets the learning rate."""
        self.levels = {"policy": Level()}
        """Where the loss runs."""

    def update(
        self,
        pairs: Sequence[Pair],
        step: int,
        sft_batches: Callable[[int], Batch] | None = None,
        on_fault: OnFault | None = None,
    ) -> dict[str, float]:
        """All updates on one step's pairs; the reference's log-probabilities are computed once.

        Args:
            step: 0-based; with the seed it decides the shuffles.
            sft_batches: index -> a batch of fine-tuning data; needed when alpha > 0.
            on_fault: called with what was wrong and the minibatch's pairs, where an update was left out because its
                loss or gradient is not finite; without it that ends the run.
        """
        rollout = _as_rollout(pairs, self.temperature)
        reference = over_rollout(
            rollout, lambda batch: response_logprobs(self.reference, batch, self.temperature), self.policy.device
        ).sum(1)
        sums: dict[str, float] = {}
        done = 0
        for epoch in range(self.config.epochs):
            order = list(range(len(pairs)))
            python_rng(self.seed, "minibatches", step, epoch).shuffle(order)
            for part in split(order, self.config.minibatches):
                try:
                    metrics = self._gradient(rollout, part, reference)
                    if self.config.alpha > 0:
                        metrics |= sft_gradient(self.policy, self.config.alpha, self.updates, sft_batches)
                    metrics |= named("policy", descend(self, "policy", metrics["loss/policy"], self.optimizer))
                except NumericalFault as fault:
                    self.optimizer.clear()
                    if on_fault is None:
                        raise
                    on_fault(fault.what.replace("the ", "the policy's ", 1), part)
                    metrics = {"policy/skipped": 1.0}
                self.updates += 1
                done += 1
                for key, value in metrics.items():
                    sums[key] = sums.get(key, 0.0) + value
        return averages(sums, done) | {"dpo/beta": self.beta}

    def _gradient(self, rollout: Rollout, part: Sequence[int], reference: Tensor) -> dict[str, float]:
        rows = [row for pair in part for row in (2 * pair, 2 * pair + 1)]
        metrics: dict[str, float] = {}
        for batch, counts in own_share(list(rollout.batches(rows, self.config.microbatch_tokens))):
            moved = batch.to(self.policy.device)
            logprobs = moved.spread(response_logprobs(self.policy, moved, self.temperature)).sum(1)
            order = batch.responses.argsort()  # a prompt's two answers lie in one row of one batch
            ours, theirs = logprobs[order.to(logprobs.device)], reference[batch.responses[order]].to(logprobs.device)
            loss = dpo_loss(
                ours[0::2],
                ours[1::2],
                theirs[0::2],
                theirs[1::2],
                beta=self.beta,
                label_smoothing=self.switches.label_smoothing,
                kind=self.kind,
            )
            backward(loss.loss_sum / len(part), counts)
            if not counts:
                continue
            share = len(order) / 2 / len(part)
            metrics["loss/policy"] = metrics.get("loss/policy", 0.0) + loss.loss_sum.item() / len(part)
            for key, value in loss.metrics.items():
                metrics[f"dpo/{key}"] = metrics.get(f"dpo/{key}", 0.0) + share * value.item()
        metrics = totals(metrics)
        finite(metrics["loss/policy"])
        return metrics


def _as_rollout(pairs: Sequence[Pair], temperature: float) -> Rollout:
    """The pairs as two responses to each prompt, chosen first."""
    responses = [answer for pair in pairs for answer in (pair.chosen, pair.rejected)]
    owners = [index for index in range(len(pairs)) for _ in range(2)]
    width = max(map(len, responses))
    finished = torch.ones(len(responses), dtype=torch.bool)
    return Rollout(
        [pair.prompt for pair in pairs], responses, owners, finished, torch.zeros(len(responses), width), temperature
    )
