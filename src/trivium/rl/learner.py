"""One reinforcement-learning step: what the models say of a rollout, the advantages, the updates."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Literal, Protocol

from pydantic import Field
from torch import Tensor

from trivium.base.config import Config
from trivium.base.errors import NumericalFault
from trivium.base.ranks import own_share, totals, world
from trivium.base.seeding import python_rng
from trivium.batch import Batch
from trivium.data.branches import ResponseBatch
from trivium.distributed import gathered
from trivium.model import Decoder, Scorer
from trivium.objectives.kl import KLController, kl_loss, shape_rewards
from trivium.objectives.policy import effective_sample_size, explained_variance, importance_weights
from trivium.objectives.utility import effective_weight
from trivium.optim import OptimConfig, Optimizer
from trivium.rl.algorithm import Algorithm
from trivium.rl.figures import rollout_figures
from trivium.rl.ppo import PPO
from trivium.rl.reward import MissingEOS, length_penalty, overlong_penalty, penalise_unfinished
from trivium.rl.rollout import Rollout, end_values, over_rollout, response_logprobs, response_values
from trivium.training.faults import Level
from trivium.training.losses import next_token_loss, own_rows

OnFault = Callable[[str, Sequence[int]], None]


class LearnerConfig(Config):
    """The update that all algorithms share."""

    alpha: float = Field(default=0.0, ge=0)
    """Weight of L_SFT in U: the fine-tuning loss stays in the update (PPO-ptx)."""
    beta: float = Field(default=1.0, ge=0)
    """Weight of the reward in U."""
    gamma: float = Field(default=0.05, ge=0)
    """Weight of the KL divergence from M1 in U, reward per nat."""
    explosion: float = Field(default=10.0, gt=1)
    """A loss of policy or critic this many times its running level, or 1 where that is lower, has exploded."""
    kl_target: float | None = Field(default=None, gt=0)
    """KL per response, in nats, that the coefficient is steered to; unset keeps it at gamma."""
    kl_horizon: float = Field(default=10_000, gt=0)
    """Responses over which a full deviation from kl_target acts."""
    epochs: int = Field(default=1, ge=1)
    """Passes over each rollout."""
    minibatches: int = Field(default=2, ge=1)
    """Optimiser steps per pass."""
    critic_warmup: int = Field(default=0, ge=0)
    """First steps of a round in which only the critic, which starts anew, learns."""
    max_approx_kl: float | None = Field(default=None, gt=0)
    """End a rollout's updates when KL(old || new) per token, in nats, exceeds this; unset never does."""
    missing_eos: MissingEOS = "min"
    """Reward of a response cut by the cap: at most -1 (`min`), -1 (`replace`), one less (`subtract`) or as it is
    (`none`)."""
    overlong_buffer: int = Field(default=0, ge=0)
    """Tokens below the cap over which the reward falls, along a line, by up to 1 (DAPO); 0 is off."""
    length_penalty: float = Field(default=0.0, ge=0)
    """Taken off the reward for every token."""
    importance: Literal["none", "token", "icepop", "sequence", "old"] = "none"
    """For responses that another engine drew: weights exp(old - sampler) by `token`, `icepop` or `sequence`; or `old`
    takes the sampler's log-probabilities for the old ones, so that the ratio is new against sampler."""
    importance_cap: float | None = Field(default=2.0, gt=1)
    """Upper limit of `token` and `sequence` weights; unset is none, with which `sequence` is exact."""
    icepop_range: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(ge=1)]] = (0.5, 5.0)
    """`icepop` leaves tokens out whose weight lies outside."""
    optim: OptimConfig = OptimConfig(lr=2e-4, eps=1e-5, warmup_steps=10, schedule="constant")
    """The policy's optimiser."""
    critic_optim: OptimConfig = OptimConfig(lr=3e-4, eps=1e-5, warmup_steps=10, schedule="constant")
    """The critic's optimiser."""
    microbatch_tokens: int = Field(default=4096, ge=1)
    """Tokens of one forward pass; changes memory, not results."""

    def full_reward(self, raw: Tensor, finished: Tensor, lengths: Tensor, cap: int) -> Tensor:
        """(N,) what is maximised: a source's reward less what an unfinished, overlong or long response loses."""
        scores = penalise_unfinished(raw, finished, self.missing_eos)
        if self.overlong_buffer:
            scores = scores + overlong_penalty(lengths, cap, self.overlong_buffer)
        return scores + length_penalty(lengths, self.length_penalty) if self.length_penalty else scores


class Learner:
    """A policy that learns from rewards, with its reference and, where the algorithm has one, its critic."""

    def __init__(
        self,
        policy: Decoder,
        reference: Decoder,
        critic: Scorer | None,
        algorithm: Algorithm,
        config: LearnerConfig,
        total_updates: int,
        seed: int,
        first_step: int = 0,
    ):
        self.policy, self.reference, self.critic = policy, reference, critic
        self.algorithm, self.config, self.seed, self.first_step = algorithm, config, seed, first_step
        self.optimizer = Optimizer(policy, config.optim, total_updates)
        self.critic_optimizer = Optimizer(critic, config.critic_optim, total_updates) if critic is not None else None
        self.controller = KLController(config.gamma, config.kl_target, config.kl_horizon)
        self.updates = 0
        """Optimiser steps done; sets the learning rate."""
        self.levels = {"policy": Level(), "critic": Level()}
        """Where the losses run."""

    def prepare(self, rollout: Rollout) -> dict[str, float]:
        """Old and reference log-probs and values, once per rollout; rewards and advantages from them.

        Raises:
            NumericalFault: a reward, a value or the divergence is not finite; nothing has been learnt from it.
        """
        device, config, temperature = self.policy.device, self.config, rollout.temperature
        policy = gathered(self.policy)

        def under(model: Decoder) -> Callable[[ResponseBatch], Tensor]:
            return lambda batch: response_logprobs(model, batch, temperature)

        tokens = config.microbatch_tokens
        if rollout.version is None:
            rollout.version = self.updates
        trainer = rollout.old_logprobs = over_rollout(rollout, under(policy), device, tokens)
        if config.importance == "old":
            rollout.old_logprobs = rollout.sampler_logprobs.clone()
        rollout.ref_logprobs = over_rollout(rollout, under(self.reference), device, tokens)
        if self.critic is not None:
            critic = gathered(self.critic)
            if isinstance(self.algorithm, PPO) and self.algorithm.config.truncation == "bootstrap":
                rollout.end_values = end_values(critic, rollout, tokens)
            rollout.values = over_rollout(rollout, lambda batch: response_values(critic, batch), device, tokens)
        mask, valid = rollout.loss_mask, rollout.valid
        gamma = self.controller.gamma
        in_reward = gamma if self.algorithm.kl == "reward" else 0.0
        rollout.rewards = shape_rewards(
            rollout.scores, rollout.old_logprobs, rollout.ref_logprobs, mask, config.beta, in_reward
        )
        told = {"a reward or its KL penalty": rollout.rewards, "a value": rollout.values}
        for name, tensor in told.items():
            if tensor.numel() and not tensor[mask].isfinite().all():
                raise NumericalFault(f"{name} is not finite")
        metrics = rollout_figures(rollout, trainer) | {"kl/coefficient": gamma}
        metrics |= self.algorithm.advantages(rollout)
        if self.critic is not None:
            explained = explained_variance(rollout.values, rollout.returns, rollout.loss_mask)
            metrics["explained_variance"] = explained.item()
        metrics |= self._weigh(rollout, trainer)
        if valid.any():
            self.controller.update(metrics["kl/sequence"], int(valid.sum()))
        return metrics

    def _weigh(self, rollout: Rollout, trainer: Tensor) -> dict[str, float]:
        """Correct for another sampler: every loss is linear in the advantages, so they take the weights.

        Without a correction the figure is that of exact weights, which nothing takes.
        """
        config, mask = self.config, rollout.loss_mask
        cap: float | None
        if config.importance == "none" or config.importance == "old":
            kind, floor, cap = "sequence", 0.0, None
        elif config.importance == "icepop":
            kind, (floor, cap) = config.importance, config.icepop_range
        else:
            kind, floor, cap = config.importance, 0.0, config.importance_cap
        weights = importance_weights(trainer, rollout.sampler_logprobs, mask, kind, cap, floor)
        if kind == config.importance:
            rollout.advantages = rollout.advantages * weights
        each = weights[:, 0][rollout.valid] if kind == "sequence" else weights[mask]
        return {"importance/ess": (effective_sample_size(each) / max(1, len(each))).item()}

    def update(
        self,
        rollout: Rollout,
        step: int,
        sigma: float,
        sft_batches: Callable[[int], Batch] | None = None,
        on_fault: OnFault | None = None,
    ) -> dict[str, float]:
        """All updates on one rollout: each epoch reshuffles the prompts; a response is never split.

        Args:
            step: from `first_step` on; with the seed it decides the shuffles.
            sigma: what advantages were divided by.
            sft_batches: index -> a batch of fine-tuning data; needed when alpha > 0.
            on_fault: called with what was wrong and the minibatch's responses, where a network's update was left
                out because its loss or gradient is not finite; without it that ends the run.
        """
        members: dict[int, list[int]] = {}
        for index, prompt in enumerate(rollout.prompt_of):
            if rollout.valid[index]:
                members.setdefault(prompt, []).append(index)
        sums: dict[str, float] = {}
        done, drawn_at = 0, self.updates if rollout.version is None else rollout.version
        for epoch in range(self.config.epochs):
            order = sorted(members)
            python_rng(self.seed, "minibatches", step, epoch).shuffle(order)
            for part in split(order, self.config.minibatches):
                chosen = [index for prompt in part for index in members[prompt]]
                metrics = dict.fromkeys(("staleness/mean", "staleness/max"), float(self.updates - drawn_at))
                if step - self.first_step >= self.config.critic_warmup:
                    metrics |= self._policy_step(rollout, chosen, sigma, sft_batches, on_fault)
                metrics |= self._critic_step(rollout, chosen, on_fault)
                self.updates += 1
                if done == 0:
                    metrics["ratio/first_deviation"] = abs(metrics.get("ratio/mean", 1.0) - 1.0)
                done += 1
                for key, value in metrics.items():
                    sums[key] = max(sums.get(key, 0.0), value) if key.endswith("max") else sums.get(key, 0.0) + value
                limit = self.config.max_approx_kl
                if limit is not None and metrics.get("approx_kl", 0.0) > limit:
                    return averages(sums, done) | {"stopped_early": 1.0}
        return averages(sums, done)

    def _policy_step(
        self,
        rollout: Rollout,
        chosen: Sequence[int],
        sigma: float,
        sft_batches: Callable[[int], Batch] | None,
        on_fault: OnFault | None,
    ) -> dict[str, float]:
        try:
            metrics = self._policy_gradient(rollout, chosen, sigma, sft_batches)
            return metrics | named("policy", descend(self, "policy", metrics["loss/policy"], self.optimizer))
        except NumericalFault as fault:
            return self._leave_out(self.optimizer, "policy", fault, chosen, on_fault)

    def _leave_out(
        self, optimizer: Optimizer, name: str, fault: NumericalFault, chosen: Sequence[int], on_fault: OnFault | None
    ) -> dict[str, float]:
        optimizer.clear()
        if on_fault is None:
            raise fault
        on_fault(fault.what.replace("the ", f"the {name}'s ", 1), chosen)
        return {f"{name}/skipped": 1.0}

    def _policy_gradient(
        self, rollout: Rollout, chosen: Sequence[int], sigma: float, sft_batches: Callable[[int], Batch] | None
    ) -> dict[str, float]:
        config, device = self.config, self.policy.device
        mask = rollout.loss_mask
        tokens, width, cap = int(mask[chosen].sum()), mask.shape[1], rollout.cap or mask.shape[1]
        count = self._count(len(chosen), tokens, cap)
        metrics: dict[str, float] = {}
        for batch, counts in own_share(list(rollout.batches(chosen, config.microbatch_tokens))):
            rows = batch.responses
            logprobs = batch.to(device).spread(
                response_logprobs(self.policy, batch.to(device), rollout.temperature), width
            )
            loss = self.algorithm.loss(
                logprobs,
                rollout.old_logprobs[rows].to(device),
                rollout.advantages[rows].to(device),
                mask[rows].to(device),
            )
            objective = loss.loss_sum
            if self.algorithm.kl != "reward" and self.controller.gamma > 0:
                penalty = kl_loss(
                    logprobs,
                    rollout.ref_logprobs[rows].to(device),
                    mask[rows].to(device),
                    kind=self.algorithm.kl,
                    aggregate=self.algorithm.aggregate,
                    old_logprobs=rollout.old_logprobs[rows].to(device),
                )
                objective = objective + self.controller.gamma * penalty.loss_sum
                metrics["loss/kl"] = metrics.get("loss/kl", 0.0) + counts * penalty.loss_sum.item() / count
            backward(objective / count, counts)
            if not counts:
                continue
            share = int(mask[rows].sum()) / tokens
            metrics["loss/policy"] = metrics.get("loss/policy", 0.0) + loss.loss_sum.item() / count
            for key, value in loss.metrics.items():
                name = {"ratio_mean": "ratio/mean", "ratio_max": "ratio/max"}.get(key, key)
                old = metrics.get(name, 0.0)
                metrics[name] = max(old, value.item()) if name.endswith("max") else old + share * value.item()
        metrics = totals(metrics)
        finite(metrics["loss/policy"] + metrics.get("loss/kl", 0.0))
        weights = self._effective(sigma, len(chosen), cap, tokens)
        metrics |= {f"{name}/effective": weight for name, weight in weights.items()}
        if config.alpha > 0:
            metrics |= sft_gradient(self.policy, weights["alpha"], self.updates, sft_batches)
        return metrics

    def _effective(self, sigma: float, n: int, cap: int, tokens: int) -> dict[str, float]:
        """What U's weights are in an update; a KL in the loss is not divided by what the advantages were."""
        scale = partial(effective_weight, aggregate=self.algorithm.aggregate, n=n, l_max=cap, token_count=tokens)
        in_reward = self.algorithm.kl == "reward"
        return {
            "alpha": scale(self.config.alpha, sigma=sigma),
            "beta": scale(self.config.beta, sigma=sigma),
            "gamma": scale(self.controller.gamma, sigma=sigma if in_reward else 1.0),
        }

    def _count(self, sequences: int, tokens: int, cap: int) -> float:
        return {"seq_sum": sequences, "seq_mean": sequences, "token": tokens, "const": sequences * cap}[
            self.algorithm.aggregate
        ]

    def _critic_step(self, rollout: Rollout, chosen: Sequence[int], on_fault: OnFault | None) -> dict[str, float]:
        if self.critic is None or self.critic_optimizer is None:
            return {}
        try:
            metrics = self._critic_gradient(self.critic, rollout, chosen)
            return metrics | named("critic", descend(self, "critic", metrics["loss/value"], self.critic_optimizer))
        except NumericalFault as fault:
            return self._leave_out(self.critic_optimizer, "critic", fault, chosen, on_fault)

    def _critic_gradient(self, critic: Scorer, rollout: Rollout, chosen: Sequence[int]) -> dict[str, float]:
        assert isinstance(self.algorithm, PPO)
        mask, device = rollout.loss_mask, self.policy.device
        tokens, width = int(mask[chosen].sum()), mask.shape[1]
        metrics: dict[str, float] = {}
        for batch, counts in own_share(list(rollout.batches(chosen, self.config.microbatch_tokens))):
            rows = batch.responses
            values = batch.to(device).spread(response_values(critic, batch.to(device)), width)
            loss = self.algorithm.value_loss(
                values, rollout.values[rows].to(device), rollout.returns[rows].to(device), mask[rows].to(device)
            )
            backward(loss.loss_sum / tokens, counts)
            if not counts:
                continue
            metrics["loss/value"] = metrics.get("loss/value", 0.0) + loss.loss_sum.item() / tokens
        metrics = totals(metrics)
        finite(metrics["loss/value"])
        return metrics


def sft_gradient(
    policy: Decoder, weight: float, update: int, sft_batches: Callable[[int], Batch] | None
) -> dict[str, float]:
    """Add weight × the gradient of the fine-tuning loss on the update's batch (PPO-ptx).

    Raises:
        NumericalFault: the loss is not finite.
    """
    assert sft_batches is not None, "alpha > 0 needs fine-tuning data"
    batch = own_rows(sft_batches(update)).to(policy.device)
    loss = next_token_loss(policy, batch)
    count = totals({"": float(loss.count)})[""]
    mean = loss.loss_sum / max(count, 1.0)
    backward(weight * mean)
    total = totals({"": mean.item()})[""]
    finite(total)
    return {"loss/sft": total, "alpha/effective": weight}


class Descending(Protocol):
    """What `descend` needs of a learner."""

    config: LearnerConfig
    updates: int
    levels: dict[str, Level]


def descend(learner: Descending, network: str, loss: float, optimizer: Optimizer) -> dict[str, float]:
    """Step down a gradient, unless its loss has exploded.

    Raises:
        NumericalFault: it has, or the gradient is not finite; nothing was updated.
    """
    learner.levels[network].check(loss, learner.config.explosion)
    figures = optimizer.step(learner.updates)
    learner.levels[network].follow(loss)
    return figures


def backward(loss: Tensor, counts: bool = True) -> None:
    """Add this rank's part of a gradient to the others'; one that does not count only keeps the ranks in step.

    Ranks' gradients arrive as their mean, of which this makes their sum.
    """
    (loss * (world() if counts else 0)).backward()


def split(order: list[int], parts: int) -> Iterator[list[int]]:
    """Minibatches of nearly equal size; never an empty one."""
    parts = min(parts, len(order))
    for part in range(parts):
        yield order[part * len(order) // parts : (part + 1) * len(order) // parts]


def averages(sums: dict[str, float], count: int) -> dict[str, float]:
    """Means over the updates of a step, largest values as they are."""
    return {key: value if key.endswith(("max", "first_deviation")) else value / count for key, value in sums.items()}


def named(network: str, figures: dict[str, float]) -> dict[str, float]:
    """Figures under the name of the network they are of."""
    return {f"{network}/{key}": value for key, value in figures.items()}


def finite(loss: float) -> None:
    """Raise `NumericalFault` for a loss that is no number."""
    if not math.isfinite(loss):
        raise NumericalFault(f"the loss is {loss}")
