import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.base.errors import DataError
from trivium.preferences.export import export_preferences
from trivium.preferences.formats import import_preferences
from trivium.preferences.judgement import Judgement, Sample
from trivium.preferences.statistics import preference_stats
from trivium.preferences.store import PreferenceStore
from trivium.records import Message


@pytest.fixture
def store():
    with PreferenceStore(":memory:") as opened:
        yield opened


def write(path, *rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


def test_pair_form_with_all_its_fields(tmp_path, store):
    record = {
        **PAIR,
        "id": 7,
        "source": "file",
        "annotator": "ann",
        "margin": 2,
        "agreement": None,
        "tie": False,
        "split": "heldout",
        "chosen_passed": True,
        "likes": 3,
    }
    report = import_preferences(write(tmp_path / "pairs.jsonl.gz", record, {**PAIR, "tie": True}), store)
    one, two = sorted(store.pairs(), key=lambda pair: pair.tie)
    assert (one.id, one.source, one.annotator, one.margin, one.agreement) == ("7", "file", "ann", 2.0, None)
    assert (one.chosen_passed, one.rejected_passed, one.tie, two.tie) == (True, None, False, True)
    assert store.prompts()[0].split == "heldout"
    assert (report.records, report.judgements, report.pairs) == (2, 2, {"pairs": 1, "ties": 1})
    assert report.ignored == {"likes": 1}
    assert "fields that were not used: likes (1)" in report.lines()


def test_ranking_form_with_messages_texts_and_ids(tmp_path, store):
    record = {
        "id": "r1",
        "prompt": [{"role": "system", "content": "short"}, {"role": "user", "content": "hi"}],
        "completions": [{"text": "a", "passed": True, "finish": "length"}, "b", {"ids": [4, 5]}, {"text": "d"}],
        "ranking": [[2], [0, 3], [1]],
        "annotator": "ann",
    }
    import_preferences(write(tmp_path / "rankings.jsonl", record), store)
    (stored,) = store.judgements()
    assert stored.judgement.tiers == (1, 2, 0, 1)
    assert stored.judgement.completions[0] == Sample(text="a", passed=True, finish="length")
    assert stored.judgement.completions[2].ids == (4, 5)
    assert stored.judgement.prompt == (Message(role="system", content="short"), Message(role="user", content="hi"))


def test_importing_again_adds_nothing(tmp_path, store):
    path = write(tmp_path / "pairs.jsonl", PAIR, PAIR, {**PAIR, "id": "other"})
    assert import_preferences(path, store).duplicates == 1
    before = store.fingerprint()
    assert import_preferences(path, store).judgements == 0
    assert store.fingerprint() == before


def test_report_counts_what_no_training_will_use(tmp_path, store):
    path = write(
        tmp_path / "pairs.jsonl",
        {**PAIR, "rejected": "a"},
        {**PAIR, "rejected": ""},
        PAIR,
        {**PAIR, "chosen": "b", "rejected": "a"},
        {**PAIR, "tie": True},
    )
    report = import_preferences(path, store)
    assert report.pairs == {"equal": 1, "empty": 1, "pairs": 2, "ties": 1}
    assert report.contradictions == 1
    assert "1 pairs of answers are judged both ways" in report.lines()
    stats = preference_stats(store)
    assert stats["contradictions"] == 1
    assert stats["pairs"] == {"equal": 1, "empty": 1, "ids_only": 0, "pairs": 2, "ties": 1}
    assert stats["judgements"]["source"] == {"": 5}
    assert stats["longer_wins"] == {"share": None, "n": 0}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("{", "is not JSON: Expecting property name"),
        (["p", "a", "b"], "should be an object with prompt, chosen and rejected, is ['p', 'a', 'b']"),
        ({"prompt": "p", "choosen": "a", "rejected": "b"}, "chosen: is missing from the pair form"),
        ({"prompt": "p", "choosen": "a", "rejected": "b"}, "is it the one named 'choosen'?"),
        ({"prompt": "p"}, "chosen: is missing from the pair form (prompt, chosen, rejected); the record has prompt"),
        ({**PAIR, "chosen": True}, "chosen: should be a valid string, is true"),
        ({**PAIR, "rejected": None}, "rejected: should be a valid string, is null"),
        ({**PAIR, "prompt": 3}, "prompt: should be a valid string, is 3"),
        ({**PAIR, "prompt": []}, "prompt: list should have at least 1 item"),
        ({**PAIR, "prompt": [{"role": "user"}]}, "prompt[0].content: field required"),
        ({**PAIR, "tie": "yes"}, "tie: should be a valid boolean, is 'yes'"),
        ({**PAIR, "margin": -1}, "margin: should be greater than or equal to 0, is -1"),
        ({**PAIR, "agreement": 2}, "agreement: should be less than or equal to 1, is 2"),
        ({**PAIR, "split": "test"}, "split: should be '', 'train' or 'heldout', is 'test'"),
        ('{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}', "prompt: holds half a surrogate pair"),
        ({"prompt": "p", "completions": ["a"], "ranking": [[0]]}, "completions: list should have at least 2 items"),
        ({"prompt": "p", "completions": ["a", {}], "ranking": [[0]]}, "completions[1]: should be a text, or an object"),
        ({"prompt": "p", "completions": ["a", 3], "ranking": [[0]]}, "completions[1]: should be a text, or an object"),
        ({"prompt": "p", "completions": ["a", {"text": "b", "round": -1}], "ranking": [[0]]}, "completions[1].round: "),
        ({"message_tree_id": "t", "prompt": "text"}, "prompt: should hold messages, is 'text'"),
        ({"message_tree_id": "t", "prompt": {"role": "prompter"}}, "text: is missing"),
        ({"message_tree_id": "t", "prompt": {"role": "prompter", "text": "x", "replies": [1]}}, "should hold messages"),
        (
            {"prompt": "p", "completions": ["a", "b"], "ranking": [[0], [2]]},
            "ranking names completion 2, but there are 2",
        ),
        (
            {"prompt": "p", "completions": ["a", {"text": 1}], "ranking": [[0]]},
            "completions[1].text: should be a valid string",
        ),
        ({"prompt": "p", "completions": ["a", "b"], "ranking": [[0], [0]]}, "ranking names completion 0 twice"),
        (
            {"instruction": "p", "input": "", "response1": True, "response2": "b", "annotator1": 1},
            "response1: should be a string, is true",
        ),
        (
            {"instruction": "p", "input": "", "response1": "a", "response2": "b", "annotator1": 3},
            "annotator1: should be 0, 1 or 2, is 3",
        ),
    ],
)
def test_bad_record_names_file_line_field_and_reason(tmp_path, store, record, reason):
    path = write(tmp_path / "pairs.jsonl", PAIR, "", record)
    with pytest.raises(DataError) as caught:
        import_preferences(path, store)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store.counts()["judgements"] == 0, "a file is imported whole or not at all"
    report = import_preferences(path, store, on_error="skip")
    assert report.judgements == 1
    assert len(report.skipped) == 1
    assert reason in report.skipped[0]
    assert "1 bad records skipped" in report.lines()[1]


def test_file_without_preferences_is_refused(tmp_path, store):
    with pytest.raises(DataError, match="holds no preference"):
        import_preferences(write(tmp_path / "empty.jsonl"), store)
    with pytest.raises(DataError, match=r"The first of 1 bad records: .*bad.jsonl:1"):
        import_preferences(write(tmp_path / "bad.jsonl", "{"), store, on_error="skip")
    with pytest.raises(DataError, match="does not exist"):
        import_preferences(tmp_path / "none.jsonl", store)


def test_pandalm_votes_become_judgements(tmp_path, store):
    record = {
        "idx": 3,
        "motivation_app": "x",
        "cmp_key": "m_n",
        "instruction": "Do",
        "input": "it",
        "response1": "one",
        "response2": "two",
        "annotator1": 1,
        "annotator2": 2,
        "annotator3": 0,
    }
    (tmp_path / "pandalm.json").write_text(json.dumps([record]))
    import_preferences(tmp_path / "pandalm.json", store)
    found = {pair.annotator: (pair.prompt, pair.chosen, pair.rejected, pair.tie) for pair in store.pairs()}
    assert found == {
        "annotator1": ("Do\n\nit", "one", "two", False),
        "annotator2": ("Do\n\nit", "two", "one", False),
        "annotator3": ("Do\n\nit", "one", "two", True),
    }
    assert {pair.id for pair in store.pairs()} == {"3-m_n"}


def test_conversation_trees_rank_siblings(tmp_path, store):
    def node(role, text, *replies, **fields):
        return {"role": role, "text": text, "message_id": text, "replies": list(replies), **fields}

    deep = node("prompter", "more", node("assistant", "x", rank=0), node("assistant", "y", rank=1))
    tree = node(
        "prompter",
        "hi",
        node("assistant", "fine", rank=1),
        node("assistant", "best", deep, rank=0),
        node("assistant", "gone", rank=2, deleted=True),
        node("assistant", "unranked"),
    )
    import_preferences(write(tmp_path / "trees.jsonl", {"message_tree_id": "t", "prompt": tree}), store)
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in store.pairs()] == [
        ("Human: hi\n\nAssistant: best\n\nHuman: more\n\nAssistant:", "x", "y"),
        ("hi", "best", "fine"),
    ]


def test_pairs_form_serves_other_tools(tmp_path, store):
    samples = tuple(Sample(text=text) for text in "abc")
    store.add_judgement(Judgement(prompt="p", completions=samples, ranking=((1,), (0, 2)), source="s"))
    report = export_preferences(store, tmp_path / "pairs.jsonl", form="pairs")
    assert (report.records, report.ties) == (3, 1)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert [(row["chosen"], row["rejected"], row.get("tie", False)) for row in rows] == [
        ("a", "c", True),
        ("b", "a", False),
        ("b", "c", False),
    ]


def test_export_of_an_edited_judgement_is_known_when_it_comes_back(tmp_path, store):
    plain = {"prompt": "p", "completions": (Sample(text="a"), Sample(text="b"))}
    first = store.add_judgement(Judgement(**plain, ranking=((0,), (1,))))
    store.add_judgement(Judgement(**plain, ranking=((1,), (0,)), supersedes=first))
    assert export_preferences(store, tmp_path / "out.jsonl").records == 1
    assert import_preferences(tmp_path / "out.jsonl", store).duplicates == 1


texts = st.text(max_size=6)
samples = st.builds(
    Sample,
    text=texts,
    ids=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    finish=st.sampled_from(["stop", "length", "error"]),
    passed=st.sampled_from([None, True, False]),
    tests_passed=st.none() | st.integers(0, 5),
    verdict=st.sampled_from(["", "timeout"]),
    model=st.sampled_from(["", "m"]),
    round=st.integers(0, 2),
    sample=st.integers(0, 2),
) | st.builds(Sample, text=texts)


@st.composite
def judgements(draw):
    completions = draw(st.lists(samples, min_size=2, max_size=4))
    order = draw(st.permutations(range(len(completions))))
    cuts = draw(st.lists(st.booleans(), min_size=len(order), max_size=len(order)))
    tiers: list[list[int]] = []
    for index, cut in zip(order[: draw(st.integers(1, len(order)))], cuts, strict=False):
        if cut or not tiers:
            tiers.append([])
        tiers[-1].append(index)
    messages = st.lists(
        st.builds(Message, role=st.sampled_from(["user", "system"]), content=texts), min_size=1, max_size=2
    )
    return Judgement(
        prompt=draw(texts | messages.map(tuple)),
        completions=tuple(completions),
        ranking=tuple(tuple(tier) for tier in tiers),
        id=draw(texts),
        annotator=draw(texts),
        source=draw(texts),
        split=draw(st.sampled_from(["", "train", "heldout"])),
        margin=draw(st.none() | st.floats(0, 9)),
        agreement=draw(st.none() | st.floats(0, 1)),
        comment=draw(texts),
        details=draw(st.dictionaries(texts, st.integers() | texts, max_size=2)),
    )


@settings(max_examples=25, deadline=None)
@given(
    st.lists(judgements(), min_size=1, max_size=5),
    st.sampled_from(["full", "rankings"]),
    st.sampled_from([".jsonl.gz", ".jsonl", ".parquet"]),
    st.booleans(),
)
def test_export_import_export_is_lossless_to_the_byte(tmp_path_factory, rows, form, suffix, names):
    folder = tmp_path_factory.mktemp("round-trip")
    first, second = folder / f"one{suffix}", folder / f"two{suffix}"
    with PreferenceStore(":memory:") as one, PreferenceStore(":memory:") as two:
        one.add_judgements(rows)
        assert export_preferences(one, first, form, names=names).records == one.counts()["judgements"]
        import_preferences(first, two)
        export_preferences(two, second, form, names=names)
        assert first.read_bytes() == second.read_bytes()
        if names:
            assert one.fingerprint() == two.fingerprint()
            assert import_preferences(first, one).judgements == 0
