"""U(M) = alpha L_SFT + beta L_R + gamma Omega of a model, measured on its own samples of given prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trivium.base.seeding import derive_seed
from trivium.data.branches import response_batches
from trivium.data.examples import ExampleLoader
from trivium.generation import Sample, generate
from trivium.model import Decoder
from trivium.objectives.kl import exact_kl
from trivium.objectives.lm import linear_lm_loss
from trivium.objectives.utility import mean_and_se, ratio_and_se, utility_log
from trivium.records import Task
from trivium.rewards import Answers, Composite, Scored


@dataclass(frozen=True)
class Utility:
    """The logged row and what it was computed from."""

    row: dict[str, float]
    """`utility/*`: the three terms with standard errors, the weights, their sum; and the Monte Carlo KL."""
    samples: list[Sample]
    scored: Scored
    """What each response earned, before penalties."""
    rewards: Tensor
    """(N,) the full training reward of each response."""
    kl: Tensor
    """(N,) full-vocabulary KL to the reference, summed over each response, in nats."""


@torch.no_grad()
def sft_loss(model: Decoder, loader: ExampleLoader) -> tuple[float, float]:
    """L_SFT on held-out examples, mean NLL per response token in nats, and its standard error over batches' rows."""
    sums, counts = [], []
    for batch in loader.all():
        batch = batch.to(model.device)
        hidden = model.hidden(batch.ids, batch.positions)
        weight = model.head_weight.to(hidden.dtype)
        for row in range(len(batch.ids)):
            loss = linear_lm_loss(
                hidden[row : row + 1], weight, batch.ids[row : row + 1], batch.loss_mask[row : row + 1]
            )
            sums.append(loss.loss_sum.item())
            counts.append(float(loss.count))
    return ratio_and_se(torch.tensor(sums), torch.tensor(counts))


@torch.no_grad()
def response_kl(
    model: Decoder,
    reference: Decoder,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    prompt_of: Sequence[int],
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Divergence from the reference along the model's own responses.

    Returns:
        (N,) sums over each response of the full-vocabulary KL, and (N,) sums of log-ratios of the drawn tokens
        (the unbiased estimate of higher variance), in nats.
    """
    exact, sampled = torch.zeros(len(responses)), torch.zeros(len(responses))
    for batch in response_batches(prompts, responses, prompt_of):
        rows = batch.to(model.device)
        logits, ref_logits = (
            each.logits(each.hidden_at(rows.predictors, rows.ids, rows.positions, rows.branches))
            for each in (model, reference)
        )
        divergence = exact_kl(logits, ref_logits, temperature)
        picked = [
            torch.log_softmax(each / temperature, -1).gather(1, rows.targets[:, None])[:, 0]
            for each in (logits, ref_logits)
        ]
        exact[batch.responses] = rows.spread(divergence).sum(1).cpu()
        sampled[batch.responses] = rows.spread(picked[0] - picked[1]).sum(1).cpu()
    return exact, sampled


def measure_utility(
    model: Decoder,
    reference: Decoder,
    rewards: Composite,
    tasks: Sequence[Task],
    prompts: Sequence[Sequence[int]],
    examples: ExampleLoader | None,
    *,
    alpha: float,
    beta: float,
    gamma: float,
    seed: int,
    max_new_tokens: int,
    temperature: float,
    full_reward: Callable[[Tensor, Tensor, Tensor, int], Tensor],
    samples: int = 1,
) -> Utility:
    """Sample `samples` responses a prompt and measure U; the draws depend on (seed, prompt, sample) alone.

    L_R is of the full training reward; what R alone says, before penalties, is logged beside it. A response whose
    reward could not be had is left out of L_R and counted. One process measures; it asks no other rank.

    Args:
        rewards: the training reward, its statistics frozen.
        tasks: one a prompt.
        prompts: token ids.
        examples: held-out pairs for L_SFT; None logs it as 0 with weight alpha as it stands.
        full_reward: (scores, finished, lengths, cap) -> the full training reward, as in the update.
    """
    owners = [index for index in range(len(prompts)) for _ in range(samples)]
    tokenizer = rewards.tools.model.tokenizer
    drawn = generate(
        model,
        [prompts[index] for index in owners],
        seeds=[derive_seed(seed, "utility", task.id, index) for task in tasks for index in range(samples)],
        max_new_tokens=max_new_tokens,
        stop_ids=[tokenizer.eos_id],
        temperature=temperature,
    )
    responses = [sample.ids for sample in drawn]
    finished = torch.tensor([sample.finish == "stop" for sample in drawn])
    lengths = torch.tensor([len(response) for response in responses])
    scored = rewards.score(Answers(tasks, prompts, responses, tokenizer.decode_batch(responses), owners))
    full = full_reward(scored.rewards, finished, lengths, max_new_tokens)
    learned = rewards.tools.model.rewards(prompts, responses, owners)
    kl, log_ratio = response_kl(model, reference, prompts, responses, owners, temperature)
    group = torch.tensor(owners)
    terms = {
        "sft": sft_loss(model, examples) if examples is not None else (0.0, 0.0),
        "reward": mean_and_se(-full[scored.valid], group[scored.valid]),
        "omega": mean_and_se(kl, group),
    }
    row = utility_log(terms, alpha=alpha, beta=beta, gamma=gamma, n=len(responses))
    row |= {"utility/omega_sampled": log_ratio.mean().item(), "utility/temperature": temperature}
    row |= {"utility/cap": max_new_tokens, "utility/reward_model": learned.mean().item()}
    row |= {"utility/invalid": float((~scored.valid).sum())}
    return Utility(row, drawn, scored, full, kl)
