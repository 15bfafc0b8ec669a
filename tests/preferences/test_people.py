"""Accounts, invitations and sessions: nothing that is stored lets anybody in."""

import pytest

from trivium.base.errors import DataError
from trivium.preferences import people
from trivium.preferences.store import PreferenceStore

PASSWORD = "correct horse battery"


def test_only_hashes_of_tokens_and_passwords_are_stored(store: PreferenceStore) -> None:
    people.add_person(store, "ann", "owner", PASSWORD)
    invitation, session = people.invite(store, "reviewer", by="ann"), people.open_session(store, "ann")
    rows = [
        row
        for table in ("people", "invitations", "sessions", "audit")
        for row in store.db.rows(f"SELECT * FROM {table}")
    ]
    for secret in (PASSWORD, invitation, session):
        assert secret not in str(rows)
    assert "$argon2id$" in store.db.value("SELECT password FROM people")


def test_passwords_are_checked_and_needed(store: PreferenceStore) -> None:
    people.add_person(store, "ann", "owner", PASSWORD)
    people.add_person(store, "here", "owner")
    assert people.check_password(store, "ann", PASSWORD) == people.Person("ann", "owner", True, True)
    for name, password in (("ann", "wrong"), ("nobody", PASSWORD), ("here", ""), ("ann", "")):
        assert people.check_password(store, name, password) is None
    for name, password, reason in (
        ("ANN", PASSWORD, "already"),
        ("bob", "short", "10 to 200"),
        ("<b>", PASSWORD, "name"),
    ):
        with pytest.raises(DataError, match=reason):
            people.add_person(store, name, "annotator", password)


def test_an_invitation_works_once(store: PreferenceStore) -> None:
    people.add_person(store, "ann", "owner", PASSWORD)
    token = people.invite(store, "annotator", by="ann")
    assert [row["role"] for row in people.open_invitations(store)] == ["annotator"]
    with pytest.raises(DataError, match="already"):
        people.accept(store, token, "ann", PASSWORD)
    with pytest.raises(DataError, match="password"):
        people.accept(store, token, "bob", "")
    assert people.accept(store, token, "bob", PASSWORD).role == "annotator"
    with pytest.raises(DataError, match="used"):
        people.accept(store, token, "eve", PASSWORD)
    assert people.open_invitations(store) == []
    late = people.invite(store, "annotator", by="ann")
    store.db.execute("UPDATE invitations SET expires = '2000' WHERE accepted_by IS NULL")
    with pytest.raises(DataError, match="run out"):
        people.accept(store, late, "eve", PASSWORD)


def test_sessions_end(store: PreferenceStore) -> None:
    people.add_person(store, "ann", "owner", PASSWORD)
    people.add_person(store, "bob", "annotator", PASSWORD)
    tokens = [people.open_session(store, "bob") for _ in range(3)]
    found = people.session_person(store, tokens[0])
    assert found is not None and found[0].name == "bob"
    people.close_session(store, tokens[0])
    assert people.session_person(store, tokens[0]) is None
    people.set_password(store, "bob", PASSWORD + "!", by="bob")
    assert people.session_person(store, tokens[1]) is None
    again = people.open_session(store, "bob")
    people.change_person(store, "bob", role="annotator", active=False, by="ann")
    assert people.session_person(store, again) is None
    assert people.check_password(store, "bob", PASSWORD + "!") is None
    with pytest.raises(DataError, match="last owner"):
        people.change_person(store, "ann", role="annotator", active=True, by="ann")
    assert people.people(store)[0].role == "owner", "nothing was changed"
