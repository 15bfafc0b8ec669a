"""The scripted annotator of `make check-labels` on a real page, and what the check reads back."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the `label` extra is not installed")

import check_labels

from trivium.base.files import write_json
from trivium.preferences.store import PreferenceStore
from trivium.report import write_report


def test_the_annotator_presses_the_keys_that_the_tests_call_for(
    tmp_path: Path, with_answers: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / check_labels.RUN
    folder.mkdir(parents=True)
    with PreferenceStore(folder / "preferences.db") as store:
        with_answers(store, 25)
    pressed = check_labels.annotate(tmp_path, 20, check_labels.Log())
    assert pressed.keys() <= {"1", "2"} and pressed.total() == 20, "one answer of each pair passes"
    assert "20 judged" in capsys.readouterr().out
    found = check_labels.in_store(tmp_path)
    assert sum(map(Counter.total, found.values())) == 20 and set(found) <= {"human", "human-check"}
    with PreferenceStore(folder / "preferences.db", create=False) as store:
        for stored in store.judgements():
            judgement = stored.judgement
            assert judgement.completions[judgement.ranking[0][0]].passed, "the side shown never misleads"
            assert judgement.details["execution_seen"] and judgement.details["seconds"] == 4.0


def test_the_reports_table_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / check_labels.RUN
    labels = {"human": {"judgements": 60, "heldout": 9, "annotators": {"p1": 60}, "pairs_train": 30}}
    sources = {"human": {"accuracy": 0.78, "accuracy_ci": [0.44, 1.0], "pairs": 9}}
    write_json(folder / "R/rm.json", {"mean": 0.0, "std": 1.0, "labels": labels, "sources": sources})
    write_report(folder)
    assert check_labels.in_report(tmp_path) == {"human": ["p1 (60)", "60", "30", "9", "78.0%"]}
    write_json(folder / "R/rm.json", {"mean": 0.0, "std": 1.0})
    write_report(folder)
    assert check_labels.in_report(tmp_path) == {}
