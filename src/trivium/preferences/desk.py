"""The labelling desk: who gets which comparison, and what becomes of the answers.

Everything a person is told has been done is committed before they are told. Judgements and the audit trail only grow:
undoing and editing append. One writer at a time, so two people never hold the last free place of a comparison.
"""

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from trivium.base.errors import DataError
from trivium.base.seeding import python_rng
from trivium.preferences.audit import now, read_guidelines, read_settings, record
from trivium.preferences.comparisons import Comparison, load_comparison
from trivium.preferences.database import Row
from trivium.preferences.judgement import PLAY_SOURCE, Judgement
from trivium.preferences.rows import StoredJudgement, compact_json
from trivium.preferences.store import PreferenceStore
from trivium.preferences.votes import LabelSettings, Purpose, Vote, check_criteria, judgement_of

SKIP_REASONS = {
    "unsure": "I cannot tell",
    "prompt": "The prompt makes no sense",
    "display": "It is not shown properly",
    "harmful": "I would rather not read this",
    "other": "Other",
}


class ConflictError(DataError):
    """The assignment is not in the state that was expected: voted on in another tab, or somebody else's."""


@dataclass(frozen=True)
class Assignment:
    """A comparison given to a person, in the order in which they see it."""

    id: str
    person: str
    number: int
    """Counts the person's assignments, from 1."""
    purpose: Purpose
    arrangement: tuple[int, ...]
    """The comparison's answers as shown, left to right."""
    state: Literal["open", "judged", "skipped", "released"]
    draft: dict[str, Any]
    execution_seen: bool
    judgement: str
    """Key of the judgement that says what the person said last; empty before that."""
    comparison: Comparison
    closed: str
    """When it was answered; empty before that."""

    @property
    def shown(self) -> tuple[Any, ...]:
        """The completions as shown."""
        return tuple(self.comparison.completions[index] for index in self.arrangement)


@dataclass(frozen=True)
class Receipt:
    """What has been written, once it is on disk."""

    outcome: Literal["judged", "skipped"]
    judgement: str
    repeated: bool
    """Whether this very request had been answered before."""


class LabellingDesk:
    """Gives out comparisons and takes in votes."""

    def __init__(self, store: PreferenceStore) -> None:
        self.store, self.db = store, store.db

    # Giving out

    def next(self, person: str) -> Assignment | None:
        """The person's open assignment, the same after any interruption, or a new one; None when nothing is left."""
        with self.store.transaction():
            settings = read_settings(self.store)
            query = "SELECT * FROM assignments WHERE person = ? AND state = 'open' ORDER BY number"
            for row in self.db.rows(query, (person,)):
                if row["leased_until"] > now() or self._still_wanted(row):
                    self._lease(row["id"], settings)
                    return self._assignment(row)
                self._change(row["id"], state="released", closed=now())
            return self._assign(person, settings)

    def _still_wanted(self, row: Row) -> bool:
        if row["purpose"] != "first":
            return True
        return (
            self.db.value(f"SELECT {_FREE_PLACES} AS free FROM comparisons WHERE id = ?", (now(), row["comparison"]))
            > 0
        )

    def _assign(self, person: str, settings: LabelSettings) -> Assignment | None:
        last = self.db.value("SELECT COALESCE(MAX(number), 0) FROM assignments WHERE person = ?", (person,))
        draw = python_rng(settings.seed, "purpose", person, last).random()
        if draw < settings.repeat_share and (earlier := self._to_repeat(person, last, settings)) is not None:
            swapped = list(reversed(json.loads(earlier["arrangement"])))
            return self._give(person, last + 1, "repeat", earlier["comparison"], swapped, settings)
        if draw >= 1 - settings.gold_share and (name := self._unseen(person, _GOLD, settings)):
            return self._give(person, last + 1, "gold", name, None, settings)
        if name := self._unseen(person, f"gold IS NULL AND judged < wanted AND {_FREE_PLACES} > 0", settings, now()):
            return self._give(person, last + 1, "first", name, None, settings)
        return None

    def _to_repeat(self, person: str, last: int, settings: LabelSettings) -> Row | None:
        rows = self.db.rows(
            """
            SELECT comparison, arrangement FROM assignments AS earlier
            WHERE person = ? AND purpose = 'first' AND state = 'judged' AND number <= ? AND NOT EXISTS (
                SELECT 1 FROM assignments WHERE person = earlier.person AND comparison = earlier.comparison
                AND purpose = 'repeat' AND state != 'released')
            ORDER BY number
            """,
            (person, last - settings.repeat_after),
        )
        return python_rng(settings.seed, "repeat", person, last).choice(rows) if rows else None

    def _unseen(self, person: str, condition: str, settings: LabelSettings, *values: Any) -> str | None:
        """The next comparison that the person has not had.

        Everybody walks the same order, so that what several are to judge is complete early and agreement is known.
        """
        order = "priority DESC, place" if settings.order == "priority" else "place"
        row = self.db.row(
            f"""
            SELECT id FROM comparisons WHERE active = 1 AND {condition} AND NOT EXISTS (
                SELECT 1 FROM assignments WHERE comparison = comparisons.id AND person = ? AND state != 'released')
            ORDER BY {order} LIMIT 1
            """,
            (*values, person),
        )
        return row["id"] if row else None

    def _give(
        self,
        person: str,
        number: int,
        purpose: Purpose,
        comparison: str,
        arrangement: list[int] | None,
        settings: LabelSettings,
    ) -> Assignment:
        if arrangement is None:
            index, size = (
                self.db.value(f"SELECT COUNT(*) FROM {table} WHERE comparison = ? {also}", (comparison,))
                for table, also in (
                    ("assignments", "AND purpose != 'repeat' AND state != 'released'"),
                    ("comparison_members", ""),
                )
            )
            arrangement = list(settings.arrangement(comparison, size, index))
        name = secrets.token_urlsafe(12)
        self.db.execute(
            """
            INSERT INTO assignments
                (id, comparison, person, number, purpose, arrangement, state, leased_until, created)
            VALUES (?, ?, ?, ?, ?, ?, 'open', ?, ?)
            """,
            (name, comparison, person, number, purpose, compact_json(arrangement), _lease_end(settings), now()),
        )
        record(self.store, person, "assign", name, comparison=comparison, purpose=purpose)
        return self.assignment(person, name)

    def assignment(self, person: str, name: str) -> Assignment:
        """One of the person's assignments.

        Raises:
            ConflictError: it is not theirs, or there is none.
        """
        row = self.db.row("SELECT * FROM assignments WHERE id = ? AND person = ?", (name, person))
        if row is None:
            raise ConflictError("this comparison was not given to you. Go on with the next one.")
        return self._assignment(row)

    # Taking in

    def vote(self, person: str, name: str, vote: Vote, request: str, *, edit: bool = False) -> Receipt:
        """Take a vote; when this returns, it is on disk.

        Args:
            request: names the request, so that sending it again changes nothing.
            edit: replace what was said before, as a new record.
        Raises:
            ConflictError: the assignment has been answered already (without `edit`), or is not the person's.
            DataError: choice or criteria do not fit.
        """
        with self.store.transaction():
            if (receipt := self._answered(person, name, request)) is not None:
                return receipt
            held = self._expect(
                person, name, ("judged", "skipped", "open", "released") if edit else ("open", "released")
            )
            settings = read_settings(self.store)
            try:
                check_criteria(vote, settings, len(held.arrangement))
                judgement = self._judgement(held, vote, settings)
            except ValueError as error:
                raise error if isinstance(error, DataError) else DataError(f"{error}.") from None
            key = self.store.add_judgement(judgement)
            if held.state != "judged":
                self._count(held, 1)
            told = held.execution_seen or settings.execution == "after"  # what is said from now on knows the outcome
            self._change(name, state="judged", judgement=key, closed=now(), draft="{}", execution_seen=int(told))
            record(self.store, person, "edit" if held.state == "judged" else "judge", name, judgement=key)
            return self._note(request, name, "judged", key)

    def skip(self, person: str, name: str, reason: str, request: str, comment: str = "") -> Receipt:
        """Leave a comparison out, with a reason: no judgement, and the person does not get it again."""
        if reason not in SKIP_REASONS:
            raise DataError(f"{reason[:40]!r} is no reason to skip. Reasons: {', '.join(SKIP_REASONS)}.")
        with self.store.transaction():
            if (receipt := self._answered(person, name, request)) is not None:
                return receipt
            self._expect(person, name, ("open", "released"))
            self._change(name, state="skipped", closed=now(), draft="{}")
            record(self.store, person, "skip", name, reason=reason, comment=comment[:500])
            return self._note(request, name, "skipped", "")

    def undo(self, person: str, since: str) -> Assignment | None:
        """Take back the person's last vote or skip after `since`; the comparison comes again. None if there is none.

        The record is not touched: a retraction is appended, which the next vote supersedes in turn.
        """
        with self.store.transaction():
            row = self.db.row(
                """
                SELECT * FROM assignments WHERE person = ? AND state IN ('judged', 'skipped') AND closed >= ?
                ORDER BY closed DESC, number DESC LIMIT 1
                """,
                (person, since),
            )
            if row is None:
                return None
            held = self._assignment(row)
            draft: dict[str, Any] = {}
            key = held.judgement
            if held.state == "judged":
                last = self.store.judgement(held.judgement)
                draft = {"note": last.comment, "criteria": last.details.get("criteria", {})}
                retraction = {"ranking": (), "supersedes": held.judgement}
                key = self.store.add_judgement(last.model_copy(update=retraction))
                self._count(held, -1)
            self._change(held.id, state="open", judgement=key or None, closed=None, draft=compact_json(draft))
            self._lease(held.id, read_settings(self.store))
            record(self.store, person, "undo", held.id, was=held.state, judgement=key)
            return self.assignment(person, held.id)

    def keep_draft(self, person: str, name: str, draft: dict[str, Any]) -> None:
        """Keep what has been entered so far, and the lease with it."""
        with self.store.transaction():
            held = self._expect(person, name, ("open", "released"))
            self._change(name, draft=compact_json(draft), state="open")
            if held.state == "open":
                self._lease(name, read_settings(self.store))

    def show_execution(self, person: str, name: str, *, again: bool = False) -> None:
        """Remember that the outcome of the tests was seen: before the vote or, with `again`, before an edit."""
        states = ("judged", "skipped") if again else ("open", "released")
        with self.store.transaction():
            if not self._expect(person, name, states).execution_seen:
                self._change(name, execution_seen=1)
                record(self.store, person, "execution", name)

    # Looking back

    def history(self, person: str, limit: int = 100) -> list[Assignment]:
        """What the person judged or skipped, newest first."""
        query = """
            SELECT * FROM assignments WHERE person = ? AND state IN ('judged', 'skipped') ORDER BY closed DESC LIMIT ?
        """
        return [self._assignment(row) for row in self.db.rows(query, (person, limit))]

    def played(self, person: str) -> list[StoredJudgement]:
        """The person's votes of the playground that are in force; an import may lack what a page needs of them."""
        found = self.store.judgements(source=PLAY_SOURCE, annotator=person)
        return [each for each in found if {"play", "order", "choice"} <= each.judgement.details.keys()]

    # Inside

    def _judgement(self, held: Assignment, vote: Vote, settings: LabelSettings) -> Judgement:
        models = self.db.rows("SELECT DISTINCT model FROM completions WHERE model != ''")
        return judgement_of(
            vote,
            prompt=held.comparison.prompt,
            completions=held.comparison.samples,
            arrangement=held.arrangement,
            comparison=held.comparison.id,
            assignment=held.id,
            annotator=held.person,
            purpose=held.purpose,
            guidelines=read_guidelines(self.store).version,
            execution_seen=held.execution_seen or settings.execution == "before",
            names=(*settings.model_names, *(row["model"] for row in models)),
            supersedes=held.judgement,
        )

    def _answered(self, person: str, name: str, request: str) -> Receipt | None:
        """The receipt of a request that came before."""
        if not 8 <= len(request) <= 100:
            raise DataError("the request has no name. Load the page again.")
        row = self.db.row("SELECT * FROM answers WHERE request = ?", (request,))
        if row is None:
            return None
        self.assignment(person, name)
        if row["assignment"] != name:
            raise ConflictError("this request was for another comparison. Load the page again.")
        return Receipt(row["outcome"], row["judgement"] or "", True)

    def _note(self, request: str, name: str, outcome: Literal["judged", "skipped"], key: str) -> Receipt:
        self.db.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", (request, name, outcome, key or None, now()))
        return Receipt(outcome, key, False)

    def _expect(self, person: str, name: str, states: tuple[str, ...]) -> Assignment:
        held = self.assignment(person, name)
        if held.state not in states:
            raise ConflictError("this comparison has been answered already. Your history has it.")
        return held

    def _count(self, held: Assignment, change: int) -> None:
        if held.purpose != "repeat":
            self.db.execute("UPDATE comparisons SET judged = judged + ? WHERE id = ?", (change, held.comparison.id))

    def _lease(self, name: str, settings: LabelSettings) -> None:
        self._change(name, leased_until=_lease_end(settings))

    def _change(self, name: str, **columns: Any) -> None:
        names = ", ".join(f"{column} = ?" for column in columns)
        self.db.execute(f"UPDATE assignments SET {names} WHERE id = ?", (*columns.values(), name))

    def _assignment(self, row: Row) -> Assignment:
        return Assignment(
            id=row["id"],
            person=row["person"],
            number=row["number"],
            purpose=row["purpose"],
            arrangement=tuple(json.loads(row["arrangement"])),
            state=row["state"],
            draft=json.loads(row["draft"]),
            execution_seen=bool(row["execution_seen"]),
            judgement=row["judgement"] or "",
            comparison=load_comparison(self.store, row["comparison"]),
            closed=row["closed"] or "",
        )


_FREE_PLACES = """
    (wanted - judged - (SELECT COUNT(*) FROM assignments WHERE comparison = comparisons.id AND state = 'open'
        AND purpose != 'repeat' AND leased_until > ?))
"""
"""Places of a comparison that nobody has taken or holds a lease on; takes the time."""
_GOLD = "gold IS NOT NULL"


def _lease_end(settings: LabelSettings) -> str:
    return (datetime.now(UTC) + timedelta(minutes=settings.lease_minutes)).isoformat(timespec="milliseconds")
