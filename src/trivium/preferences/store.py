"""`preferences.db`: prompts, sampled completions and append-only judgements in one SQLite file.

Rows are named by the hash of their content, so adding them again changes nothing: a collection that was killed and
starts over neither loses nor doubles any.
"""

import errno
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from trivium.base.errors import DataError, RunDirError
from trivium.preferences.judgement import HELDOUT_FRACTION, Judgement, Prompt, Sample, content_id, judged_pairs
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
from trivium.preferences.schema import APPLICATION_ID, MIGRATIONS, migrate
from trivium.records import Preference

_ACTIVE = """
    NOT EXISTS (SELECT 1 FROM judgements AS newer WHERE newer.supersedes = judgements.id)
    AND EXISTS (SELECT 1 FROM rankings WHERE judgement = judgements.id AND tier IS NOT NULL)
"""
_CHUNK = 1000
_DISK = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO}
"""What SQLite makes of a full or failing disk, and what it is everywhere else."""


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
    """The preferences of one run.

    Args:
        path: the SQLite file, or `:memory:`.
        create: False refuses a path that does not exist yet.
        heldout_fraction: share of prompts held out; applies to prompts as they are added.
    Raises:
        DataError: the path is missing, or holds something else than preferences of a known version.
        RunDirError: another process has kept the file locked.
    """

    def __init__(self, path: Path | str, *, create: bool = True, heldout_fraction: float = HELDOUT_FRACTION) -> None:
        if not 0 <= heldout_fraction < 1:
            raise DataError(f"heldout_fraction is {heldout_fraction}; it must be at least 0 and below 1.")
        self.path = str(path)
        self.heldout_fraction = heldout_fraction
        if self.path != ":memory:":
            if not create and not Path(path).is_file():
                raise DataError(f"{path} does not exist. Collect or import preferences first.")
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"{path} cannot be made: {error.strerror}. Name another place.") from None
        with self._explained():
            self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            try:
                self._prepare(create)
            except BaseException:
                self._db.close()
                raise

    def _prepare(self, create: bool) -> None:
        self._db.row_factory = sqlite3.Row
        kind = self._db.execute("PRAGMA application_id").fetchone()[0]
        if kind != APPLICATION_ID and self._db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            raise DataError(f"{self.path} is a database of something else. Name a new file for the preferences.")
        if kind != APPLICATION_ID and not create:
            raise DataError(f"{self.path} holds no preferences. Collect or import some first.")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # an acknowledged judgement is on disk
        self._db.execute("PRAGMA foreign_keys = ON")
        if (found := migrate(self._db)) > len(MIGRATIONS):
            raise DataError(
                f"{self.path} has version {found}, this release knows {len(MIGRATIONS)}. Use the release that wrote it."
            )

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in when no other process has it open."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside happen together or not at all; inside another transaction, they join it."""
        if self._db.in_transaction:
            yield
            return
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise RunDirError(f"{self.path} is in use by another process. Try again when it is done.") from error
            if number := _DISK.get(error.sqlite_errorcode & 0xFF):  # the lower byte is the kind
                raise OSError(number, os.strerror(number), self.path) from error
            raise DataError(f"{self.path} cannot be used: {error}. Check path and permissions.") from error
        except (json.JSONDecodeError, ValidationError):
            raise DataError(
                f"{self.path} holds a damaged record. Restore it from a copy, or name another file."
            ) from None
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{self.path} is no sound preference database: {error}. Restore it from a copy, or name another file."
            ) from error

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
            self._db.executemany("INSERT INTO prompts VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING", rows)
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
        self._db.executemany(
            """
            INSERT INTO completions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (id) DO UPDATE SET
                passed = excluded.passed, tests_passed = excluded.tests_passed,
                tests_total = excluded.tests_total, verdict = excluded.verdict
            WHERE excluded.passed IS NOT NULL OR (passed IS NULL AND excluded.verdict != '')
            """,
            rows,
        )

    def _write_judgements(self, chunk: Sequence[Judgement], keys: list[str]) -> tuple[int, int]:
        """Write one chunk, append its names to `keys`; (judgements new, judgements whose split was not taken)."""
        names = self.add_prompts((judgement.prompt, "", judgement.split) for judgement in chunk)
        wished = [(name, judgement.split) for name, judgement in zip(names, chunk, strict=True) if judgement.split]
        kept = sum(
            self._db.execute("SELECT split != ? FROM prompts WHERE id = ?", (split, name)).fetchone()[0]
            for name, split in wished
        )
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
        if found := self._db.execute(f"SELECT id FROM judgements WHERE {column} = ?", (value,)).fetchone():
            return found[0], False
        if judgement.supersedes:
            self._check_superseded(name, judgement.supersedes)
        row = (
            *(key, content, name, judgement.id, judgement.annotator, judgement.source, judgement.round),
            *(judgement.margin, judgement.agreement, judgement.comment, compact_json(judgement.details)),
            *(now, judgement.supersedes or None),
        )
        self._db.execute(f"INSERT INTO judgements VALUES ({', '.join('?' * len(row))})", row)
        self._db.executemany(
            "INSERT INTO rankings VALUES (?, ?, ?, ?)",
            [(key, at, sample, tier) for at, (sample, tier) in enumerate(zip(samples, judgement.tiers, strict=True))],
        )
        return key, True

    def _check_superseded(self, name: str, older: str) -> None:
        found = self._db.execute("SELECT prompt FROM judgements WHERE id = ?", (older,)).fetchone()
        if found is None or found[0] != name:
            raise DataError(f"supersedes names {older!r}, which is no judgement of this prompt in {self.path}.")
        newer = self._db.execute("SELECT id FROM judgements WHERE supersedes = ?", (older,)).fetchone()
        if newer is not None:
            raise DataError(f"Judgement {older} has been replaced by {newer[0]} already. Supersede that one.")

    # Reading

    def prompts(self, split: str | None = None) -> list[StoredPrompt]:
        """All prompts, or those of one split, in the order of their text."""
        where, values = where_clause(split=split)
        rows = self._read(f"SELECT id, text, messages, task, split FROM prompts {where} ORDER BY text, id", values)
        return [StoredPrompt(row["id"], prompt_of(row), row["task"], row["split"]) for row in rows]

    def completions(
        self, prompt_id: str | None = None, *, round: int | None = None, model: str | None = None
    ) -> list[StoredSample]:
        """Completions by prompt, round, model and sample index; of one prompt, round or model where given."""
        where, values = where_clause(prompt=prompt_id, round=round, model=model)
        rows = self._read(f"SELECT * FROM completions {where} ORDER BY prompt, round, model, sample, id", values)
        with self._explained():
            return [StoredSample(row["id"], row["prompt"], sample_of(row)) for row in rows]

    def sampled(self, model: str, round: int) -> dict[str, set[int]]:
        """Prompt id → the sample indices that are there: what a resumed collection need not sample again."""
        found: dict[str, set[int]] = {}
        for row in self._read("SELECT prompt, sample FROM completions WHERE model = ? AND round = ?", (model, round)):
            found.setdefault(row["prompt"], set()).add(row["sample"])
        return found

    def unjudged(self, source: str, round: int) -> list[str]:
        """Prompts with at least two completions of `round` and no judgement of `source` in that round."""
        rows = self._read(
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
        rows = self._read(
            f"""
            SELECT judgements.*, text, messages, split FROM judgements JOIN prompts ON prompts.id = judgements.prompt
            {where} ORDER BY text, source, record, judgements.id
            """,
            values,
        )
        for row in rows:
            yield self._judgement(row)

    def pairs(
        self,
        split: str | None = None,
        source: str | None = None,
        round: int | None = None,
        counts: Counter[str] | None = None,
    ) -> Iterator[Preference]:
        """The pairs of the judgements in force, ties marked; `counts` tells what was given and left out and why."""
        for stored in self.judgements(split, source, round):
            yield from judged_pairs(stored.judgement, counts)

    def counts(self) -> dict[str, int]:
        """How many prompts, completions, judgements in force and judgements superseded or retracted there are."""
        tables = {name: self._read(f"SELECT COUNT(*) FROM {name}")[0][0] for name in ("prompts", "completions")}
        every = self._read("SELECT COUNT(*) FROM judgements")[0][0]
        active = self._read(f"SELECT COUNT(*) FROM judgements WHERE {_ACTIVE}")[0][0]
        return {**tables, "judgements": active, "superseded": every - active}

    def fingerprint(self) -> str:
        """A name for the content in force: judgements, and completions with their outcomes."""
        judgements = self._read(f"SELECT id FROM judgements WHERE {_ACTIVE} ORDER BY id")
        completions = self._read("SELECT id, passed, tests_passed FROM completions ORDER BY id")
        splits = self._read("SELECT id, split FROM prompts ORDER BY id")
        return content_id(*([list(row) for row in rows] for rows in (judgements, completions, splits)))

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._explained():
            return self._db.execute(query, values).fetchall()

    def _judgement(self, row: sqlite3.Row) -> StoredJudgement:
        ranked = self._read(
            """
            SELECT tier, completions.* FROM rankings JOIN completions ON completions.id = completion
            WHERE judgement = ? ORDER BY position
            """,
            (row["id"],),
        )
        with self._explained():
            return stored_judgement(row, ranked)
