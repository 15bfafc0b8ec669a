"""People who label: accounts, roles, invitations, sessions, pseudonyms. Secrets are stored as hashes only."""

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Literal, get_args

from trivium.base.errors import ConfigError, DataError
from trivium.preferences.audit import now, record
from trivium.preferences.database import Row
from trivium.preferences.judgement import Judgement
from trivium.preferences.judges import is_machine
from trivium.preferences.store import PreferenceStore

Role = Literal["annotator", "reviewer", "owner"]
ROLES: tuple[Role, ...] = get_args(Role)
"""What each may do: annotators judge; reviewers also see everybody's figures and export; owners also administer."""
PASSWORD_LENGTH = 10
SESSION_DAYS = 30
INVITATION_DAYS = 14
_NAME = re.compile(r"[^\W_](?:[\w .@-]{0,58}\w)?")


@dataclass(frozen=True)
class Person:
    """Somebody who may use the page."""

    name: str
    role: Role
    active: bool
    has_password: bool


def people(store: PreferenceStore) -> list[Person]:
    """Everybody, by name."""
    return [_person(row) for row in store.db.rows("SELECT * FROM people ORDER BY name")]


def add_person(store: PreferenceStore, name: str, role: Role, password: str = "", *, by: str = "") -> Person:
    """Add a person; without a password they can only come by the one-time link of a page served to this machine.

    Raises:
        DataError: the name is taken or unusable, the password too short.
    """
    if not _NAME.fullmatch(name):
        raise DataError(f"{name[:60]!r} cannot be a name. Use up to 60 letters, digits, spaces and . @ _ -")
    hashed = _hash_password(password) if password else ""
    with store.transaction():
        if any(each.name.casefold() == name.casefold() for each in people(store)):
            raise DataError(f"there is somebody called {name!r} already. Choose another name.")
        store.db.execute("INSERT INTO people VALUES (?, ?, ?, 1, ?)", (name, role, hashed, now()))
        record(store, by or name, "person", name, role=role)
    return Person(name, role, True, bool(password))


def local_owner(store: PreferenceStore, name: str) -> Person:
    """The person at this machine: an owner, added when new."""
    with store.transaction():
        found = next((each for each in people(store) if each.name == name), None)
        return found or add_person(store, name, "owner")


def change_person(store: PreferenceStore, name: str, *, role: Role, active: bool, by: str) -> None:
    """Give a person another role, or shut them out; sessions of those shut out end.

    Raises:
        DataError: there is no such person, or no owner would be left.
    """
    with store.transaction():
        if store.db.execute("UPDATE people SET role = ?, active = ? WHERE name = ?", (role, int(active), name)) == 0:
            raise DataError(f"there is nobody called {name!r}.")
        if not any(each.role == "owner" and each.active for each in people(store)):
            raise DataError(f"{name!r} is the last owner. Make somebody else an owner first.")
        if not active:
            store.db.execute("DELETE FROM sessions WHERE person = ?", (name,))
        record(store, by, "person", name, role=role, active=active)


def set_password(store: PreferenceStore, name: str, password: str, *, by: str) -> None:
    """Set a password; all the person's other sessions end."""
    hashed = _hash_password(password)
    with store.transaction():
        if store.db.execute("UPDATE people SET password = ? WHERE name = ?", (hashed, name)) == 0:
            raise DataError(f"there is nobody called {name!r}.")
        store.db.execute("DELETE FROM sessions WHERE person = ?", (name,))
        record(store, by, "password", name)


def check_password(store: PreferenceStore, name: str, password: str) -> Person | None:
    """The person, if the password is theirs and they may come in; takes as long for unknown names."""
    row = store.db.row("SELECT * FROM people WHERE name = ?", (name,))
    hashed = row["password"] if row and row["password"] else _nobodys_hash()
    right = _verify(hashed, password)
    return _person(row) if row and row["password"] and right and row["active"] else None


def invite(store: PreferenceStore, role: Role, *, by: str) -> str:
    """A token that makes whoever brings it first a person with `role`; it is shown once and stored as its hash."""
    token = secrets.token_urlsafe(24)
    expires = _in(days=INVITATION_DAYS)
    with store.transaction():
        store.db.execute(
            "INSERT INTO invitations VALUES (?, ?, ?, ?, ?, NULL)", (hash_token(token), role, by, now(), expires)
        )
        record(store, by, "invitation", role)
    return token


def invitation(store: PreferenceStore, token: str) -> Row | None:
    """The invitation of a token, if it can still be accepted."""
    query = "SELECT * FROM invitations WHERE token = ? AND accepted_by IS NULL AND expires > ?"
    return store.db.row(query, (hash_token(token), now()))


def accept(store: PreferenceStore, token: str, name: str, password: str) -> Person:
    """Become a person by an invitation, which is used up by it.

    Raises:
        DataError: the invitation is not valid, or name or password are not.
    """
    if not password:
        raise DataError(f"a password of at least {PASSWORD_LENGTH} characters is needed.")
    with store.transaction():
        found = invitation(store, token)
        if found is None:
            raise DataError("this invitation has been used or has run out. Ask for a new one.")
        person = add_person(store, name, found["role"], password, by=found["invited_by"])
        store.db.execute("UPDATE invitations SET accepted_by = ? WHERE token = ?", (name, hash_token(token)))
    return person


def open_invitations(store: PreferenceStore) -> list[Row]:
    """Invitations that wait to be accepted, without their tokens."""
    query = "SELECT role, invited_by, created, expires FROM invitations WHERE accepted_by IS NULL AND expires > ?"
    return store.db.rows(f"{query} ORDER BY created", (now(),))


def open_session(store: PreferenceStore, person: str) -> str:
    """A token for a cookie; it is stored as its hash."""
    token = secrets.token_urlsafe(32)
    with store.transaction():
        store.db.execute("DELETE FROM sessions WHERE expires < ?", (now(),))
        store.db.execute(
            "INSERT INTO sessions VALUES (?, ?, ?, ?)", (hash_token(token), person, now(), _in(days=SESSION_DAYS))
        )
        record(store, person, "login", "")
    return token


def close_session(store: PreferenceStore, token: str) -> None:
    """End a session."""
    with store.transaction():
        store.db.execute("DELETE FROM sessions WHERE token = ?", (hash_token(token),))


def session_person(store: PreferenceStore, token: str) -> tuple[Person, str] | None:
    """Whose session a token is, and when it began."""
    row = store.db.row(
        """
        SELECT people.*, sessions.created AS began FROM sessions JOIN people ON people.name = sessions.person
        WHERE token = ? AND expires > ? AND active = 1
        """,
        (hash_token(token), now()),
    )
    return (_person(row), row["began"]) if row else None


def hash_token(token: str) -> str:
    """What is stored of a token; tokens are random, so no salt is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def _person(row: Row) -> Person:
    return Person(row["name"], row["role"], bool(row["active"]), bool(row["password"]))


def _in(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="milliseconds")


def _hash_password(password: str) -> str:
    if not PASSWORD_LENGTH <= len(password) <= 200:
        raise DataError(f"a password has {PASSWORD_LENGTH} to 200 characters.")
    return _hasher().hash(password)


def _verify(hashed: str, password: str) -> bool:
    import argon2

    try:
        return _hasher().verify(hashed, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def _hasher() -> Any:
    try:
        import argon2
    except ImportError:
        raise ConfigError("passwords need argon2-cffi. Install it with `pip install 'trivium[label]'`.") from None
    return argon2.PasswordHasher()  # argon2id at the library's default cost (RFC 9106, low memory)


@cache
def _nobodys_hash() -> str:
    """A hash that no password has, so that an unknown name costs as much time as a known one."""
    return _hasher().hash(secrets.token_urlsafe())


# Pseudonyms


def pseudonyms(store: PreferenceStore) -> dict[str, str]:
    """Name to `p1`, `p2`, ...: those who joined the page in that order, then others who judged, by name.

    Machines keep their names, and so do names that look like pseudonyms, whose numbers nobody else gets: what was
    exported, imported and is exported again says the same.
    """
    people = [row["name"] for row in store.db.rows("SELECT name FROM people ORDER BY created, name")]
    rows = store.db.rows("SELECT DISTINCT annotator, source FROM judgements ORDER BY annotator, source")
    people += [row["annotator"] for row in rows if row["annotator"] and not is_machine(row["source"])]
    every = list(dict.fromkeys(people))
    kept = {name for name in every if re.fullmatch(r"p[1-9]\d*", name)}
    free = (name for number in range(1, 2 * len(every) + 1) if (name := f"p{number}") not in kept)
    return {name: name if name in kept else next(free) for name in every}


def shown_name(judgement: Judgement, alias: Mapping[str, str]) -> str:
    """Who judged, under a pseudonym where it is a person: `alias` is what `pseudonyms` says, or nothing."""
    return judgement.annotator if is_machine(judgement.source) else alias.get(judgement.annotator, judgement.annotator)
