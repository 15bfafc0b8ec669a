"""What the user gave is read and measured before anything is trained: a mistake is told at once, not after an hour."""

from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from trivium.base.errors import ConfigError, DataError
from trivium.base.log import warn
from trivium.data.drops import Drops
from trivium.data.examples import ExampleLoader
from trivium.model import load_model
from trivium.preferences.formats import import_preferences
from trivium.preferences.pairs import ranked_from_store
from trivium.preferences.store import PreferenceStore
from trivium.sandbox import Sandbox
from trivium.stages.judging import encode_prompt
from trivium.stages.sft import split_examples
from trivium.stages.tasks import TaskConfig
from trivium.tasks.check import check_completions
from trivium.tokenizer import Tokenizer

if TYPE_CHECKING:
    from trivium.stages.pipeline import Recipe

TRAINING_BYTES = 16
"""Of each parameter: weight, gradient and the optimiser's two moments in fp32."""


def check_inputs(recipe: "Recipe", to_come: set[str]) -> None:
    """Read the files that the stages to come will read, and the parent of M1.

    Args:
        to_come: names of the stages that are not done yet.
    Raises:
        ConfigError: the model does not fit the memory, or a length does not fit the parent.
        DataError: a file is missing, or a record is bad.
        ModelError: the parent is no model directory.
    """
    if "pretrain" in to_come:
        _check_memory(recipe)
    if "sft" in to_come and recipe.sft.parent:
        parent = Path(recipe.sft.parent)
        config = load_model(parent).config
        Tokenizer.load(parent).check_fits(config.vocab_size)
        if problem := recipe.too_long(config.max_seq_len, f"the context of {parent}"):
            raise ConfigError(f"{problem}.")
        if problem := recipe.too_wide(config):
            raise ConfigError(f"{problem}.")
    if to_come & {"sft", "rl", "evaluate"} and recipe.sft.path:
        split_examples(recipe.sft, recipe.seed, Drops(recipe.sft.on_error))
    if to_come & {"rl", "evaluate"}:
        for part in recipe.rl.rewards:
            part.check()
    if "collect" in to_come and recipe.collect.path:
        _check_preferences(recipe)
    sets = {tasks.path: tasks for _, tasks in _task_sets(recipe, to_come) if tasks.path}
    for tasks in sets.values():
        _check_solutions(recipe, tasks)


def check_lengths(recipe: "Recipe", to_come: set[str], tokenizer: Tokenizer, limit: int) -> None:
    """Whether examples and prompts, now that they can be counted in tokens, fit rows and model.

    Raises:
        DataError: one does not; named with its tokens and the limit.
    """
    if "sft" in to_come and recipe.sft.path:
        config, drops = recipe.sft, Drops(recipe.sft.on_error)
        train, held = split_examples(config, recipe.seed, drops)
        for examples in (train, held) if held else (train,):
            ExampleLoader(examples, tokenizer, config.seq_len, config.batch_size, recipe.seed, drops)
    for name, tasks in _task_sets(recipe, to_come):
        if name == "evaluate":  # leaves out what does not fit, and says so
            continue
        sample = tasks if tasks.path else tasks.model_copy(update={"count": min(tasks.count, 64)})
        for task in sample.load(recipe.seed, "preflight", "train"):
            if (size := len(encode_prompt(tokenizer, task.prompt))) >= limit:
                raise DataError(
                    f"{tasks.path or f'{name}.tasks'}: the prompt of task {task.id!r} has {size} tokens, but the "
                    f"model's context is {limit}. Leave it out, or raise model.max_seq_len."
                )


def _task_sets(recipe: "Recipe", to_come: set[str]) -> list[tuple[str, TaskConfig]]:
    """The tasks that the stages to come draw from; imported comparisons need none to be collected on."""
    sets = {"reward": recipe.reward.tasks, "rl": recipe.rl.tasks, "evaluate": recipe.evaluate.tasks}
    if not recipe.collect.path:
        sets = {"collect": recipe.collect.tasks, **sets}
    return [(name, tasks) for name, tasks in sets.items() if name in to_come]


def _check_solutions(recipe: "Recipe", config: TaskConfig) -> None:
    """A task that its own solution fails cannot be passed by anybody."""
    tasks = [task for task in config.load(recipe.seed, "preflight", "train") if task.solution]
    if not tasks:
        return
    with Sandbox(workers=recipe.sandbox.workers, minimum=recipe.sandbox.minimum) as sandbox:
        outcomes = check_completions(tasks, [task.solution for task in tasks], sandbox)
    failing = [(task, found) for task, found in zip(tasks, outcomes, strict=True) if found.passed is False]
    if failing:
        task, found = failing[0]
        more = f" and {len(failing) - 1} more" if len(failing) > 1 else ""
        reason = found.message or found.reason or found.verdict
        problem = f"{config.path}: the solution of task {task.id!r}{more} does not pass its tests ({reason})"
        if config.on_error == "stop":
            raise DataError(f'{problem}. Correct the task, or use it all the same with on_error = "skip".')
        warn(problem)


def _check_preferences(recipe: "Recipe") -> None:
    config = recipe.collect
    with PreferenceStore(":memory:", heldout_fraction=config.heldout_fraction) as store:
        report = import_preferences(Path(config.path), store, config.on_error)
        if not ranked_from_store(store, "train"):
            held = store.counts()["prompts"] - len(store.prompts("train"))
            raise DataError(
                f"{config.path} holds no comparison to train R on: {report.lines()[-1 if not report.ignored else 1]}"
                f"; {held} prompts are held out. Add pairs of a better and a worse answer."
            )


def _check_memory(recipe: "Recipe") -> None:
    if recipe.compute.device == "cuda" or torch.cuda.is_available():
        return
    parameters = recipe.parameter_count
    there = psutil.virtual_memory().total
    if parameters * TRAINING_BYTES > there:
        sizes = "model.n_layers, model.d_model" if recipe.model.depth is None else "model.depth"
        raise ConfigError(
            f"model: {parameters:,} parameters take {parameters * TRAINING_BYTES / 2**30:,.0f} GiB to train, and this "
            f"machine has {there / 2**30:,.0f}. Lower {sizes} or tokenizer.vocab_size."
        )
