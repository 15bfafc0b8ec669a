"""Comparisons that people judged differently: the reviewers' queue."""

from dataclasses import dataclass

from trivium.base.errors import DataError
from trivium.preferences.audit import record
from trivium.preferences.comparisons import Comparison, load_comparison
from trivium.preferences.judgement import Judgement
from trivium.preferences.store import PreferenceStore


@dataclass(frozen=True)
class Disagreement:
    """One comparison with what was said about it."""

    comparison: Comparison
    judgements: tuple[Judgement, ...]
    """The standing judgement of each person, by name."""
    asked: bool
    """Whether somebody else is still to judge it."""


def disagreements(store: PreferenceStore, limit: int = 20) -> list[Disagreement]:
    """Comparisons with more than one ranking by people, the least settled first: most judgements, then oldest."""
    rows = store.db.rows(
        """
        SELECT comparison, person, judgement, wanted, judged FROM assignments
        JOIN comparisons ON comparisons.id = comparison
        WHERE state = 'judged' AND purpose != 'repeat' AND judged > 1 ORDER BY judged DESC, comparison, person
        """
    )
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["comparison"], []).append(row)
    found = []
    for name, members in groups.items():
        judgements = tuple(store.judgement(row["judgement"]) for row in members)
        if len({each.ranking for each in judgements}) > 1:
            asked = members[0]["judged"] < members[0]["wanted"]
            found.append(Disagreement(load_comparison(store, name), judgements, asked))
            if len(found) == limit:
                break
    return found


def ask_another(store: PreferenceStore, comparison: str, *, by: str) -> None:
    """Have one person more judge a comparison.

    Raises:
        DataError: there is no such comparison, or one more is asked already.
    """
    with store.transaction():
        changed = store.db.execute(
            "UPDATE comparisons SET wanted = wanted + 1, extra = extra + 1 WHERE id = ? AND judged >= wanted",
            (comparison,),
        )
        if not changed:
            raise DataError("one person more has been asked already.")
        record(store, by, "ask another", comparison)
