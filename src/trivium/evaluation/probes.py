"""Does a reward model see what it must? Good answers against damaged copies of themselves.

Accuracy on pairs that were sampled says little about answers that were not; these damages are ones that every reward
model should notice, and that a policy under pressure drifts towards when it does not.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from trivium.base.seeding import python_rng
from trivium.evaluation.intervals import share_interval
from trivium.rewards.model import RewardModel
from trivium.tokenizer import Tokenizer

FLIPS = {
    "+": "-", "-": "+", "*": "+", "//": "*", "/": "*", "%": "//",
    "==": "!=", "!=": "==", "<": ">=", ">": "<=", "<=": ">", ">=": "<", "and": "or", "or": "and", "not in": "in",
}  # fmt: skip
_OPERATOR = re.compile(r" (\+|-|\*|//|/|%|==|!=|<=|>=|<|>|and|or|not in) ")


def flip_operator(text: str) -> str | None:
    """The text with its first spaced binary operator turned into another; None where it has none."""
    found = _OPERATOR.search(text)
    if found is None:
        return None
    return f"{text[: found.start(1)]}{FLIPS[found.group(1)]}{text[found.end(1) :]}"


def probe_reward_model(
    model: RewardModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], seed: int
) -> dict[str, dict[str, Any]]:
    """How often each answer scores above a damaged copy of itself.

    - `shuffled`: its tokens in another order, the end token kept last.
    - `truncated`: its first half, ended.
    - `empty`: the end token alone.
    - `prompt_swapped`: the same answer to another prompt.
    - `operator_flipped`: code with its first binary operator turned into another.

    Args:
        prompts: token ids, one list an answer.
        answers: token ids of good answers, the end token included.
        seed: of the shuffles and swaps.
    Returns:
        Per probe `accuracy` (equal scores count half), its 95% interval `accuracy_ci`, and `n`; a probe that fits no
        answer is left out.
    """
    own = model.raw_scores(prompts, answers, range(len(answers)))
    rng = python_rng(seed, "probes")
    damages: dict[str, Callable[[int], tuple[Sequence[int], Sequence[int]] | None]] = {
        "shuffled": lambda index: _with(prompts[index], _shuffle(answers[index], rng.sample)),
        "truncated": lambda index: _with(prompts[index], _truncate(answers[index])),
        "empty": lambda index: _with(prompts[index], list(answers[index][-1:])),
        "prompt_swapped": lambda index: _with(_other(prompts, index, rng.randrange), list(answers[index])),
        "operator_flipped": lambda index: _with(prompts[index], _flip(answers[index], model.tokenizer)),
    }
    figures = {}
    for name, damage in damages.items():
        made = {index: pair for index in range(len(answers)) if (pair := damage(index)) is not None}
        kept = {i: pair for i, pair in made.items() if pair != (list(prompts[i]), list(answers[i]))}
        if kept:
            spoilt = model.raw_scores([p for p, _ in kept.values()], [a for _, a in kept.values()], range(len(kept)))
            gaps = (own[list(kept)] - spoilt).tolist()
            interval = share_interval([1.0 if gap > 0 else 0.5 * (gap == 0) for gap in gaps])
            figures[name] = {"accuracy": interval.value, "accuracy_ci": interval.bounds, "n": len(kept)}
    return figures


def _with(prompt: Sequence[int] | None, answer: list[int] | None) -> tuple[list[int], list[int]] | None:
    return None if prompt is None or answer is None else (list(prompt), answer)


def _shuffle(answer: Sequence[int], sample: Callable[..., list[int]]) -> list[int]:
    return [*sample(list(answer[:-1]), len(answer) - 1), answer[-1]]


def _truncate(answer: Sequence[int]) -> list[int] | None:
    return [*answer[: (len(answer) - 1) // 2], answer[-1]] if len(answer) > 2 else None


def _other(prompts: Sequence[Sequence[int]], index: int, draw: Callable[[int], int]) -> Sequence[int] | None:
    others = [prompt for prompt in prompts if list(prompt) != list(prompts[index])]
    return others[draw(len(others))] if others else None


def _flip(answer: Sequence[int], tokenizer: Tokenizer) -> list[int] | None:
    flipped = flip_operator(tokenizer.decode(list(answer[:-1])))
    return None if flipped is None else [*tokenizer.encode(flipped), answer[-1]]
