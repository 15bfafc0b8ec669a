"""Commands without a recipe: wrong arguments give one line and exit code 2; results come as text and JSON."""

import json
from pathlib import Path

import pytest

from trivium.cli import main


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "prefs",
            "the following arguments are required: import|export|stats|judge|label. `trivium prefs --help` shows",
        ),
        ("prefs import", "the following arguments are required: file. `trivium prefs import --help` shows"),
        ("prefs import a.jsonl --stoer x", "--stoer: no such option. Did you mean --store?"),
        ("prefs import missing.jsonl", "missing.jsonl does not exist. Check the path."),
        ("prefs export out.jsonl --store none.db", "none.db does not exist."),
        ("prefs label", "runs/quickstart/preferences.db does not exist."),
        ("prefs ixport", "argument import|export|stats|judge|label: invalid choice: 'ixport'"),
        ("runs nowhere", "nowhere is not a folder of runs."),
        ("runs --jsn", "--jsn: no such option. Did you mean --json?"),
        ("report nowhere", "nowhere is not a run directory."),
        ("convert a", "the following arguments are required: target."),
        ("convert a b", "a is not a model directory: it has no config.json."),
        ("convert a . --dtype float32", ". exists already. Name a new directory."),
        ("doctor --jsn", "--jsn: no such option. Did you mean --json?"),
        ("doctor data x.jsonl", "the following arguments are required: --model."),
        (
            "doctor data x.jsonl --model m --rows 0",
            "argument --rows: expected a whole number from 1 to 1000000, got '0'",
        ),
    ],
)
def test_wrong_arguments(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith(f"trivium: {message}")


def test_preferences_in_and_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad"} for i in range(3)]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["prefs", "import", "in.jsonl", "--store", "p.db", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["judgements"] == 3
    assert main(["prefs", "import", "in.jsonl", "--store", "p.db"]) == 0
    assert "3 records, 0 new judgements" in capsys.readouterr().out
    assert main(["prefs", "stats", "--store", "p.db"]) == 0
    assert "\npairs:\n  pairs        3\n" in capsys.readouterr().out
    assert main(["prefs", "stats", "--store", "p.db", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"]["pairs"] == 3
    assert main(["prefs", "export", "out.jsonl", "--store", "p.db", "--form", "pairs"]) == 0
    assert capsys.readouterr().out == "out.jsonl: 3 records\n"
    exported = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert sorted(row["prompt"] for row in exported) == ["q0", "q1", "q2"]


def test_a_broken_preference_line_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    good = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
    Path("in.jsonl").write_text(good + '{"prompt": "a", "chosen": \n')
    assert main(["prefs", "import", "in.jsonl", "--store", "p.db"]) == 2
    assert capsys.readouterr().err.startswith("trivium: in.jsonl:2: ")
    assert main(["prefs", "import", "in.jsonl", "--store", "p.db", "--on-error", "skip"]) == 0
    assert "1 bad records skipped, the first: in.jsonl:2" in capsys.readouterr().out


def test_an_empty_folder_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert "holds no run yet" in capsys.readouterr().out
    assert main(["runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
