"""What `trivium prefs export` writes: which judgements, in which form, and under whose name."""

import csv
import json
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from trivium.base.errors import ConfigError, DataError
from trivium.cli import main
from trivium.preferences.export import ExportReport, Selection, export_preferences
from trivium.preferences.formats import import_preferences
from trivium.preferences.judgement import CHECK_SOURCE, Judgement, Sample
from trivium.preferences.people import add_person, pseudonyms
from trivium.preferences.statistics import agreement_shares, label_sources
from trivium.preferences.store import PreferenceStore

A_WINS, B_WINS, TIE = ((0,), (1,)), ((1,), (0,)), ((0, 1),)


def said(prompt: str, ranking: Any, annotator: str, **more: Any) -> Judgement:
    values: dict[str, Any] = {"source": "human"} | more
    samples = (Sample(text="a"), Sample(text="b"))
    return Judgement(prompt=prompt, completions=samples, ranking=ranking, annotator=annotator, **values)


def join(store: PreferenceStore) -> None:
    """Zoe joins, and a day later Ada."""
    for name, day in (("zoe", 1), ("ada", 2)):
        add_person(store, name, "annotator")
        store.db.execute("UPDATE people SET created = ? WHERE name = ?", (f"2026-01-0{day}T00:00:00.000+00:00", name))


@pytest.fixture
def filled() -> Iterator[PreferenceStore]:
    """Three people on `p`, of whom two agree; one alone on `q`; a tie on `r`; a machine on `p`; a repeat."""
    with PreferenceStore(":memory:") as store:
        join(store)
        rows = [
            said("p", A_WINS, "zoe", details={"guidelines": 1}),
            said("p", A_WINS, "ada", details={"guidelines": 2}),
            said("p", B_WINS, "bob", margin=2.0),
            said("q", B_WINS, "ada", details={"guidelines": 2}),
            said("r", TIE, "ada"),
            said("p", A_WINS, "execution", source="execution"),
            said("p", B_WINS, "ada", source=CHECK_SOURCE),
        ]
        store.add_judgements(rows)
        yield store


def written(store: PreferenceStore, folder: Path, form: Any = "full", **selected: Any) -> list[dict[str, Any]]:
    path = folder / "out.jsonl"
    report = export_preferences(store, path, form, Selection(**selected), names=False)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert report.records == len(rows)
    return rows


def who(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return sorted((row["prompt"], row["annotator"]) for row in rows)


def test_people_are_numbered_as_they_joined_then_by_name_and_machines_keep_their_names(
    filled: PreferenceStore, tmp_path: Path
) -> None:
    assert pseudonyms(filled) == {"zoe": "p1", "ada": "p2", "bob": "p3"}
    rows = written(filled, tmp_path)
    assert {row["annotator"] for row in rows} == {"p1", "p2", "p3", "execution"}
    filled.add_judgement(said("s", TIE, "p2"))
    assert pseudonyms(filled) == {"zoe": "p1", "ada": "p3", "bob": "p4", "p2": "p2"}, "a pseudonym stays what it is"
    export_preferences(filled, tmp_path / "named.jsonl")
    assert {json.loads(line)["annotator"] for line in (tmp_path / "named.jsonl").read_text().splitlines()} == {
        *("zoe", "ada", "bob", "p2", "execution")
    }


def test_agreement_is_the_share_of_a_sources_annotators(filled: PreferenceStore, tmp_path: Path) -> None:
    shares = agreement_shares(filled)
    told = {(each.judgement.annotator, shares.get(each.key)) for each in filled.judgements(source="human")}
    assert told == {("zoe", 2 / 3), ("ada", 2 / 3), ("bob", 1 / 3), ("ada", None)}
    assert who(written(filled, tmp_path, min_agreement=0.5)) == [("p", "p1"), ("p", "p2")]
    assert who(written(filled, tmp_path, min_agreement=0.0)) == [("p", "p1"), ("p", "p2"), ("p", "p3")]
    report = export_preferences(filled, tmp_path / "x.jsonl", "full", Selection(min_agreement=0.5))
    assert report == ExportReport(records=2, ties=0, unknown_agreement=4)
    assert report.lines(Selection(min_agreement=0.5))[1].startswith("4 judgements of one annotator alone")
    filled.add_judgement(said("t", A_WINS, "", agreement=0.9))
    assert ("t", "") in {
        (row["prompt"], row.get("annotator", "")) for row in written(filled, tmp_path, min_agreement=0.8)
    }
    pairs = written(filled, tmp_path, "pairs", source="human")
    assert {(row["prompt"], row["annotator"]): row.get("agreement") for row in pairs if row["prompt"] != "t"} == {
        ("p", "p1"): 2 / 3,
        ("p", "p2"): 2 / 3,
        ("p", "p3"): 1 / 3,
        ("q", "p2"): None,
        ("r", "p2"): None,
    }


def test_filters_by_annotator_source_and_guideline(filled: PreferenceStore, tmp_path: Path) -> None:
    human = {"source": "human"}
    assert who(written(filled, tmp_path, annotator="ada", **human)) == [("p", "p2"), ("q", "p2"), ("r", "p2")]
    assert written(filled, tmp_path, annotator="p2") == written(filled, tmp_path, annotator="ada")
    assert who(written(filled, tmp_path, guideline=2)) == [("p", "p2"), ("q", "p2")]
    assert who(written(filled, tmp_path, source="execution")) == [("p", "execution")]
    assert len(written(filled, tmp_path, "pairs")) == 6, "judgements that check people train nothing"
    assert len(written(filled, tmp_path, "pairs", source=CHECK_SOURCE)) == 1


@pytest.mark.parametrize(("form", "suffix"), [("full", ".jsonl"), ("pairs", ".parquet"), ("log", ".csv")])
def test_ties_are_kept_or_dropped_and_counted(filled: PreferenceStore, tmp_path: Path, form: Any, suffix: str) -> None:
    kept = export_preferences(filled, tmp_path / f"a{suffix}", form, Selection(source="human"))
    dropped = export_preferences(filled, tmp_path / f"b{suffix}", form, Selection(source="human", ties=False))
    assert (kept.records, kept.ties, dropped.records, dropped.ties) == (5, 1, 4, 1)
    assert kept.lines(Selection()) == ["5 records, 1 of them ties"]
    assert dropped.lines(Selection(ties=False)) == ["4 records; 1 ties dropped"]


def test_order_is_of_content_and_bytes_repeat(filled: PreferenceStore, tmp_path: Path) -> None:
    rows = [each.judgement for each in filled.judgements()]
    with PreferenceStore(":memory:") as other:
        join(other)
        other.add_judgements(reversed(rows))
        for form in ("full", "pairs", "rankings"):
            for suffix in (".jsonl", ".jsonl.gz", ".parquet"):
                one, two = tmp_path / f"{form}-1{suffix}", tmp_path / f"{form}-2{suffix}"
                export_preferences(filled, one, form, names=False)
                export_preferences(other, two, form, names=False)
                assert one.read_bytes() == two.read_bytes(), (form, suffix)


def test_pairs_come_back_as_they_went(filled: PreferenceStore, tmp_path: Path) -> None:
    for suffix in (".jsonl", ".parquet"):
        one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
        with PreferenceStore(":memory:") as other:
            export_preferences(filled, one, "pairs", names=False)
            import_preferences(one, other)
            export_preferences(other, two, "pairs", names=False)
        assert one.read_bytes() == two.read_bytes()


def test_parquet_opens_in_other_tools(filled: PreferenceStore, tmp_path: Path) -> None:
    export_preferences(filled, tmp_path / "pairs.parquet", "pairs", Selection(source="human"), names=False)
    table = pyarrow.parquet.read_table(tmp_path / "pairs.parquet")
    assert table.column_names[:4] == ["id", "prompt", "chosen", "rejected"]
    assert [(row["chosen"], row["margin"]) for row in table.to_pylist() if row["annotator"] == "p3"] == [("b", 2.0)]
    export_preferences(filled, tmp_path / "none.parquet", "pairs", Selection(split="none"))
    assert pyarrow.parquet.read_table(tmp_path / "none.parquet").num_rows == 0
    with PreferenceStore(":memory:") as other, pytest.raises(DataError, match="none.parquet holds no preference"):
        import_preferences(tmp_path / "none.parquet", other)


def test_tables_of_others_are_read(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": math.nan, "made": datetime(2026, 1, 2), "tie": None},
        {"prompt": "q", "chosen": "c", "rejected": "d", "margin": 2.0, "made": None, "tie": True},
    ]
    for row in rows:
        row["details"] = {"when": row["made"], "score": math.nan, "tags": [1.5, math.nan]}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "others.parquet")
    with PreferenceStore(":memory:") as store:
        report = import_preferences(tmp_path / "others.parquet", store)
        first, second = (stored.judgement for stored in store.judgements())
    assert report.ignored == {"made": 1} and (first.margin, second.margin) == (None, 2.0)
    assert first.details == {"when": "2026-01-02 00:00:00", "tags": [1.5, None]} and second.details == {
        "tags": [1.5, None]
    }
    pyarrow.parquet.write_table(
        pyarrow.table({"prompt": ["p"], "chosen": [3], "rejected": ["b"]}), tmp_path / "n.parquet"
    )
    with PreferenceStore(":memory:") as store, pytest.raises(DataError, match=r"n.parquet, row 1: chosen: should be a"):
        import_preferences(tmp_path / "n.parquet", store)


def test_the_log_tells_what_was_superseded_and_runs_nothing(tmp_path: Path) -> None:
    with PreferenceStore(":memory:") as store:
        first = store.add_judgement(said("p", A_WINS, "ada", comment="=1+1"))
        store.add_judgement(said("p", B_WINS, "ada", supersedes=first))
        assert export_preferences(store, tmp_path / "log.csv", "log", names=False).records == 2
        rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert {(row["annotator"], row["comment"], row["supersedes"]) for row in rows} == {
        ("p1", "'=1+1", ""),
        ("p1", "", first),
    }


@pytest.mark.parametrize(("form", "name"), [("log", "x.parquet"), ("full", "x.csv"), ("pairs", "x.csv")])
def test_a_suffix_that_does_not_fit_the_form_is_refused(
    filled: PreferenceStore, tmp_path: Path, form: Any, name: str
) -> None:
    with pytest.raises(ConfigError, match="the log is written as CSV"):
        export_preferences(filled, tmp_path / name, form)
    assert not (tmp_path / name).exists()


def test_the_command_writes_pseudonyms_unless_names_are_asked_for(
    filled: PreferenceStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, out = tmp_path / "p.db", tmp_path / "out.jsonl"
    export_preferences(filled, tmp_path / "in.jsonl")
    assert main(["prefs", "import", str(tmp_path / "in.jsonl"), "--store", str(store)]) == 0
    command = ["prefs", "export", str(out), "--store", str(store), "--source", "human"]
    assert main([*command, "--annotator", "ada", "--ties", "drop", "--guideline", "2"]) == 0
    assert capsys.readouterr().out.endswith(f"{out}: 2 records; 0 ties dropped\n")
    assert {json.loads(line)["annotator"] for line in out.read_text().splitlines()} == {"p1"}
    assert main([*command, "--min-agreement", "0.6", "--names", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == {"path": str(out), "records": 2, "ties": 0, "unknown_agreement": 2}
    assert {json.loads(line)["annotator"] for line in out.read_text().splitlines()} == {"ada", "zoe"}
    assert main([*command, "--guideline", "7"]) == 2
    assert "holds no judgements under guideline 7: [1, 2]. Name one." in capsys.readouterr().err
    assert main([*command, "--annotator", "eve"]) == 2
    assert "holds no judgements of annotator 'eve'" in capsys.readouterr().err


def test_labels_are_counted_by_source_and_person_for_the_rounds_that_r_learns_from(filled: PreferenceStore) -> None:
    later = (Sample(text="a", round=1), Sample(text="b", round=1))
    filled.add_judgement(
        Judgement(prompt="z", completions=later, ranking=A_WINS, source="execution", annotator="execution")
    )
    filled.add_judgement(said("h", A_WINS, "bob", split="heldout"))
    first = label_sources(filled, through_round=0)
    assert list(first) == ["execution", "human"], "judgements that check people train nothing"
    assert first["human"]["judgements"] == 6 and first["human"]["annotators"] == {"p1": 1, "p2": 3, "p3": 2}
    splits = [each.judgement.split for each in filled.judgements(source="human")]
    assert first["human"]["heldout"] == splits.count("heldout") >= 1
    assert first["execution"]["annotators"] == {"execution": 1}
    assert label_sources(filled, through_round=1)["execution"]["judgements"] == 2
