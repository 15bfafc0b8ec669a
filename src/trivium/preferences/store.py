"""Prompts, sampled completions and append-only judgements: `preferences.db`, or a PostgreSQL database by URL.

Rows are named by the hash of their content, so adding them again changes nothing: a collection that was killed and
starts over neither loses nor doubles any.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Self

from trivium.base.errors import DataError
from trivium.preferences.database import Row, open_database
from trivium.preferences.judgement import (
    CHECK_SOURCE,
    HELDOUT_FRACTION,
    Judgement,
    Prompt,
    Sample,
    content_id,
    judged_pairs,
)
from trivium.preferences.rows import (
    StoredJudgement,
    StoredPrompt,
    StoredSample,
    compact_json,
    judgement_content,
    prompt_of,
    prompt_row,
    sample_of,
    sample_row,
    stored_judgement,
    where_clause,
)
from trivium.preferences.schema import MIGRATIONS, migrate
from trivium.records import Preference

_ACTIVE = """
    NOT EXISTS (SELECT 1 FROM judgements AS newer WHERE newer.supersedes = judgements.id)
    AND EXISTS (SELECT 1 FROM rankings WHERE judgement = judgements.id AND tier IS NOT NULL)
"""
_JUDGED = "judgements.*, text, messages, split FROM judgements JOIN prompts ON prompts.id = judgements.prompt"
_CHUNK = 500


@dataclass(frozen=True)
class Added:
    """What became of the judgements given to the store."""

    keys: tuple[str, ...]
    """One per judgement, in order."""
    new: int
    duplicates: int
    """Judgements that the store held already, or that came twice."""
    kept_split: int
    """Judgements whose record asked for another split than the one their prompt is in already."""


class PreferenceStore:
    """The preferences of one run, or of a team.

    Args:
        location: the SQLite file, `:memory:`, or a `postgresql://` URL.
        create: False refuses a place that holds no preferences yet.
        heldout_fraction: share of prompts held out; applies to prompts as they are added.
    Raises:
        DataError: the place is missing, cannot be reached, or holds something else than preferences of a known version.
        RunDirError: another process has kept the file locked.
    """

    def __init__(self, location: Path | str, *, create: bool = True, heldout_fraction: float = HELDOUT_FRACTION):
        if not 0 <= heldout_fraction < 1:
            raise DataError(f"heldout_fraction is {heldout_fraction}; it must be at least 0 and below 1.")
        self.heldout_fraction = heldout_fraction
        self.db = open_database(location, create=create)
        self.path = self.db.name
        try:
            with self.db.explained():
                found = migrate(self.db)
            if found > len(MIGRATIONS):
                raise DataError(
                    f"{self.path} has version {found}, this release knows {len(MIGRATIONS)}. "
                    "Use the release that wrote it."
                )
        except BaseException:
            self.db.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside happen together or not at all; inside another transaction, they join it."""
        with self.db.transaction():
            yield

    # Writing

    def add_prompt(self, prompt: Prompt, task: str = "", split: str = "") -> str:
        """Add one prompt; see `add_prompts`."""
        return self.add_prompts([(prompt, task, split)])[0]

    def add_prompts(self, prompts: Iterable[tuple[Prompt, str, str]]) -> list[str]:
        """Add (prompt, task id, split) triples; an empty split is decided by the prompt's hash.

        A prompt that is there already keeps its task and split.

        Returns:
            The prompts' names, in order.
        """
        rows = [prompt_row(*each, self.heldout_fraction) for each in prompts]
        with self.transaction():
            self.db.execute_many("INSERT INTO prompts VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING", rows)
        return [row[0] for row in rows]

    def add_samples(self, samples: Iterable[tuple[str, Sample]]) -> list[str]:
        """Add (prompt id, sample) pairs in one transaction; a known sample takes on the outcome given now.

        Returns:
            The samples' names, in order.
        """
        rows = [sample_row(prompt_id, sample) for prompt_id, sample in samples]
        with self.transaction():
            self._write_samples(rows)
        return [row[0] for row in rows]

    def add_judgement(self, judgement: Judgement) -> str:
        """Add one judgement; its name in the store."""
        return self.add_judgements([judgement]).keys[0]

    def add_judgements(self, judgements: Iterable[Judgement]) -> Added:
        """Add judgements with their prompts and completions: all of them, or none if anything fails.

        Raises:
            DataError: `supersedes` names no judgement of that prompt, or one that has been replaced already.
        """
        keys: list[str] = []
        new = kept_split = 0
        remaining = iter(judgements)
        with self.transaction():
            while chunk := list(islice(remaining, _CHUNK)):
                added, kept = self._write_judgements(chunk, keys)
                new, kept_split = new + added, kept_split + kept
        return Added(tuple(keys), new, len(keys) - new, kept_split)

    def _write_samples(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self.db.execute_many(
            """
            INSERT INTO completions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (id) DO UPDATE SET
                passed = excluded.passed, tests_passed = excluded.tests_passed,
                tests_total = excluded.tests_total, verdict = excluded.verdict
            WHERE excluded.passed IS NOT NULL OR (completions.passed IS NULL AND excluded.verdict != '')
            """,
            rows,
        )

    def _write_judgements(self, chunk: Sequence[Judgement], keys: list[str]) -> tuple[int, int]:
        """Write one chunk, append its names to `keys`; (judgements new, judgements whose split was not taken)."""
        names = self.add_prompts((judgement.prompt, "", judgement.split) for judgement in chunk)
        wished = [(name, judgement.split) for name, judgement in zip(names, chunk, strict=True) if judgement.split]
        kept = sum(self.db.value("SELECT split FROM prompts WHERE id = ?", (name,)) != split for name, split in wished)
        new, now = 0, datetime.now(UTC).isoformat(timespec="milliseconds")
        samples = [[sample_row(name, each) for each in j.completions] for name, j in zip(names, chunk, strict=True)]
        self._write_samples([row for rows in samples for row in rows])
        for name, judgement, rows in zip(names, chunk, samples, strict=True):
            key, is_new = self._insert_judgement(name, judgement, [row[0] for row in rows], now)
            keys.append(key)
            new += is_new
        return new, kept

    def _insert_judgement(self, name: str, judgement: Judgement, samples: list[str], now: str) -> tuple[str, bool]:
        """Add the judgement unless its content is there; its key, and whether it is new.

        An edit may return to what was said before: with `supersedes`, only the same edit counts as there.
        """
        content = judgement_content(name, judgement, samples)
        key = content_id(content, judgement.supersedes) if judgement.supersedes else content
        column, value = ("id", key) if judgement.supersedes else ("content", content)
        if found := self.db.row(f"SELECT id FROM judgements WHERE {column} = ?", (value,)):
            return found["id"], False
        if judgement.supersedes:
            self._check_superseded(name, judgement.supersedes)
        row = (
            *(key, content, name, judgement.id, judgement.annotator, judgement.source, judgement.round),
            *(judgement.margin, judgement.agreement, judgement.comment, compact_json(judgement.details)),
            *(now, judgement.supersedes or None),
        )
        self.db.execute(f"INSERT INTO judgements VALUES ({', '.join('?' * len(row))})", row)
        self.db.execute_many(
            "INSERT INTO rankings VALUES (?, ?, ?, ?)",
            [(key, at, sample, tier) for at, (sample, tier) in enumerate(zip(samples, judgement.tiers, strict=True))],
        )
        return key, True

    def _check_superseded(self, name: str, older: str) -> None:
        found = self.db.row("SELECT prompt FROM judgements WHERE id = ?", (older,))
        if found is None or found["prompt"] != name:
            raise DataError(f"supersedes names {older!r}, which is no judgement of this prompt in {self.path}.")
        newer = self.db.row("SELECT id FROM judgements WHERE supersedes = ?", (older,))
        if newer is not None:
            raise DataError(f"Judgement {older} has been replaced by {newer['id']} already. Supersede that one.")

    # Reading

    def prompts(self, split: str | None = None) -> list[StoredPrompt]:
        """All prompts, or those of one split, in the order of their text."""
        where, values = where_clause(split=split)
        rows = self.db.rows(f"SELECT id, text, messages, task, split FROM prompts {where} ORDER BY text, id", values)
        return [StoredPrompt(row["id"], prompt_of(row), row["task"], row["split"]) for row in rows]

    def completions(
        self, prompt_id: str | None = None, *, round: int | None = None, model: str | None = None
    ) -> list[StoredSample]:
        """Completions by prompt, round, model and sample index; of one prompt, round or model where given."""
        where, values = where_clause(prompt=prompt_id, round=round, model=model)
        rows = self.db.rows(f"SELECT * FROM completions {where} ORDER BY prompt, round, model, sample, id", values)
        with self.db.explained():
            return [StoredSample(row["id"], row["prompt"], sample_of(row)) for row in rows]

    def sampled(self, model: str, round: int) -> dict[str, set[int]]:
        """Prompt id → the sample indices that are there: what a resumed collection need not sample again."""
        found: dict[str, set[int]] = {}
        for row in self.db.rows("SELECT prompt, sample FROM completions WHERE model = ? AND round = ?", (model, round)):
            found.setdefault(row["prompt"], set()).add(row["sample"])
        return found

    def unjudged(self, source: str, round: int) -> list[str]:
        """Prompts with at least two completions of `round` and no judgement of `source` in that round."""
        rows = self.db.rows(
            """
            SELECT prompt FROM completions WHERE round = ? GROUP BY prompt HAVING COUNT(*) > 1
            EXCEPT SELECT prompt FROM judgements WHERE round = ? AND source = ? ORDER BY prompt
            """,
            (round, round, source),
        )
        return [row["prompt"] for row in rows]

    def judgements(
        self,
        split: str | None = None,
        source: str | None = None,
        round: int | None = None,
        annotator: str | None = None,
        *,
        history: bool = False,
    ) -> Iterator[StoredJudgement]:
        """Judgements in force, ordered by prompt text, source and record id: the same order for the same content.

        Args:
            history: also those that were superseded or that retract.
        """
        where, values = where_clause(
            **{"prompts.split": split, "source": source, "round": round, "annotator": annotator},
            also="" if history else _ACTIVE,
        )
        rows = self.db.rows(f"SELECT {_JUDGED} {where} ORDER BY text, source, record, judgements.id", values)
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            ranked = self._ranked([row["id"] for row in chunk])
            for row in chunk:
                with self.db.explained():
                    stored = stored_judgement(row, ranked.get(row["id"], []))
                yield stored

    def judgement(self, key: str) -> Judgement:
        """One judgement by its name, whether in force or not.

        Raises:
            DataError: there is none of that name.
        """
        query = f"SELECT {_JUDGED} WHERE judgements.id = ?"
        row = self.db.row(query, (key,))
        if row is None:
            raise DataError(f"{self.path} has no judgement {key!r}.")
        with self.db.explained():
            return stored_judgement(row, self._ranked([key]).get(key, [])).judgement

    def pairs(
        self,
        split: str | None = None,
        source: str | None = None,
        round: int | None = None,
        counts: Counter[str] | None = None,
    ) -> Iterator[Preference]:
        """The pairs of the judgements in force, ties marked; `counts` tells what was given and left out and why."""
        for stored in self.training_judgements(split, source, round):
            yield from judged_pairs(stored.judgement, counts)

    def training_judgements(
        self, split: str | None = None, source: str | None = None, round: int | None = None
    ) -> Iterator[StoredJudgement]:
        """Judgements in force but for those that check people, unless their source is the one asked for."""
        for stored in self.judgements(split, source, round):
            if source is not None or stored.judgement.source != CHECK_SOURCE:
                yield stored

    def counts(self) -> dict[str, int]:
        """How many prompts, completions, judgements in force and judgements superseded or retracted there are."""
        tables = {name: self.db.value(f"SELECT COUNT(*) FROM {name}") for name in ("prompts", "completions")}
        every = self.db.value("SELECT COUNT(*) FROM judgements")
        active = self.db.value(f"SELECT COUNT(*) FROM judgements WHERE {_ACTIVE}")
        return {**tables, "judgements": active, "superseded": every - active}

    def fingerprint(self, through_round: int | None = None) -> str:
        """A name for the content in force: judgements, and completions with their outcomes.

        Args:
            through_round: only what a reward model of that round learns from: nothing of later rounds, no prompts
                that nobody has judged, no judgements that check people.
        """
        if through_round is None:
            scope = judged = prompts = ""
        else:
            scope = f" AND round <= {int(through_round)}"
            judged = f"{scope} AND source != '{CHECK_SOURCE}'"
            prompts = f" WHERE id IN (SELECT prompt FROM judgements WHERE {_ACTIVE}{judged})"
        queries = (
            f"SELECT id FROM judgements WHERE {_ACTIVE}{judged} ORDER BY id",
            f"SELECT id, passed, tests_passed FROM completions WHERE 1 = 1{scope} ORDER BY id",
            f"SELECT id, split FROM prompts{prompts} ORDER BY id",
        )
        return content_id(*([list(row.values()) for row in self.db.rows(query)] for query in queries))

    def _ranked(self, keys: Sequence[str]) -> dict[str, list[Row]]:
        """The rankings of some judgements, joined with the completions, in order."""
        found: dict[str, list[Row]] = {}
        for row in self.db.rows(
            f"""
            SELECT judgement, tier, completions.* FROM rankings JOIN completions ON completions.id = completion
            WHERE judgement IN ({", ".join("?" * len(keys))}) ORDER BY judgement, position
            """,
            keys,
        ):
            found.setdefault(row["judgement"], []).append(row)
        return found
