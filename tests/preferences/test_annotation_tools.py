"""What Argilla and Label Studio export, read, kept whole, and refused with the place."""

import json
from pathlib import Path
from typing import Any

import pytest

from trivium.base.errors import DataError
from trivium.preferences.export import export_preferences
from trivium.preferences.formats import import_preferences
from trivium.preferences.judgement import Judgement
from trivium.preferences.store import PreferenceStore
from trivium.records import Message

SAMPLES = Path(__file__).parent / "samples"
FILES = ("argilla-2.json", "argilla-1.jsonl", "label-studio.json")


def read(name: str) -> tuple[dict[tuple[str, str], Judgement], dict[str, int]]:
    """Judgements of a sample file by record and annotator, and what was not used."""
    with PreferenceStore(":memory:") as store:
        report = import_preferences(SAMPLES / name, store)
        return {(j.id, j.annotator): j for j in (each.judgement for each in store.judgements())}, report.ignored


def texts(judgement: Judgement) -> list[list[str]]:
    return [[judgement.completions[index].text for index in tier] for tier in judgement.ranking]


def test_argilla_choices_rankings_and_what_belongs_to_them() -> None:
    found, ignored = read("argilla-2.json")
    assert {key: texts(judgement) for key, judgement in found.items()} == {
        ("double", "0b1c"): [["    return 2 * x\n"], ["    return x\n"]],
        ("double", "7f2e"): [["    return 2 * x\n"], ["    return x\n"]],
        ("negate", "0b1c"): [["-x"], ["0 - x"], ["x"]],
        ("negate", "7f2e"): [["-x", "0 - x"], ["x"]],
        ("half", "0b1c"): [["x / 3", "x"]],
    }
    assert ignored == {"responses that are draft": 1}
    assert {judgement.source for judgement in found.values()} == {"argilla"}
    assert found["negate", "0b1c"].prompt == (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Negate x."),
    )
    assert found["double", "0b1c"].details == {
        "argilla": {
            "question": "better",
            "responses": {"reason": "the other forgets the factor"},
            "metadata": {"round": 3},
            "suggestions": {"better": {"value": "response_b", "score": 0.4, "agent": "scorer"}},
            "_server_id": "5d0e",
        }
    }
    assert found["half", "0b1c"].details["choice"] == "both_bad"


def test_argilla_of_the_first_version_lists_responses_by_person() -> None:
    found, ignored = read("argilla-1.jsonl")
    ((key, judgement),) = found.items()
    assert key == ("square", "u1") and texts(judgement) == [["x * x"], ["x + x"]]
    assert ignored == {"responses that are discarded": 1}
    assert judgement.details["argilla"]["responses"] == {"note": "plain"}
    assert judgement.details["argilla"]["metadata"] == {"batch": "b7"}


def test_label_studio_pairs_rankings_and_choices() -> None:
    found, ignored = read("label-studio.json")
    assert {key: texts(judgement) for key, judgement in found.items()} == {
        ("11", "ada@example.org"): [["    return x + x\n"], ["    return x\n"]],
        ("12", "5"): [["two"], ["three"], ["one"]],
        ("13", "5"): [["4", "6"]],
        ("13", "4"): [["4"], ["6"]],
    }
    assert ignored == {"annotations that were cancelled": 1, "annotations that rank no answers": 1}
    first = found["11", "ada@example.org"]
    assert first.comment == "the left one does nothing"
    kept = first.details["label_studio"]
    assert (kept["id"], kept["ground_truth"], kept["lead_time"]) == (501, True, 9.5)
    assert kept["data"] == {"family": "arithmetic"}
    assert [each["type"] for each in kept["results"]] == ["rating"]
    assert "data" not in found["13", "4"].details["label_studio"] and "data" not in found["12", "5"].details


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("names", [True, False])
def test_what_came_from_a_tool_goes_out_and_in_again_unchanged(
    tmp_path: Path, name: str, suffix: str, names: bool
) -> None:
    first, second = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    with PreferenceStore(":memory:") as one, PreferenceStore(":memory:") as two:
        import_preferences(SAMPLES / name, one)
        export_preferences(one, first, names=names)
        import_preferences(first, two)
        export_preferences(two, second, names=names)
        assert first.read_bytes() == second.read_bytes()
        assert (one.fingerprint() == two.fingerprint()) == names
    assert (b"ada@example.org" in first.read_bytes()) == (names and name == "label-studio.json")


def pair(result: Any, **data: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "data": {"prompt": "p", "x": "a", "y": "b", **data},
        "annotations": [{"id": 2, "completed_by": 3, "result": result}],
    }


def ranked(order: Any) -> list[dict[str, Any]]:
    return [{"type": "ranker", "value": {"ranker": order}}]


ITEMS = [{"id": 1, "body": "a"}, {"id": 2, "body": "b"}]
ARGILLA = {"fields": {"prompt": "p", "x": "a", "y": "b"}, "responses": {}}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({**ARGILLA, "fields": []}, "fields: should be an object, is []"),
        ({**ARGILLA, "fields": {"x": "a", "y": "b"}}, "fields: has no prompt: it is one of prompt, instruction"),
        ({**ARGILLA, "fields": {"prompt": "p", "x": "a"}}, "fields: should hold two answers beside prompt, has x"),
        ({**ARGILLA, "fields": {"prompt": 3, "x": "a"}}, "fields.prompt: should be a text or a list of messages, is 3"),
        ({**ARGILLA, "fields": {"prompt": [{"role": "user"}]}}, "content: is missing"),
        ({**ARGILLA, "responses": "yes"}, "responses: should be an object or a list, is 'yes'"),
        ({**ARGILLA, "responses": {"q": ["x"]}}, "responses.q: should be a list of objects, is ['x']"),
        ({**ARGILLA, "responses": [{"values": 3}]}, "responses: should hold values by question, is 3"),
        (
            {**ARGILLA, "responses": {"q": [{"value": "x"}], "r": [{"value": "y"}]}},
            "responses: q, r all rank the answers; leave one of these questions",
        ),
        (
            {**ARGILLA, "responses": {"q": [{"value": ["x", "y", "x"]}]}},
            "responses: a ranking names an answer twice, ['x', 'y', 'x']",
        ),
        (pair("r"), "annotations[0].result: should be a list of objects, is 'r'"),
        (
            pair([{"type": "pairwise", "value": {"selected": "left"}}] * 2),
            "annotations[0].result: has 2 results that rank the answers, one is needed",
        ),
        (
            pair([{"type": "pairwise", "value": {"selected": "left"}}], z="c"),
            "annotations: 'left' chooses between 3 texts (x, y, z) beside prompt; give the two compared the names in",
        ),
        (
            pair([{"type": "pairwise", "value": {"selected": "up"}}]),
            "annotations: 'up' chooses between 2 texts (x, y) beside prompt",
        ),
        (
            pair(ranked({"best": [1]}), items=ITEMS),
            "annotations: ranker should order the ids 1, 2, is {'best': [1]}",
        ),
        (pair(ranked([1, 7]), items=ITEMS), "annotations: ranker should order the ids 1, 2, is [1, 7]"),
        (pair(ranked([1]), items=ITEMS), "annotations: ranker should order two items at least, is [1]"),
        (pair(ranked([1, 2])), "annotations: ranker should order the ids (none in data), is [1, 2]"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(tmp_path: Path, record: dict[str, Any], reason: str) -> None:
    path = tmp_path / "tool.json"
    path.write_text(json.dumps([record]))
    with PreferenceStore(":memory:") as store, pytest.raises(DataError) as caught:
        import_preferences(path, store)
    assert str(caught.value).startswith(f"{path}, record 1: {reason}") and "\n" not in str(caught.value)


def test_both_sides_can_be_named_in_many_ways(tmp_path: Path) -> None:
    for word, first in (("A", "a"), ("right", "b"), (2, "b"), ("Response Y", "b"), ("x", "a"), ("First", "a")):
        record = {"fields": {"prompt": "p", "x": "a", "response-y": "b"}, "responses": {"q": [{"value": word}]}}
        (tmp_path / "one.json").write_text(json.dumps([record]))
        with PreferenceStore(":memory:") as store:
            import_preferences(tmp_path / "one.json", store)
            assert next(store.pairs()).chosen == first, word
