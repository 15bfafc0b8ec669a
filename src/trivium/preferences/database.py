"""One connection to a preference database: SQLite in a file, or PostgreSQL by URL, behind one dialect of SQL.

Statements are written for both: placeholders are `?`, rows come as dicts, text is ordered by code points. What the two
do differently is in the two classes here and nowhere else.
"""

import errno
import json
import os
import re
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trivium.base.errors import ConfigError, DataError, RunDirError

APPLICATION_ID = 0x54524956
"""Marks an SQLite file as ours ("TRIV"), in its own header field."""
APPLICATION_MARK = "trivium preferences"
"""Marks a PostgreSQL schema as ours, as the comment on its table of migrations."""
_LOCK = 0x54524956
"""PostgreSQL's advisory lock that every writer takes: one at a time, as in SQLite."""
_DISK = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO}
"""What SQLite makes of a full or failing disk, and what it is everywhere else."""

Row = dict[str, Any]


def is_url(location: Path | str) -> bool:
    """Whether a store's location names a PostgreSQL database."""
    return isinstance(location, str) and location.startswith(("postgresql://", "postgres://"))


def shown_location(location: Path | str) -> str:
    """A location as it may be shown: a URL without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", str(location)) if is_url(location) else str(location)


def open_database(location: Path | str, *, create: bool = True) -> "Database":
    """Connect to a file, `:memory:` or a `postgresql://` URL.

    Raises:
        DataError: it is missing, cannot be reached, or holds something else than preferences.
        ConfigError: PostgreSQL's driver is not installed.
    """
    return PostgresDatabase(str(location), create) if is_url(location) else SqliteDatabase(location, create)


class Database(ABC):
    """What the store needs of a database."""

    name: str
    """The location as it may be shown: without a password."""
    turn: AbstractContextManager[Any] = nullcontext()
    """Held during a transaction: connections of one process that share a lock queue up instead of asking again."""

    @abstractmethod
    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run one statement; the number of rows it changed."""

    @abstractmethod
    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each row of values."""

    @abstractmethod
    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query."""

    def row(self, query: str, values: Sequence[Any] = ()) -> Row | None:
        """The first row of a query, or None."""
        found = self.rows(query, values)
        return found[0] if found else None

    def value(self, query: str, values: Sequence[Any] = ()) -> Any:
        """The one value that a query gives."""
        return next(iter(self.rows(query, values)[0].values()))

    @property
    @abstractmethod
    def in_transaction(self) -> bool:
        """Whether a transaction is open on this connection."""

    @property
    @abstractmethod
    def usable(self) -> bool:
        """Whether the connection still stands."""

    @property
    @abstractmethod
    def is_ours(self) -> bool:
        """Whether it has been marked as a preference database."""

    @abstractmethod
    def mark(self) -> None:
        """Mark it as a preference database; its table of migrations is there."""

    @abstractmethod
    def translate(self, statement: str) -> str:
        """A statement of the schema in this database's own words."""

    @abstractmethod
    def append_only(self, table: str) -> list[str]:
        """Statements after which the rows of a table can be neither changed nor removed."""

    @abstractmethod
    def explained(self) -> Any:
        """A context in which the driver's errors become ours."""

    @abstractmethod
    def close(self) -> None:
        """End the connection."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside happen together or not at all, one writer at a time; inside another, they join it."""
        if self.in_transaction:
            yield
            return
        with self.turn, self.explained():
            self._begin()
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                if self.usable and self.in_transaction:
                    self.execute("ROLLBACK")
                raise

    @abstractmethod
    def _begin(self) -> None:
        """Open a transaction that no other writer is in."""


class SqliteDatabase(Database):
    """A file in write-ahead mode, every commit on disk before it returns."""

    def __init__(self, path: Path | str, create: bool) -> None:
        self.name = str(path)
        if self.name != ":memory:":
            if not create and not Path(path).is_file():
                raise DataError(f"{path} does not exist. Collect or import preferences first.")
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"{path} cannot be made: {error.strerror}. Name another place.") from None
        with self.explained():
            # One thread at a time uses a connection, not always the same.
            self.connection = sqlite3.connect(self.name, timeout=30, isolation_level=None, check_same_thread=False)
            self._open = True
            try:
                self._prepare(create)
            except BaseException:
                self.close()
                raise

    def _prepare(self, create: bool) -> None:
        self.connection.row_factory = _as_dict
        if not self.is_ours and self.value("SELECT COUNT(*) FROM sqlite_master"):
            raise DataError(f"{self.name} is a database of something else. Name a new file for the preferences.")
        if not self.is_ours and not create:
            raise DataError(f"{self.name} holds no preferences. Collect or import some first.")
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = FULL")  # an acknowledged judgement is on disk
        self.execute("PRAGMA foreign_keys = ON")

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        return self.connection.execute(statement, values).rowcount

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        self.connection.executemany(statement, rows)

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        with self.explained():
            return self.connection.execute(query, values).fetchall()

    @property
    def in_transaction(self) -> bool:
        return self.connection.in_transaction

    @property
    def usable(self) -> bool:
        return self._open

    @property
    def is_ours(self) -> bool:
        return self.value("PRAGMA application_id") == APPLICATION_ID

    def mark(self) -> None:
        self.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def translate(self, statement: str) -> str:
        return statement

    def append_only(self, table: str) -> list[str]:
        return [
            f"CREATE TRIGGER {table}_{name} BEFORE {event} ON {table} "
            f"BEGIN SELECT RAISE (ABORT, '{table} are append-only'); END"
            for name, event in (("stay", "UPDATE"), ("remain", "DELETE"))
        ]

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in when no other process has it open."""
        self._open = False
        self.connection.close()

    def _begin(self) -> None:
        self.execute("BEGIN IMMEDIATE")

    @contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise RunDirError(f"{self.name} is in use by another process. Try again when it is done.") from error
            if number := _DISK.get(error.sqlite_errorcode & 0xFF):  # the lower byte is the kind
                raise OSError(number, os.strerror(number), self.name) from error
            raise DataError(f"{self.name} cannot be used: {error}. Check path and permissions.") from error
        except (json.JSONDecodeError, ValidationError):
            raise _damaged(self.name) from None
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{self.name} is no sound preference database: {error}. Restore it from a copy, or name another file."
            ) from error


class PostgresDatabase(Database):
    """A PostgreSQL database, its tables in the connection's current schema."""

    def __init__(self, url: str, create: bool) -> None:
        self._driver = psycopg = _postgres_driver()
        self.name = shown_location(url)
        try:
            self.connection = psycopg.connect(
                url, autocommit=True, row_factory=psycopg.rows.dict_row, connect_timeout=10, client_encoding="UTF8"
            )
        except psycopg.Error as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{self.name} cannot be reached: {reason}. Check the URL and that the server runs."
            ) from None
        with self.explained():
            try:
                self.execute("SET synchronous_commit = on")  # an acknowledged judgement is on disk
                foreign = self.value("SELECT COUNT(*) FROM pg_tables WHERE schemaname = current_schema()")
                if not self.is_ours and foreign:
                    raise DataError(
                        f"{self.name} holds tables of something else. Name a database or schema that is empty."
                    )
                if not self.is_ours and not create:
                    raise DataError(f"{self.name} holds no preferences. Import some first.")
            except BaseException:
                self.close()
                raise

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        cursor = self.connection.execute(_placeholders(statement), _escape_row(values) or None)
        return cursor.rowcount

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(_placeholders(statement), [_escape_row(row) for row in rows])

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        with self.explained():
            found = self.connection.execute(_placeholders(query), _escape_row(values) or None).fetchall()
        return [{name: _unescape(value) for name, value in row.items()} for row in found]

    @property
    def in_transaction(self) -> bool:
        return self.connection.info.transaction_status != self._driver.pq.TransactionStatus.IDLE

    @property
    def usable(self) -> bool:
        return not self.connection.closed

    @property
    def is_ours(self) -> bool:
        mark = self.value("SELECT obj_description(to_regclass('migrations'), 'pg_class') AS mark")
        return mark == APPLICATION_MARK

    def mark(self) -> None:
        self.execute(f"COMMENT ON TABLE migrations IS '{APPLICATION_MARK}'")

    def translate(self, statement: str) -> str:
        # SQLite orders text by code points and keeps doubles; here both have to be asked for.
        statement = re.sub(r"\bTEXT\b", 'TEXT COLLATE "C"', statement)
        return re.sub(r"\bREAL\b", "DOUBLE PRECISION", statement).replace("WITHOUT ROWID", "")

    def append_only(self, table: str) -> list[str]:
        function = (
            "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION '% are append-only', TG_TABLE_NAME; END $$"
        )
        each_row = (
            f"CREATE TRIGGER {table}_stay BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        whole = (
            f"CREATE TRIGGER {table}_remain BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        return [function, each_row, whole]

    def close(self) -> None:
        """End the connection."""
        self.connection.close()

    def _begin(self) -> None:
        self.execute("BEGIN")
        self.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))

    @contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except self._driver.errors.DiskFull as error:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name) from error
        except (json.JSONDecodeError, ValidationError):
            raise _damaged(self.name) from None
        except self._driver.Error as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{self.name} cannot be used: {reason}. Check the server and its permissions.") from error


def _damaged(name: str) -> DataError:
    return DataError(f"{name} holds a damaged record. Restore it from a copy, or name another file.")


def _as_dict(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> Row:
    return {column[0]: value for column, value in zip(cursor.description, values, strict=True)}


def _postgres_driver() -> Any:
    try:
        import psycopg
        import psycopg.rows
    except ImportError:
        raise ConfigError(
            "a postgresql:// store needs psycopg. Install it with `pip install 'trivium[postgres]'`."
        ) from None
    return psycopg


def _placeholders(statement: str) -> str:
    return statement.replace("%", "%%").replace("?", "%s") if "?" in statement else statement


def _escape_row(values: Iterable[Any]) -> list[Any]:
    """PostgreSQL's text has no NUL: U+0000 and U+0001 are stored as two characters each, which keeps the order."""
    return [
        value.replace("\x01", "\x01\x02").replace("\x00", "\x01\x01") if isinstance(value, str) else value
        for value in values
    ]


def _unescape(value: Any) -> Any:
    if isinstance(value, str) and "\x01" in value:
        return re.sub("\x01(\x01|\x02)", lambda match: "\x00" if match[1] == "\x01" else "\x01", value)
    return value
