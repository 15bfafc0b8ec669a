"""What to ask people next: priorities of comparisons by what reward models think of the answers.

A comparison teaches most where its outcome is least known. Priorities only decide the order; they bias the sample
towards hard cases, so accuracy must be measured on prompts that were not chosen by them.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from trivium.base.errors import DataError
from trivium.base.seeding import python_rng
from trivium.preferences.audit import read_settings, record, write_settings
from trivium.preferences.comparisons import Comparison, load_comparison, set_priorities
from trivium.preferences.store import PreferenceStore

Strategy = Literal["random", "uncertainty", "disagreement", "family"]
Scores = Sequence[float]
"""One reward model's raw score of each answer of a comparison, in its own order."""
ScoreAll = Callable[[Sequence[Comparison]], Sequence[Scores]]
"""A reward model: scores of the answers of each comparison."""


def win_probabilities(scores: Scores) -> np.ndarray:
    """(pairs,) P(i beats j) = sigmoid(r_i - r_j) of every pair i < j (Bradley and Terry 1952)."""
    values = np.asarray(scores, float)
    first, second = np.triu_indices(len(values), 1)
    return 1 / (1 + np.exp(np.clip(values[second] - values[first], -500, 500)))


def uncertainty(ensemble: Sequence[Scores]) -> float:
    """Mean entropy, in nats, of who wins each pair of answers under the mean of the models; largest at one half.

    Args:
        ensemble: one or more models' scores of the same answers.
    """
    p = np.clip(np.mean([win_probabilities(scores) for scores in ensemble], axis=0), 1e-12, 1 - 1e-12)
    return float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean())


def disagreement(ensemble: Sequence[Scores]) -> float:
    """What the vote would tell about the models, in nats: entropy of their mean less their mean entropy.

    This is BALD (Houlsby et al. 2011, arXiv:1112.5745) for comparisons: unlike `uncertainty`, it is small where the
    models agree that the answers are equally good. It takes two models or more.
    """
    if len(ensemble) < 2:
        raise ValueError("disagreement is between two reward models or more")
    return max(0.0, uncertainty(ensemble) - float(np.mean([uncertainty([scores]) for scores in ensemble])))


def coverage(families: Mapping[str, str], judged: Mapping[str, int], seed: int) -> dict[str, float]:
    """Priorities that bring every family of tasks level: the family with the fewest judged comparisons comes first.

    Args:
        families: comparison -> family.
        judged: family -> comparisons judged already.
        seed: decides the order within a family.
    """
    members: dict[str, list[str]] = {}
    for name in sorted(families):
        members.setdefault(families[name], []).append(name)
    priorities = {}
    for family, names in members.items():
        python_rng(seed, "coverage", family).shuffle(names)
        for at, name in enumerate(names):
            priorities[name] = -float(judged.get(family, 0) + at)
    return priorities


def prioritise(
    store: PreferenceStore,
    strategy: Strategy,
    models: Sequence[ScoreAll] = (),
    families: Mapping[str, str] | None = None,
    *,
    by: str = "",
) -> int:
    """Order what is still to be judged, and have the page ask in that order; the number of comparisons ordered.

    Args:
        strategy: `random` asks in the seeded order; `uncertainty` where P(A beats B) is nearest a half under the mean
            of `models`; `disagreement` where the models differ, with a single one `uncertainty`; `family` brings
            families of tasks level.
        models: reward models, for `uncertainty` and `disagreement`.
        families: task -> its family, for `family`; a task that is not named is of the family ''.
        by: who asks, for the audit trail.
    Raises:
        DataError: the strategy is unknown, or there is no reward model to ask.
    """
    check_strategy(strategy, len(models), families)
    order = "random" if strategy == "random" else "priority"
    priorities: dict[str, float] = {}
    if strategy == "family":
        priorities = _by_family(store, families or {})
    elif strategy != "random":
        waiting = [load_comparison(store, name) for name in _waiting(store)]
        each = [model(waiting) for model in models]
        measure = disagreement if strategy == "disagreement" and len(models) > 1 else uncertainty
        priorities = {comparison.id: measure([scores[at] for scores in each]) for at, comparison in enumerate(waiting)}
    with store.transaction():
        set_priorities(store, priorities)
        settings = read_settings(store)
        if settings.order != order:
            write_settings(store, settings.model_copy(update={"order": order}), by)
        record(store, by, "prioritise", strategy, comparisons=len(priorities), models=len(models))
    return len(priorities)


def check_strategy(strategy: str, models: int, families: Mapping[str, str] | None) -> None:
    """Refuse a strategy that is unknown or lacks what it goes by.

    Raises:
        DataError: names what is missing.
    """
    if strategy not in get_args(Strategy):
        raise DataError(f"strategy is {strategy!r}; it must be one of {', '.join(get_args(Strategy))}.")
    if strategy in ("uncertainty", "disagreement") and not models:
        raise DataError(f"asking by {strategy} needs a reward model. Train one, or ask at random or by family.")
    if strategy == "family" and not families:
        raise DataError("asking by family needs tasks with families. Ask at random or by uncertainty.")


def _waiting(store: PreferenceStore) -> list[str]:
    rows = store.db.rows(
        "SELECT id FROM comparisons WHERE active = 1 AND gold IS NULL AND judged < wanted ORDER BY place"
    )
    return [row["id"] for row in rows]


def _by_family(store: PreferenceStore, families: Mapping[str, str]) -> dict[str, float]:
    rows = store.db.rows(
        """
        SELECT comparisons.id AS name, task, judged, wanted FROM comparisons
        JOIN prompts ON prompts.id = comparisons.prompt WHERE active = 1 AND gold IS NULL
        """
    )
    waiting = {row["name"]: families.get(row["task"], "") for row in rows if row["judged"] < row["wanted"]}
    judged = Counter(families.get(row["task"], "") for row in rows if row["judged"])
    return coverage(waiting, judged, read_settings(store).seed)
