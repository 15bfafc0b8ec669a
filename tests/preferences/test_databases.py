"""One schema in two databases: older files open, both order and keep text alike, judgements travel between them."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from trivium.base.errors import ConfigError, DataError
from trivium.cli import main
from trivium.preferences.comparisons import fill
from trivium.preferences.database import is_url, open_database, shown_location
from trivium.preferences.desk import LabellingDesk
from trivium.preferences.export import export_preferences
from trivium.preferences.judgement import Judgement, Sample
from trivium.preferences.people import add_person
from trivium.preferences.schema import JUDGEMENTS, MIGRATIONS, schema_version
from trivium.preferences.store import PreferenceStore
from trivium.preferences.transfer import copy_answers, copy_judgements
from trivium.preferences.votes import Vote

TEXTS = (
    "",
    "a\x00b",
    "a\x01b",
    "a\x01\x01b",
    "a\x01\x02",
    "%s ? %% 'quoted'",
    "Zebra",
    "apple",
    "äpfel",
    "日本 \U0001f600",
    "é",
)


def judged(store: PreferenceStore, **fields: Any) -> str:
    samples = (Sample(text="good", passed=True), Sample(text="bad", passed=False, sample=1))
    return store.add_judgement(Judgement(prompt="p", completions=samples, ranking=((0,), (1,)), **fields))


def test_a_file_of_the_first_version_opens_and_keeps_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "preferences.db"
    with PreferenceStore(path) as store:
        judged(store, source="execution")
        before = store.fingerprint()
        tables = {row["name"] for row in store.db.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
    first = {name for name in tables if f"CREATE TABLE {name} " in JUDGEMENTS.script} | {"migrations"}
    with sqlite3.connect(path) as raw:
        for name in sorted(
            tables - first, key=lambda name: name in ("judgements", "people", "comparisons", "assignments")
        ):
            raw.execute("PRAGMA foreign_keys = OFF")
            raw.execute(f"DROP TABLE {name}")
        raw.execute("DELETE FROM migrations WHERE version > 1")
    with PreferenceStore(path) as store:
        assert schema_version(store.db) == len(MIGRATIONS)
        assert store.fingerprint() == before and len(list(store.pairs())) == 1
        add_person(store, "ada", "owner")
        assert fill(store) == 1
        held = LabellingDesk(store).next("ada")
        assert held is not None


def test_opening_twice_changes_nothing(location: str) -> None:
    with PreferenceStore(location) as one, PreferenceStore(location) as two:
        assert schema_version(one.db) == schema_version(two.db) == len(MIGRATIONS)
        judged(one)
        assert two.counts()["judgements"] == 1


def test_both_databases_keep_every_text_and_order_alike(location: str, tmp_path: Path) -> None:
    with PreferenceStore(location) as store, PreferenceStore(":memory:") as other:
        for each in (store, other):
            prompts = each.add_prompts((text, "", "train") for text in TEXTS)
            each.add_samples((prompts[0], Sample(text=text, sample=at)) for at, text in enumerate(TEXTS))
        assert sorted(prompt.text for prompt in store.prompts()) == sorted(TEXTS)
        assert [prompt.text for prompt in store.prompts()] == [prompt.text for prompt in other.prompts()]
        assert {stored.sample.text for stored in store.completions()} == set(TEXTS)
        for each in (store, other):
            for margin in (0.1, 1 / 3, None):
                judged(
                    each, source="s", margin=margin, agreement=0.7, comment="\x00", details={"k": ["\x01", 1.5, None]}
                )
        assert store.fingerprint() == other.fingerprint()
        export_preferences(store, tmp_path / "one.jsonl")
        export_preferences(other, tmp_path / "two.jsonl")
        assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_a_team_s_judgements_come_back_to_the_run_with_their_history(location: str, tmp_path: Path) -> None:
    run = tmp_path / "run.db"
    with PreferenceStore(run) as store:
        names = store.add_prompts((f"p{at}", "", "train") for at in range(3))
        store.add_samples((name, Sample(text=f"answer {at}", sample=at, round=1)) for name in names for at in range(2))
    with PreferenceStore(location) as team, PreferenceStore(run) as store:
        copy_answers(store, team)
        add_person(team, "ada", "owner")
        fill(team)
        desk = LabellingDesk(team)
        for number in range(3):
            held = desk.next("ada")
            assert held is not None
            desk.vote("ada", held.id, Vote(choice="A"), f"request {number}")
            desk.vote("ada", held.id, Vote(choice="B"), f"request {number} again", edit=True)
        desk.undo("ada", since="")
        added = copy_judgements(team, store)
        assert (added.new, added.duplicates) == (7, 0)
        assert copy_judgements(team, store).new == 0
        assert store.counts()["judgements"] == team.counts()["judgements"] == 2
        assert {each.key for each in store.judgements(history=True)} == {
            each.key for each in team.judgements(history=True)
        }
        assert {each.judgement.round for each in store.judgements()} == {1}
    assert main(["prefs", "import", location, "--store", str(tmp_path / "third.db")]) == 0
    assert main(["prefs", "stats", "--store", location]) == 0
    assert main(["prefs", "export", str(tmp_path / "out.jsonl"), "--store", location]) == 0
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 2


def test_another_program_s_database_is_left_alone(postgres_location: str) -> None:
    with PreferenceStore(postgres_location) as store:
        store.db.execute("ALTER TABLE migrations RENAME TO other")
    with pytest.raises(DataError, match="tables of something else"):
        PreferenceStore(postgres_location)


def test_urls_show_no_password_and_need_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown_location("postgresql://ada:secret@db/labels") == "postgresql://ada:***@db/labels"
    assert not is_url("runs/postgresql.db") and is_url("postgres://db")
    with pytest.raises(DataError, match=r"ada:\*\*\*@.*cannot be reached") as caught:
        open_database("postgresql://ada:secret@localhost:1/labels")
    assert "secret" not in str(caught.value)
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install 'trivium\[postgres\]'"):
        open_database("postgresql://db/labels")
