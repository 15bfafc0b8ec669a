"""The append-only trail of what people did, and the versioned texts that an owner sets: settings and guidelines."""

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import ValidationError

from trivium.base.errors import DataError
from trivium.preferences.database import Row
from trivium.preferences.rows import compact_json
from trivium.preferences.store import PreferenceStore
from trivium.preferences.votes import LabelSettings

DEFAULT_GUIDELINES = """\
Choose the answer that you would rather have from a colleague.

1. Does it do what the prompt asks? A wrong answer loses to a right one, however well it reads.
2. Of two right answers, the clearer one wins: plain names, no needless code, no surprises.
3. Equally good is a tie. If neither is of any use, say so: both bad.
4. If you cannot tell (a language you do not read, a broken display), skip and say why.

Length is no merit. Do not guess which model wrote what.
"""


class Guidelines(NamedTuple):
    """One version of the guidelines; version 0 is the built-in text."""

    version: int
    text: str


def now() -> str:
    """The time as it stands in the tables: UTC, to the millisecond, comparable as text."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def record(store: PreferenceStore, person: str, action: str, subject: str, **details: Any) -> None:
    """Append to the audit trail; part of the transaction it is called in."""
    with store.transaction():
        store.db.execute(
            "INSERT INTO audit SELECT COALESCE(MAX(number), 0) + 1, ?, ?, ?, ?, ? FROM audit",
            (now(), person, action, subject, compact_json(details)),
        )


def trail(store: PreferenceStore, limit: int = 100) -> list[Row]:
    """The newest entries of the audit trail, newest first, `details` read."""
    rows = store.db.rows("SELECT * FROM audit ORDER BY number DESC LIMIT ?", (limit,))
    return [row | {"details": json.loads(row["details"])} for row in rows]


def read_settings(store: PreferenceStore) -> LabelSettings:
    """The settings in force."""
    row = store.db.row("SELECT content FROM label_settings ORDER BY version DESC LIMIT 1")
    if row is None:
        return LabelSettings()
    try:
        return LabelSettings.model_validate_json(row["content"])
    except ValidationError:
        raise DataError(
            f"{store.path} holds labelling settings that this release cannot read. Set them anew."
        ) from None


def write_settings(store: PreferenceStore, settings: LabelSettings, person: str) -> None:
    """Put new settings in force; how many people judge each comparison follows from them."""
    with store.transaction():
        _append(store, "label_settings", settings.model_dump_json(), person)
        comparisons = [
            (settings.wanted(row["id"]) + row["extra"], row["wanted"], row["id"])
            for row in store.db.rows("SELECT id, wanted, extra FROM comparisons")
        ]
        changed = [(new, name) for new, old, name in comparisons if new != old]
        store.db.execute_many("UPDATE comparisons SET wanted = ? WHERE id = ?", changed)
        record(store, person, "settings", "", **settings.model_dump(mode="json"))


def read_guidelines(store: PreferenceStore) -> Guidelines:
    """The guidelines in force."""
    row = store.db.row("SELECT version, content FROM guidelines ORDER BY version DESC LIMIT 1")
    return Guidelines(row["version"], row["content"]) if row else Guidelines(0, DEFAULT_GUIDELINES)


def write_guidelines(store: PreferenceStore, text: str, person: str) -> Guidelines:
    """Put a new version of the guidelines in force; unchanged text makes none."""
    with store.transaction():
        if text.strip() != read_guidelines(store).text.strip():
            _append(store, "guidelines", text, person)
            record(store, person, "guidelines", str(read_guidelines(store).version))
        return read_guidelines(store)


def _append(store: PreferenceStore, table: str, content: str, person: str) -> None:
    store.db.execute(
        f"INSERT INTO {table} SELECT COALESCE(MAX(version), 0) + 1, ?, ?, ? FROM {table}", (content, person, now())
    )
