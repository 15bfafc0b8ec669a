"""What `trivium prefs label` asks first: reward models and families of tasks for `preferences.acquisition`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivium.base.errors import DataError
from trivium.base.log import say
from trivium.preferences.acquisition import ScoreAll, Scores, Strategy, check_strategy, prioritise
from trivium.preferences.comparisons import Comparison
from trivium.preferences.judgement import prompt_text
from trivium.preferences.store import PreferenceStore


@dataclass(frozen=True)
class Question:
    """A strategy with what it goes by."""

    strategy: Strategy
    models: Sequence[ScoreAll] = ()
    families: Mapping[str, str] | None = None


def read_question(strategy: Strategy, folders: Sequence[Path], tasks: Callable[[], Iterable[Any]] | None) -> Question:
    """Load what a strategy needs, so that nothing is written where that is missing.

    Args:
        folders: reward models, of an ensemble all its members; used by `uncertainty` and `disagreement`.
        tasks: the run's tasks; used by `family`.
    Raises:
        DataError, ModelError: there are no such models, or no tasks.
    """
    models = [scores for folder in folders for scores in member_scores(folder)] if strategy in BY_MODELS else []
    families = {task.id: task.family for task in tasks()} if strategy == "family" and tasks is not None else None
    check_strategy(strategy, len(models), families)
    return Question(strategy, models, families)


def ask_first(store: PreferenceStore, question: Question, owner: str) -> None:
    """Order the store's comparisons, and say so."""
    strategy, models = question.strategy, question.models
    count = prioritise(store, strategy, models, question.families, by=owner)
    if strategy == "random":
        say("comparisons are asked in random order")
        return
    say(f"{count} comparisons are asked by {strategy}" + (f" of {len(models)} reward models" if models else ""))


BY_MODELS = ("uncertainty", "disagreement")


def member_scores(folder: Path) -> list[ScoreAll]:
    """The raw scores of each member of an ensemble; of the model alone where it is one."""
    from trivium.rewards.model import member_folders

    return [reward_scores(each) for each in member_folders(folder)]


def reward_scores(folder: Path) -> ScoreAll:
    """The raw scores of a reward model's directory."""
    from trivium.rewards import RewardModel
    from trivium.stages.judging import encode_answer, encode_prompt

    model = RewardModel.load(folder)
    tokenizer = model.tokenizer

    def scores(comparisons: Sequence[Comparison]) -> list[Scores]:
        prompts = [encode_prompt(tokenizer, prompt_text(comparison.prompt)) for comparison in comparisons]
        answers = [
            encode_answer(tokenizer, sample.text, sample.ids)
            for comparison in comparisons
            for sample in comparison.samples
        ]
        if answers and max(map(max, answers)) >= tokenizer.vocab_size:
            raise DataError(f"{folder} does not know all token ids of the answers: it is of another tokenizer.")
        owners = [at for at, comparison in enumerate(comparisons) for _ in comparison.samples]
        found = model.raw_scores(prompts, answers, owners)
        return [part.tolist() for part in found.split([len(comparison.samples) for comparison in comparisons])]

    return scores
