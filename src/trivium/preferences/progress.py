"""How far a person has come: what the labelling page keeps in view."""

from dataclasses import dataclass
from datetime import datetime

from trivium.preferences.audit import now
from trivium.preferences.store import PreferenceStore

RECENT = 20
"""Votes that the rate is taken over."""
SHARED = 200
"""Comparisons that agreement is taken over, the newest."""


@dataclass(frozen=True)
class Progress:
    """Counts of one person."""

    judged: int
    skipped: int
    left: int
    """Comparisons that the person could still be given."""
    per_minute: float | None
    """Over the last votes, pauses of more than five minutes left out."""
    agreed: int
    """Comparisons on which the person and another ranked alike."""
    shared: int
    """Comparisons that the person and another both judged."""

    @property
    def share(self) -> float:
        """Done, of what there is."""
        return self.judged / max(1, self.judged + self.left)


def progress(store: PreferenceStore, person: str) -> Progress:
    """Where a person stands."""
    states = store.db.rows("SELECT state, COUNT(*) AS n FROM assignments WHERE person = ? GROUP BY state", (person,))
    count = {row["state"]: row["n"] for row in states}
    open_ = "active = 1 AND gold IS NULL AND judged < wanted"
    left = store.db.value(f"SELECT COUNT(*) FROM comparisons WHERE {open_}") - store.db.value(
        f"""
        SELECT COUNT(DISTINCT comparison) FROM assignments JOIN comparisons ON comparisons.id = comparison
        WHERE person = ? AND state IN ('judged', 'skipped') AND {open_}
        """,
        (person,),
    )
    agreed, shared = _agreement(store, person)
    judged, skipped = count.get("judged", 0), count.get("skipped", 0)
    return Progress(judged, skipped, left, _rate(store, person), agreed, shared)


def _rate(store: PreferenceStore, person: str) -> float | None:
    rows = store.db.rows(
        """
        SELECT closed FROM assignments WHERE person = ? AND state IN ('judged', 'skipped') AND closed IS NOT NULL
        ORDER BY closed DESC LIMIT ?
        """,
        (person, RECENT),
    )
    times = [datetime.fromisoformat(text) for text in (now(), *(row["closed"] for row in rows))]
    gaps = [(later - earlier).total_seconds() for later, earlier in zip(times, times[1:], strict=False)]
    if gaps and gaps[0] > 300:  # nobody has been voting
        return None
    gaps = [gap for gap in gaps[1:] if gap <= 300]
    return 60 * len(gaps) / sum(gaps) if len(gaps) >= 3 and sum(gaps) > 0 else None


def _agreement(store: PreferenceStore, person: str) -> tuple[int, int]:
    rows = store.db.rows(
        """
        SELECT mine.judgement AS mine, other.judgement AS other FROM assignments AS mine
        JOIN assignments AS other ON other.comparison = mine.comparison AND other.person != mine.person
        WHERE mine.person = ? AND mine.state = 'judged' AND other.state = 'judged'
        AND mine.purpose != 'repeat' AND other.purpose != 'repeat' ORDER BY mine.closed DESC LIMIT ?
        """,
        (person, SHARED),
    )
    agreed = sum(_tiers(store, row["mine"]) == _tiers(store, row["other"]) for row in rows)
    return agreed, len(rows)


def _tiers(store: PreferenceStore, judgement: str) -> list[int]:
    rows = store.db.rows("SELECT tier FROM rankings WHERE judgement = ? ORDER BY position", (judgement,))
    return [row["tier"] for row in rows]
