"""The tables of a preference database and how an older one is brought up to them."""

from dataclasses import dataclass
from datetime import UTC, datetime

from trivium.preferences.database import Database


@dataclass(frozen=True)
class Migration:
    """One step of the schema."""

    script: str
    """Statements, each ended by a semicolon, in the words that SQLite and PostgreSQL share."""
    append_only: tuple[str, ...] = ()
    """Tables of this step whose rows the database itself keeps as they are."""


JUDGEMENTS = Migration(
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
    """,
    append_only=("judgements", "rankings"),
)

LABELLING = Migration(
    """
    CREATE TABLE people (
        name TEXT PRIMARY KEY,
        role TEXT NOT NULL CHECK (role IN ('annotator', 'reviewer', 'owner')),
        password TEXT NOT NULL DEFAULT '',
        active INTEGER NOT NULL DEFAULT 1 CHECK (active IN (0, 1)),
        created TEXT NOT NULL
    );
    CREATE TABLE invitations (
        token TEXT PRIMARY KEY,
        role TEXT NOT NULL CHECK (role IN ('annotator', 'reviewer', 'owner')),
        invited_by TEXT NOT NULL REFERENCES people (name),
        created TEXT NOT NULL,
        expires TEXT NOT NULL,
        accepted_by TEXT REFERENCES people (name)
    );
    CREATE TABLE sessions (
        token TEXT PRIMARY KEY,
        person TEXT NOT NULL REFERENCES people (name),
        created TEXT NOT NULL,
        expires TEXT NOT NULL
    );
    CREATE TABLE label_settings (
        version INTEGER PRIMARY KEY,
        content TEXT NOT NULL,
        person TEXT NOT NULL,
        created TEXT NOT NULL
    );
    CREATE TABLE guidelines (
        version INTEGER PRIMARY KEY,
        content TEXT NOT NULL,
        person TEXT NOT NULL,
        created TEXT NOT NULL
    );
    CREATE TABLE comparisons (
        id TEXT PRIMARY KEY,
        prompt TEXT NOT NULL REFERENCES prompts (id),
        place TEXT NOT NULL,
        priority REAL NOT NULL DEFAULT 0,
        wanted INTEGER NOT NULL DEFAULT 1,
        extra INTEGER NOT NULL DEFAULT 0,
        judged INTEGER NOT NULL DEFAULT 0,
        gold TEXT,
        active INTEGER NOT NULL DEFAULT 1 CHECK (active IN (0, 1)),
        created TEXT NOT NULL
    );
    CREATE INDEX comparisons_by_place ON comparisons (place);
    CREATE TABLE comparison_members (
        comparison TEXT NOT NULL REFERENCES comparisons (id),
        position INTEGER NOT NULL,
        completion TEXT NOT NULL REFERENCES completions (id),
        PRIMARY KEY (comparison, position)
    ) WITHOUT ROWID;
    CREATE TABLE assignments (
        id TEXT PRIMARY KEY,
        comparison TEXT NOT NULL REFERENCES comparisons (id),
        person TEXT NOT NULL REFERENCES people (name),
        number INTEGER NOT NULL,
        purpose TEXT NOT NULL CHECK (purpose IN ('first', 'repeat', 'gold')),
        arrangement TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('open', 'judged', 'skipped', 'released')),
        leased_until TEXT NOT NULL,
        draft TEXT NOT NULL DEFAULT '{}',
        execution_seen INTEGER NOT NULL DEFAULT 0 CHECK (execution_seen IN (0, 1)),
        judgement TEXT REFERENCES judgements (id),
        created TEXT NOT NULL,
        closed TEXT,
        UNIQUE (person, number)
    );
    CREATE INDEX assignments_by_comparison ON assignments (comparison, state);
    CREATE INDEX assignments_by_person ON assignments (person, state, closed);
    CREATE TABLE answers (
        request TEXT PRIMARY KEY,
        assignment TEXT NOT NULL REFERENCES assignments (id),
        outcome TEXT NOT NULL,
        judgement TEXT REFERENCES judgements (id),
        created TEXT NOT NULL
    );
    CREATE TABLE audit (
        number INTEGER PRIMARY KEY,
        created TEXT NOT NULL,
        person TEXT NOT NULL,
        action TEXT NOT NULL,
        subject TEXT NOT NULL,
        details TEXT NOT NULL DEFAULT '{}'
    );
    """,
    append_only=("label_settings", "guidelines", "answers", "audit"),
)

MIGRATIONS: tuple[Migration, ...] = (JUDGEMENTS, LABELLING)
"""Entry n brings version n to n + 1. Entries are only ever added."""


def migrate(database: Database) -> int:
    """Bring the database to the newest version, each step in a transaction of its own.

    Returns:
        The version found; greater than `len(MIGRATIONS)` when a newer release wrote it (left untouched).
    """
    if not database.is_ours:
        with database.transaction():
            table = "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied TEXT NOT NULL)"
            database.execute(database.translate(table))
            database.mark()
    found = schema_version(database)
    for version in range(found, len(MIGRATIONS)):
        with database.transaction():
            if schema_version(database) == version:  # else another process has just done it
                _apply(database, MIGRATIONS[version])
                now = datetime.now(UTC).isoformat(timespec="seconds")
                database.execute("INSERT INTO migrations VALUES (?, ?)", (version + 1, now))
    return found


def schema_version(database: Database) -> int:
    """The number of migrations this database has been through."""
    return database.value("SELECT COALESCE(MAX(version), 0) FROM migrations")


def _apply(database: Database, migration: Migration) -> None:
    for statement in database.translate(migration.script).split(";"):
        if statement.strip():
            database.execute(statement)
    for table in migration.append_only:
        for statement in database.append_only(table):
            database.execute(statement)
