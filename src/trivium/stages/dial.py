"""The size dial: what follows from `model.depth` beyond the model's shape, wherever a recipe does not give it.

docs/pretrain.md has the rules in words, docs/studies/pretraining.md the curves behind them.
"""

import math
from collections.abc import Iterator
from functools import reduce
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivium.stages.pipeline import Recipe

Place = tuple[str, ...]
"""Sections and a field of a recipe."""

RATES = (
    ("pretrain", "optim", "lr"),
    ("sft", "optim", "lr"),
    ("reward", "optim", "lr"),
    ("rl", "learner", "optim", "lr"),
)
"""Learning rates of AdamW, which fall with the width. Muon's do not: its updates are orthogonal at any width."""
PRETRAIN_FACTOR = 8.0
"""On pretraining's beside that: the default recipe's is far below the best (docs/studies/pretraining.md)."""
BASE_WIDTH = 128
"""The width for which the defaults of these rates are made."""
BASE_TOKENS, BASE_BATCH_TOKENS = 737_280, 8_192
"""Tokens of the default pretraining, and of a step of it."""
BATCH_EXPONENT = 0.38
"""Of the best batch against the tokens of the whole training (Bergsma et al. 2025, arXiv:2505.13738)."""
TOKENS_PER_PARAMETER = 20.0
"""Length of a training that spends its compute best (Hoffmann et al. 2022, arXiv:2203.15556)."""


def width_factor(d_model: int) -> float:
    """Factor on AdamW's learning rates at a width."""
    return (BASE_WIDTH / d_model) ** 0.5


def batch_rows(tokens: float, seq_len: int) -> int:
    """Rows of a step of a training on so many tokens: the nearest power of two, at least 8."""
    rows = BASE_BATCH_TOKENS * (tokens / BASE_TOKENS) ** BATCH_EXPONENT / seq_len
    return 2 ** max(3, round(math.log2(rows)))


def steps_of(tokens: float, batch_size: int, seq_len: int) -> int:
    """Optimiser steps that see so many tokens."""
    return max(1, round(tokens / (batch_size * seq_len)))


def implied(recipe: "Recipe") -> dict[str, Any]:
    """What `model.depth`, and `pretrain.tokens_per_parameter` without it, set, as a recipe's tables."""
    shape, pretrain = recipe.model, recipe.pretrain
    found: dict[str, Any] = {}
    if shape.depth is not None:
        plain, factor = type(recipe)(), width_factor(shape.d_model)
        for path in RATES:
            rate = _at(plain, path) * factor * (PRETRAIN_FACTOR if path[0] == "pretrain" else 1.0)
            _put(found, path, float(f"{rate:.3g}"))
        tokens = _tokens(recipe)
        _put(found, ("pretrain", "tokens_per_parameter"), TOKENS_PER_PARAMETER)
        _put(found, ("pretrain", "batch_size"), batch_rows(tokens, pretrain.seq_len))
    if shape.depth is not None or pretrain.tokens_per_parameter is not None:
        _put(found, ("pretrain", "steps"), steps_of(_tokens(recipe), pretrain.batch_size, pretrain.seq_len))
    return found


def told(recipe: "Recipe") -> str:
    """What the dial came to, and what the recipe has otherwise, in a line."""
    shape, pretrain = recipe.model, recipe.pretrain
    tokens = pretrain.steps * pretrain.batch_size * pretrain.seq_len
    line = (
        f"model.depth = {shape.depth}: {shape.n_layers} layers of width {shape.d_model}, {recipe.parameter_count:,} "
        f"parameters; {pretrain.steps:,} steps of {pretrain.batch_size} x {pretrain.seq_len} tokens, "
        f"{tokens / recipe.parameter_count:.3g} a parameter; AdamW's rate {pretrain.optim.lr:g}"
    )
    others = ", ".join(".".join(path) for path, value in _leaves(_set_by_depth(recipe)) if _at(recipe, path) != value)
    return f"{line}; given otherwise: {others}" if others else line


def _set_by_depth(recipe: "Recipe") -> dict[str, Any]:
    shape = type(recipe.model)(depth=recipe.model.depth)
    return {"model": {"n_layers": shape.n_layers, "d_model": shape.d_model}} | implied(recipe)


def _tokens(recipe: "Recipe") -> float:
    """Of pretraining, as the dial has it."""
    return (recipe.pretrain.tokens_per_parameter or TOKENS_PER_PARAMETER) * recipe.parameter_count


def _at(config: Any, path: Place) -> Any:
    return reduce(getattr, path, config)


def _put(table: dict[str, Any], path: Place, value: Any) -> None:
    for part in path[:-1]:
        table = table.setdefault(part, {})
    table[path[-1]] = value


def _leaves(table: dict[str, Any], above: Place = ()) -> Iterator[tuple[Place, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value
