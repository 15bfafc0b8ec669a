"""Rollouts on disk, for those who want to look at, or recompute, what an update was made of."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from trivium.base.files import write_jsonl
from trivium.records import Task
from trivium.rl.rollout import Rollout

PER_TOKEN = ("sampler_logprobs", "old_logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns")


def write_rollout(folder: Path, step: int, rollout: Rollout, tasks: Sequence[Task]) -> None:
    """One file a step, `rollouts-000001.jsonl`: a step that is done again writes the same file again."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / f"rollouts-{step:06d}.jsonl", rollout_rows(step, rollout, tasks))


def rollout_rows(step: int, rollout: Rollout, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
    """A row a response; per-token figures are as long as the response, as used, and absent where there are none."""
    seen: dict[int, int] = {}
    for index, response in enumerate(rollout.responses):
        prompt = rollout.prompt_of[index]
        sample = seen[prompt] = seen.get(prompt, -1) + 1
        row: dict[str, Any] = {
            "step": step,
            "prompt_id": tasks[prompt].id,
            "sample": sample,
            "version": rollout.version,
            "ids": [*rollout.prompts[prompt], *response],
            "prompt_len": len(rollout.prompts[prompt]),
            "finish": "stop" if rollout.finished[index] else "length",
            "valid": bool(rollout.valid[index]),
            "score": rollout.scores[index].item(),
            "parts": {name: _plain(part[index]) for name, part in rollout.parts.items()},
        }
        for name in PER_TOKEN:
            figures: Tensor = getattr(rollout, name)
            if figures.dim() == 2 and len(figures) == len(rollout.responses):
                row[name] = figures[index, : len(response)].tolist()
        yield row


def _plain(value: Tensor) -> float | None:
    """A part that could not be had is null."""
    return None if value.isnan() else value.item()


def distinct_ngrams(responses: Sequence[Sequence[int]], n: int = 4) -> float:
    """Share of n-grams of token ids of all responses that differ (Li et al. 2016, arXiv:1510.03055); 1 without any."""
    grams = [tuple(ids[at : at + n]) for ids in responses for at in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
