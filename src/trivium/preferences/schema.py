"""The tables of `preferences.db` and how an older file is brought up to them."""

import sqlite3

APPLICATION_ID = 0x54524956
"""Marks the file as ours ("TRIV"), in SQLite's own header field."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE prompts (
        id TEXT PRIMARY KEY,
        text TEXT NOT NULL,
        messages TEXT,
        task TEXT NOT NULL DEFAULT '',
        split TEXT NOT NULL CHECK (split IN ('train', 'heldout'))
    );
    CREATE TABLE completions (
        id TEXT PRIMARY KEY,
        prompt TEXT NOT NULL REFERENCES prompts (id),
        text TEXT NOT NULL,
        ids TEXT NOT NULL DEFAULT '[]',
        finish TEXT NOT NULL,
        model TEXT NOT NULL DEFAULT '',
        round INTEGER NOT NULL DEFAULT 0,
        sample INTEGER NOT NULL DEFAULT 0,
        passed INTEGER CHECK (passed IN (0, 1)),
        tests_passed INTEGER,
        tests_total INTEGER,
        verdict TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX completions_by_prompt ON completions (prompt, round, model, sample);
    CREATE TABLE judgements (
        id TEXT PRIMARY KEY,
        content TEXT NOT NULL,
        prompt TEXT NOT NULL REFERENCES prompts (id),
        record TEXT NOT NULL DEFAULT '',
        annotator TEXT NOT NULL DEFAULT '',
        source TEXT NOT NULL DEFAULT '',
        round INTEGER NOT NULL DEFAULT 0,
        margin REAL,
        agreement REAL,
        comment TEXT NOT NULL DEFAULT '',
        details TEXT NOT NULL DEFAULT '{}',
        created TEXT NOT NULL,
        supersedes TEXT UNIQUE REFERENCES judgements (id)
    );
    CREATE INDEX judgements_by_prompt ON judgements (prompt);
    CREATE INDEX judgements_by_content ON judgements (content);
    CREATE TABLE rankings (
        judgement TEXT NOT NULL REFERENCES judgements (id),
        position INTEGER NOT NULL,
        completion TEXT NOT NULL REFERENCES completions (id),
        tier INTEGER,
        PRIMARY KEY (judgement, position)
    ) WITHOUT ROWID;
    CREATE TRIGGER judgements_stay BEFORE UPDATE ON judgements
        BEGIN SELECT RAISE (ABORT, 'judgements are append-only'); END;
    CREATE TRIGGER judgements_remain BEFORE DELETE ON judgements
        BEGIN SELECT RAISE (ABORT, 'judgements are append-only'); END;
    CREATE TRIGGER rankings_stay BEFORE UPDATE ON rankings
        BEGIN SELECT RAISE (ABORT, 'judgements are append-only'); END;
    CREATE TRIGGER rankings_remain BEFORE DELETE ON rankings
        BEGIN SELECT RAISE (ABORT, 'judgements are append-only'); END;
    """,
)
"""Entry n brings version n to n + 1. Entries are only ever added."""


def migrate(connection: sqlite3.Connection) -> int:
    """Bring the file to the newest version, each step in a transaction of its own.

    Returns:
        The version found; greater than `len(MIGRATIONS)` when a newer release wrote the file (left untouched).
    """
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied TEXT NOT NULL)")
    found = schema_version(connection)
    for version in range(found, len(MIGRATIONS)):
        # Should two processes migrate at the same moment, the second waits at BEGIN and its INSERT is refused.
        script = (
            f"BEGIN IMMEDIATE; INSERT INTO migrations VALUES ({version + 1}, datetime('now'));"
            f"{MIGRATIONS[version]}; COMMIT;"
        )
        try:
            connection.executescript(script)
        except sqlite3.IntegrityError:
            connection.rollback()
    return found


def schema_version(connection: sqlite3.Connection) -> int:
    """The number of migrations this file has been through."""
    return connection.execute("SELECT COALESCE(MAX(version), 0) FROM migrations").fetchone()[0]
