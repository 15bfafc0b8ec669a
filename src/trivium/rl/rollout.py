"""A rollout: responses sampled from the policy, and what every model has to say about them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trivium.base.ranks import add_up, rank, shared, world
from trivium.base.seeding import derive_seed
from trivium.data.branches import ResponseBatch, length_mask, response_batches
from trivium.generation import generate
from trivium.model import Decoder, Scorer
from trivium.objectives.lm import linear_cross_entropy


@dataclass
class Rollout:
    """N responses to P prompts, contiguous by prompt; per-action tensors are (N, L), aligned to the response."""

    prompts: list[list[int]]
    """Token ids of each distinct prompt."""
    responses: list[list[int]]
    """Sampled ids, the end token included: stored as drawn, never re-tokenised."""
    prompt_of: list[int]
    """Index of each response's prompt."""
    finished: Tensor
    """(N,) bool: the end token was sampled; the others reached the cap."""
    sampler_logprobs: Tensor
    """(N, L) by the sampler, after the temperature."""
    temperature: float = 1.0
    cap: int = 0
    """Most tokens a response may have; 0 takes the longest of them."""
    version: int | None = None
    """Optimiser steps that the policy had made when it drew them; None takes those made when they are prepared."""
    parts: dict[str, Tensor] = field(default_factory=dict)
    """(N,) raw reward parts by source, for the log."""
    scores: Tensor = field(default_factory=lambda: torch.empty(0))
    """(N,) normalised training reward of each response."""
    valid: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    """(N,) bool: False where the reward could not be had; such rows are left out everywhere."""
    old_logprobs: Tensor = field(default_factory=lambda: torch.empty(0))
    ref_logprobs: Tensor = field(default_factory=lambda: torch.empty(0))
    values: Tensor = field(default_factory=lambda: torch.empty(0))
    end_values: Tensor = field(default_factory=lambda: torch.empty(0))
    """(N,) value after the last token, for responses that the cap cut."""
    rewards: Tensor = field(default_factory=lambda: torch.empty(0))
    advantages: Tensor = field(default_factory=lambda: torch.empty(0))
    returns: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def lengths(self) -> Tensor:
        """(N,) tokens of each response, the end token included."""
        return torch.tensor([len(response) for response in self.responses])

    @property
    def loss_mask(self) -> Tensor:
        """(N, L) bool, True at real actions of valid rows: from recorded lengths, never from comparing ids."""
        mask = length_mask(self.lengths)
        return mask & self.valid[:, None] if len(self.valid) else mask

    def batches(self, indices: Sequence[int] | None = None, max_tokens: int = 4096) -> Iterator[ResponseBatch]:
        """All responses, or those named, packed for a forward pass; `responses` of a batch index this rollout."""
        chosen = list(range(len(self.responses))) if indices is None else list(indices)
        prompt_of, responses = [self.prompt_of[i] for i in chosen], [self.responses[i] for i in chosen]
        for batch in response_batches(self.prompts, responses, prompt_of, max_tokens):
            yield ResponseBatch(**(vars(batch) | {"responses": torch.tensor(chosen)[batch.responses]}))


def sample_rollout(
    policy: Decoder,
    prompts: list[list[int]],
    prompt_ids: Sequence[str],
    *,
    samples_per_prompt: int,
    seed: int,
    step: int,
    max_new_tokens: int,
    eos_id: int,
    temperature: float = 1.0,
    batch_size: int = 256,
) -> Rollout:
    """Sample from the policy with full support; every draw is a function of (seed, step, prompt id, sample).

    Each rank samples for its share of the prompts, from a policy that is whole; the rollout is the same on all.
    """

    def draw(mine: list[int]) -> list[list[tuple[list[int], list[float], bool]]]:
        samples = generate(
            policy,
            [prompts[index] for index in mine for _ in range(samples_per_prompt)],
            seeds=[
                derive_seed(seed, "rollout", step, prompt_ids[index], sample)
                for index in mine
                for sample in range(samples_per_prompt)
            ],
            max_new_tokens=max_new_tokens,
            stop_ids=[eos_id],
            temperature=temperature,
            batch_size=batch_size,
        )
        drawn = [(sample.ids, sample.logprobs, sample.finish == "stop") for sample in samples]
        return [drawn[at : at + samples_per_prompt] for at in range(0, len(drawn), samples_per_prompt)]

    drawn = [each for group in shared(len(prompts), draw) for each in group]
    lengths = torch.tensor([len(ids) for ids, _, _ in drawn])
    logprobs = torch.zeros(len(drawn), int(lengths.max()))
    logprobs[length_mask(lengths)] = torch.tensor([value for _, values, _ in drawn for value in values])
    finished = torch.tensor([ended for _, _, ended in drawn])
    owners = [index for index in range(len(prompts)) for _ in range(samples_per_prompt)]
    responses = [ids for ids, _, _ in drawn]
    return Rollout(prompts, responses, owners, finished, logprobs, temperature, cap=max_new_tokens)


def response_logprobs(model: Decoder, batch: ResponseBatch, temperature: float) -> Tensor:
    """(M,) log-probability of every response token, differentiable; only their positions meet the head."""
    hidden = model.hidden_at(batch.predictors, batch.ids, batch.positions, batch.branches)
    weight = model.head_weight.to(hidden.dtype)
    return -linear_cross_entropy(hidden, weight, batch.targets, temperature=temperature)


def response_values(critic: Scorer, batch: ResponseBatch) -> Tensor:
    """(M,) value of the state before every response token, differentiable."""
    return critic.scores(critic.hidden_at(batch.predictors, batch.ids, batch.positions, batch.branches))


@torch.no_grad()
def end_values(critic: Scorer, rollout: Rollout, max_tokens: int = 4096) -> Tensor:
    """(N,) the critic's value of the state after each response's last token."""
    out = torch.zeros(len(rollout.responses))
    for batch in _own(rollout, max_tokens):
        rows = batch.to(critic.device)
        hidden = critic.hidden_at(rows.last, rows.ids, rows.positions, rows.branches)
        out[batch.responses] = critic.scores(hidden).float().cpu()
    return add_up(out)


@torch.no_grad()
def over_rollout(
    rollout: Rollout, forward: Callable[[ResponseBatch], Tensor], device: torch.device, max_tokens: int = 4096
) -> Tensor:
    """Run a forward pass over the whole rollout; (N, L) on the CPU, zeros beyond each response's end.

    Each rank runs its share of the batches, on a model that is whole.
    """
    width = int(rollout.lengths.max())
    out = torch.zeros(len(rollout.responses), width)
    for batch in _own(rollout, max_tokens):
        out[batch.responses] = batch.spread(forward(batch.to(device)).float().cpu(), width)
    return add_up(out)


def _own(rollout: Rollout, max_tokens: int) -> list[ResponseBatch]:
    return list(rollout.batches(max_tokens=max_tokens))[rank() :: world()]
