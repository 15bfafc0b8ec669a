"""What there is to compare: answers of one prompt and round, chosen by the seed and named by their content."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trivium.base.errors import DataError
from trivium.base.seeding import python_rng
from trivium.preferences.audit import now, read_settings, record
from trivium.preferences.judgement import PLAY_SOURCE, Prompt, Sample, content_id
from trivium.preferences.rows import StoredSample, compact_json, prompt_of, sample_of
from trivium.preferences.store import PreferenceStore
from trivium.preferences.votes import LabelSettings


@dataclass(frozen=True)
class Comparison:
    """Answers to one prompt that somebody is to compare, in the comparison's own order."""

    id: str
    prompt_id: str
    prompt: Prompt
    task: str
    completions: tuple[StoredSample, ...]
    gold: tuple[tuple[int, ...], ...] | None
    """The known ranking of a gold comparison."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(stored.sample for stored in self.completions)


def fill(store: PreferenceStore) -> int:
    """Make one comparison of every prompt and round that has distinct answers to compare; the number of new ones.

    Comparisons that are there already stay. Those of another size than the settings now ask for are put aside, unless
    somebody has seen them or they are gold. Answers of the playground are left out: they were judged there.
    """
    settings = read_settings(store)
    groups: dict[tuple[str, int], dict[str, StoredSample]] = {}
    for stored in store.completions():
        if stored.sample.text.strip() and not stored.sample.model.startswith(f"{PLAY_SOURCE}:"):
            groups.setdefault((stored.prompt_id, stored.sample.round), {}).setdefault(stored.sample.text, stored)
    found = []
    for (prompt, round), texts in groups.items():
        if len(texts) > 1:
            answers = sorted(texts.values(), key=lambda stored: stored.id)
            size = min(settings.completions, len(answers))
            chosen = python_rng(settings.seed, "comparison", prompt, round).sample(answers, size)
            found.append((prompt, [stored.id for stored in chosen]))
    with store.transaction():
        names = [add_comparison(store, prompt, answers, settings) for prompt, answers in found]
        _put_others_aside(store, {name for name, _ in names})
    return sum(new for _, new in names)


def add_comparison(
    store: PreferenceStore, prompt: str, completions: Sequence[str], settings: LabelSettings | None = None
) -> tuple[str, bool]:
    """Add one comparison of completions by their names; its own name, and whether it is new."""
    settings = settings or read_settings(store)
    name = content_id("comparison", prompt, list(completions))
    with store.transaction():
        if store.db.execute("UPDATE comparisons SET active = 1 WHERE id = ?", (name,)):
            return name, False
        place = f"{python_rng(settings.seed, 'place', name).getrandbits(64):016x}"
        store.db.execute(
            "INSERT INTO comparisons (id, prompt, place, wanted, created) VALUES (?, ?, ?, ?, ?)",
            (name, prompt, place, settings.wanted(name), now()),
        )
        store.db.execute_many(
            "INSERT INTO comparison_members VALUES (?, ?, ?)",
            [(name, at, completion) for at, completion in enumerate(completions)],
        )
    return name, True


def _put_others_aside(store: PreferenceStore, kept: set[str]) -> None:
    rows = store.db.rows(
        """
        SELECT id FROM comparisons WHERE active = 1 AND gold IS NULL
        AND NOT EXISTS (SELECT 1 FROM assignments WHERE comparison = comparisons.id)
        """
    )
    others = [(row["id"],) for row in rows if row["id"] not in kept]
    store.db.execute_many("UPDATE comparisons SET active = 0 WHERE id = ?", others)


def load_comparison(store: PreferenceStore, name: str) -> Comparison:
    """A comparison with its prompt and answers.

    Raises:
        DataError: there is none of that name.
    """
    row = store.db.row(
        """
        SELECT comparisons.id AS name, gold, prompt, text, messages, task FROM comparisons
        JOIN prompts ON prompts.id = comparisons.prompt WHERE comparisons.id = ?
        """,
        (name,),
    )
    if row is None:
        raise DataError(f"{store.path} has no comparison {name!r}.")
    members = store.db.rows(
        """
        SELECT completions.* FROM comparison_members JOIN completions ON completions.id = completion
        WHERE comparison = ? ORDER BY position
        """,
        (name,),
    )
    with store.db.explained():
        completions = tuple(StoredSample(each["id"], each["prompt"], sample_of(each)) for each in members)
        gold = tuple(tuple(tier) for tier in json.loads(row["gold"])) if row["gold"] else None
        return Comparison(name, row["prompt"], prompt_of(row), row["task"], completions, gold)


def set_gold(store: PreferenceStore, name: str, ranking: Sequence[Sequence[int]] | None, *, by: str) -> None:
    """Make a comparison gold, with its known ranking in its own order, or ordinary again with None."""
    comparison = load_comparison(store, name)
    indices = sorted(index for tier in ranking or () for index in tier)
    if ranking is not None and indices != list(range(len(comparison.completions))):
        raise DataError(f"a gold ranking names each of the {len(comparison.completions)} answers once.")
    with store.transaction():
        known = None if ranking is None else compact_json([sorted(tier) for tier in ranking])
        store.db.execute("UPDATE comparisons SET gold = ? WHERE id = ?", (known, name))
        record(store, by, "gold", name, ranking=None if ranking is None else json.loads(known or ""))


def set_priorities(store: PreferenceStore, priorities: Mapping[str, float] | Iterable[tuple[str, float]]) -> None:
    """Say what to ask first: comparison to a number, the largest first; used under `order = "priority"`."""
    pairs = priorities.items() if isinstance(priorities, Mapping) else priorities
    with store.transaction():
        store.db.execute_many(
            "UPDATE comparisons SET priority = ? WHERE id = ?", [(float(value), name) for name, value in pairs]
        )
