"""RLHF as plain PyTorch over transformers' Qwen3: full-width logits at every position, padded rows, bf16 autocast.

No trainer around it: what is left is the arithmetic, so it is the harder baseline.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peers import hugging_face, shape
from torch import Tensor
from turns import Work

LR = 1e-5
CLIP, KL_COEF, LAMBDA = 0.2, 0.05, 0.95


@dataclass(frozen=True)
class Amounts:
    """How much work a turn is; random ids, for what is said does not matter for speed."""

    size: str = "10M"
    prompts: int = 64
    """Of a PPO iteration, one response each, and responses of a GRPO iteration."""
    length: int = 64
    """Tokens of each prompt, and of each response."""
    epochs: int = 4
    """Of PPO over the rollout, one update each."""
    group: int = 8
    """GRPO's responses a prompt."""
    pairs: int = 32
    """Of a reward model's update, each 2 x 2 x `length` tokens: a prompt with its two answers."""
    rows: int = 8
    """Packed rows of `seq_len` tokens in an update of fine-tuning."""
    seq_len: int = 512
    steps: int = 2
    """Updates a turn of the reward model and of fine-tuning."""
    micro_rows: int = 16
    """Of a baseline's pass with a gradient. On two cores 8, 32 and 64 cost the same to a tenth."""
    device: str = "cpu"
    """What all compute on."""

    @property
    def vocab_size(self) -> int:
        """Of the models."""
        return shape(self.size).vocab_size

    def ids(self, count: int, seed: int, length: int | None = None) -> list[list[int]]:
        """`count` rows of random ids."""
        rng = random.Random(seed)
        return [[rng.randrange(self.vocab_size) for _ in range(length or self.length)] for _ in range(count)]

    def compared(self) -> tuple[list[list[int]], list[list[int]]]:
        """Chosen and rejected, each a prompt of `length` tokens and an answer of as many."""
        prompts, good, bad = (self.ids(self.pairs, seed) for seed in (4, 5, 6))
        chosen = [prompt + answer for prompt, answer in zip(prompts, good, strict=True)]
        return chosen, [prompt + answer for prompt, answer in zip(prompts, bad, strict=True)]

    def documents(self, rows: int) -> list[list[list[int]]]:
        """By row, examples whose lengths add up to `seq_len`: two to six of at least a sixteenth of it."""
        rng = random.Random(2)
        least, cut = self.seq_len // 16, []
        for row in self.ids(rows, 3, self.seq_len):
            spare = sorted(rng.randrange(self.seq_len - 6 * least) for _ in range(rng.randrange(1, 6)))
            places = [0, *(at + (number + 1) * least for number, at in enumerate(spare)), self.seq_len]
            cut.append([row[start:end] for start, end in zip(places, places[1:], strict=False)])
        return cut


def prompt_share(document: list[int]) -> int:
    """Tokens of an example's prompt, which carry no loss: a quarter."""
    return len(document) // 4


def even_share(ids: Iterable[int]) -> float:
    """GRPO's reward: something cheap that differs between responses."""
    found = [each % 2 for each in ids]
    return 1 - sum(found) / len(found)


def autocast(device: str) -> torch.autocast:
    """Products in bf16."""
    return torch.autocast(device, torch.bfloat16)


def token_logprobs(model: Any, rows: Tensor, start: int) -> Tensor:
    """(B, L) log-probabilities of the tokens from `start` on, from logits at every position."""
    with autocast(rows.device.type):
        logits = model(input_ids=rows, use_cache=False).logits
    return logits[:, start - 1 : -1].float().log_softmax(-1).gather(-1, rows[:, start:, None])[..., 0]


def token_scores(scorer: Any, rows: Tensor) -> Tensor:
    """(B, T) the scalar head's number at every token."""
    with autocast(rows.device.type):
        hidden = scorer.model(input_ids=rows, use_cache=False).last_hidden_state
        return scorer.score(hidden)[..., 0].float()


@torch.no_grad()
def respond(model: Any, prompts: Tensor, new: int) -> Tensor:
    """(B, prompt + new) rows, sampled from the whole distribution."""
    with autocast(prompts.device.type):
        return model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=new,
            do_sample=True,
            top_k=0,
            temperature=1.0,
            eos_token_id=None,
            pad_token_id=0,
        )


def surrogate(logprobs: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
    """PPO's clipped loss, mean over tokens."""
    ratio = (logprobs - old).exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()


def frozen(model: Any) -> Any:
    """A model that only speaks: its weights are bf16, so that nothing is cast."""
    return model.to(torch.bfloat16).requires_grad_(False)


def update(models: list[Any], optimizer: torch.optim.Optimizer) -> None:
    """Clip each model's gradient, step, clear."""
    for model in models:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def fused_adamw(*models: Any) -> torch.optim.Optimizer:
    """One optimiser for all their weights."""
    return torch.optim.AdamW([each for model in models for each in model.parameters()], lr=LR, fused=True)


def advantages_of(rewards: Tensor, values: Tensor) -> Tensor:
    """(B, L) generalised advantage estimates; responses have all the same length."""
    following = torch.cat((values[:, 1:], torch.zeros_like(values[:, :1])), 1)
    deltas = rewards + following - values
    found, running = torch.empty_like(deltas), deltas.new_zeros(len(deltas))
    for step in reversed(range(deltas.shape[1])):
        running = deltas[:, step] + LAMBDA * running
        found[:, step] = running
    return found


def plain_ppo(amounts: Amounts) -> Work:
    """An iteration: sample, score with all four models, GAE, `epochs` updates of policy and critic."""
    config = shape(amounts.size)
    policy, critic = (hugging_face(config, kind).to(amounts.device) for kind in ("qwen3", "qwen3 scorer"))
    reference, judge = (frozen(hugging_face(config, kind).to(amounts.device)) for kind in ("qwen3", "qwen3 scorer"))
    optimizer = fused_adamw(policy, critic)
    prompts = torch.tensor(amounts.ids(amounts.prompts, 0), device=amounts.device)
    start = prompts.shape[1]

    def work() -> float:
        rows = respond(policy, prompts, amounts.length)
        with torch.no_grad():
            old, known = token_logprobs(policy, rows, start), token_logprobs(reference, rows, start)
            values = token_scores(critic, rows)[:, start - 1 : -1]
            rewards = -KL_COEF * (old - known)
            rewards[:, -1] += token_scores(judge, rows)[:, -1]
            advantages = advantages_of(rewards, values)
            returns = advantages + values
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        for _ in range(amounts.epochs):
            for part in torch.randperm(len(rows)).split(amounts.micro_rows):
                now = token_scores(critic, rows[part])[:, start - 1 : -1]
                near = values[part] + (now - values[part]).clamp(-CLIP, CLIP)
                error = torch.maximum((now - returns[part]) ** 2, (near - returns[part]) ** 2).mean() / 2
                loss = surrogate(token_logprobs(policy, rows[part], start), old[part], advantages[part])
                ((loss + error) * len(part) / len(rows)).backward()
            update([policy, critic], optimizer)
        return len(rows)

    return work


def plain_grpo(amounts: Amounts) -> Work:
    """An iteration: sample, rewards centred and scaled by group, one update."""
    policy = hugging_face(shape(amounts.size), "qwen3")
    optimizer = fused_adamw(policy)
    prompts = torch.tensor(amounts.ids(amounts.prompts // amounts.group, 0)).repeat_interleave(amounts.group, 0)
    start = prompts.shape[1]

    def work() -> float:
        rows = respond(policy, prompts, amounts.length)
        rewards = torch.tensor([even_share(row) for row in rows[:, start:].tolist()]).view(-1, amounts.group)
        scaled = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        for part in torch.arange(len(rows)).split(amounts.micro_rows):
            logprobs = token_logprobs(policy, rows[part], start)
            loss = surrogate(logprobs, logprobs.detach(), scaled.flatten()[part, None])
            (loss * len(part) / len(rows)).backward()
        update([policy], optimizer)
        return len(rows)

    return work


def plain_reward(amounts: Amounts) -> Work:
    """Bradley-Terry at the last token; chosen and rejected are rows of their own, the prompt in both."""
    scorer = hugging_face(shape(amounts.size), "qwen3 scorer")
    optimizer = fused_adamw(scorer)
    chosen, rejected = (torch.tensor(rows) for rows in amounts.compared())

    def work() -> float:
        for _ in range(amounts.steps):
            for at in range(0, amounts.pairs, amounts.micro_rows // 2):
                part = slice(at, at + amounts.micro_rows // 2)
                good, bad = token_scores(scorer, torch.cat((chosen[part], rejected[part])))[:, -1].chunk(2)
                (-F.logsigmoid(good - bad).sum() / amounts.pairs).backward()
            update([scorer], optimizer)
        return amounts.steps * amounts.pairs

    return work
