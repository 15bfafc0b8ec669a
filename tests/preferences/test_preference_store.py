import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter

import pytest

from trivium.base.errors import DataError, RunDirError
from trivium.preferences.judgement import Judgement, Prompt, Sample, prompt_split, prompt_text
from trivium.preferences.schema import MIGRATIONS
from trivium.preferences.store import PreferenceStore
from trivium.records import Message, Preference


@pytest.fixture
def sqlite_store(tmp_path):
    with PreferenceStore(tmp_path / "preferences.db") as opened:
        yield opened


def judgement(prompt: Prompt = "p", texts=("good", "bad"), ranking=((0,), (1,)), **fields):
    return Judgement(prompt=prompt, completions=tuple(Sample(text=text) for text in texts), ranking=ranking, **fields)


def test_samples_are_added_once_and_take_on_outcomes(store):
    prompt = store.add_prompt("def f(x):\n", task="ladder-1")
    sample = Sample(text="    return x\n", ids=(5, 6, 2), finish="stop", model="abc", round=1, sample=3)
    first = store.add_samples([(prompt, sample)])
    tested = sample.model_copy(update={"passed": True, "tests_passed": 4, "tests_total": 4, "verdict": "passed"})
    assert store.add_samples([(prompt, tested), (prompt, sample)]) == first * 2
    (found,) = store.completions(prompt)
    assert found.sample == tested, "an outcome is taken on, and not lost when the sample comes again without"
    assert store.prompts()[0].task == "ladder-1"
    assert store.sampled("abc", 1) == {prompt: {3}}
    assert store.sampled("abc", 0) == {}


def test_same_text_of_other_model_round_or_index_is_another_sample(store):
    prompt = store.add_prompt("p")
    samples = [Sample(text="t"), Sample(text="t", model="b"), Sample(text="t", round=1), Sample(text="t", sample=1)]
    assert len(set(store.add_samples((prompt, sample) for sample in samples))) == 4
    assert [each.sample for each in store.completions(prompt, round=1)] == [samples[2]]
    assert [each.sample for each in store.completions(prompt, model="b")] == [samples[1]]


def test_judgement_is_added_once_with_prompt_and_completions(store):
    added = store.add_judgements([judgement(source="human"), judgement(source="human"), judgement(source="other")])
    assert (added.new, added.duplicates, len(added.keys)) == (2, 1, 3)
    assert store.add_judgements([judgement(source="human")]).duplicates == 1
    assert store.counts() == {"prompts": 1, "completions": 2, "judgements": 2, "superseded": 0}


def test_judgement_refers_to_samples_that_are_there(store):
    prompt = store.add_prompt("p")
    samples = (Sample(text="a", ids=(1,), passed=True), Sample(text="b", ids=(2,), passed=False, sample=1))
    names = store.add_samples((prompt, sample) for sample in samples)
    store.add_judgement(Judgement(prompt="p", completions=samples, ranking=((0,), (1,)), source="execution"))
    assert [each.id for each in store.completions()] == names
    (pair,) = store.pairs()
    assert pair == Preference(
        prompt="p", chosen="a", rejected="b", source="execution", chosen_passed=True, rejected_passed=False
    )


def test_ranking_gives_every_pair_and_ties_are_marked(store):
    store.add_judgement(judgement(texts="abcd", ranking=((2,), (0, 3), (1,)), id="r", margin=0.5))
    pairs = [(pair.chosen, pair.rejected, pair.tie) for pair in store.pairs()]
    assert sorted(pairs) == [
        ("a", "b", False),
        ("a", "d", True),
        ("c", "a", False),
        ("c", "b", False),
        ("c", "d", False),
        ("d", "b", False),
    ]
    assert {pair.margin for pair in store.pairs()} == {0.5}
    assert len({pair.id for pair in store.pairs()}) == 6


def test_equal_and_empty_answers_are_left_out_and_counted(store):
    store.add_judgements([judgement(texts=("x", "x")), judgement(texts=("x", " \n")), judgement(texts=("x", "y"))])
    store.add_judgement(
        Judgement(prompt="p", completions=(Sample(ids=(1,), text=""), Sample(text="y")), ranking=((0, 1),))
    )
    counts = Counter()
    assert [(pair.chosen, pair.rejected) for pair in store.pairs(counts=counts)] == [("x", "y")]
    assert counts == {"equal": 1, "empty": 1, "ids_only": 1, "pairs": 1}


def test_partial_ranking_leaves_the_rest_out_but_keeps_it(store):
    store.add_judgement(judgement(texts="abc", ranking=((2,), (0,))))
    (stored,) = store.judgements()
    assert stored.judgement.tiers == (1, None, 0)
    assert [(pair.chosen, pair.rejected) for pair in store.pairs()] == [("c", "a")]


def test_filters(store):
    early = judgement("one", source="execution")
    late = Judgement(
        prompt="one",
        completions=(Sample(text="a", round=2), Sample(text="b")),
        ranking=((0,), (1,)),
        source="simulated",
        annotator="ann",
    )
    store.add_judgements([early, late, judgement("two", source="execution", split="heldout")])
    assert len(list(store.pairs(source="execution"))) == 2
    assert [pair.chosen for pair in store.pairs(round=2)] == ["a"]
    assert [pair.prompt for pair in store.pairs(split="heldout")] == ["two"]
    assert [each.judgement for each in store.judgements(annotator="ann")] == [
        late.model_copy(update={"split": "train"})
    ]
    assert [prompt.text for prompt in store.prompts("heldout")] == ["two"]


def test_split_is_a_function_of_the_prompt_and_stays(store):
    texts = [f"prompt {index}" for index in range(2000)]
    store.add_prompts((text, "", "") for text in texts)
    heldout = {prompt.text for prompt in store.prompts("heldout")}
    assert 150 < len(heldout) < 250
    assert heldout == {text for text in texts if prompt_split(text) == "heldout"}
    assert prompt_split((Message(role="user", content=texts[0]),)) == prompt_split(texts[0])
    other = "train" if texts[0] in heldout else "heldout"
    added = store.add_judgements([judgement(texts[0], split=other), judgement(texts[1])])
    assert added.kept_split == 1
    assert {prompt.text for prompt in store.prompts("heldout")} == heldout


def test_messages_stay_messages(store):
    turns = (
        Message(role="user", content="hi"),
        Message(role="assistant", content="yes?"),
        Message(role="user", content="go"),
    )
    store.add_judgement(judgement(turns))
    assert store.prompts()[0].prompt == turns
    assert next(store.pairs()).prompt == "Human: hi\n\nAssistant: yes?\n\nHuman: go\n\nAssistant:"
    assert prompt_text(turns[:1]) == "hi"


def test_edits_append_and_the_last_one_counts(store):
    first = store.add_judgement(judgement(annotator="ann"))
    second = store.add_judgement(judgement(annotator="ann", ranking=((1,), (0,)), supersedes=first))
    assert [pair.chosen for pair in store.pairs()] == ["bad"]
    back = store.add_judgement(judgement(annotator="ann", supersedes=second))
    assert [pair.chosen for pair in store.pairs()] == ["good"], "an edit may return to what was said at first"
    assert store.add_judgement(judgement(annotator="ann", supersedes=second)) == back
    retraction = store.add_judgement(judgement(annotator="ann", ranking=(), supersedes=back))
    assert list(store.pairs()) == []
    assert {each.key for each in store.judgements(history=True)} == {first, second, back, retraction}
    assert store.counts()["superseded"] == 4


def test_edit_must_name_a_standing_judgement_of_the_prompt(store):
    first = store.add_judgement(judgement())
    store.add_judgement(judgement(ranking=((1,), (0,)), supersedes=first))
    with pytest.raises(DataError, match="has been replaced by"):
        store.add_judgement(judgement(ranking=((0, 1),), supersedes=first))
    with pytest.raises(DataError, match="no judgement of this prompt"):
        store.add_judgement(judgement("other", supersedes=first))
    assert store.counts()["prompts"] == 1, "a refused judgement leaves nothing behind"


def test_judgements_cannot_be_changed_or_removed(sqlite_store, tmp_path):
    sqlite_store.add_judgement(judgement())
    with sqlite3.connect(tmp_path / "preferences.db") as raw:
        for statement in ("UPDATE judgements SET margin = 1", "DELETE FROM judgements", "DELETE FROM rankings"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)


def test_transaction_is_all_or_nothing(store):
    with pytest.raises(KeyboardInterrupt), store.transaction():
        store.add_judgement(judgement())
        raise KeyboardInterrupt
    assert store.counts()["prompts"] == 0


def test_unjudged_prompts_of_a_round(store):
    one, two, _ = store.add_prompts([("one", "", ""), ("two", "", ""), ("none", "", "")])
    samples = [Sample(text=text, round=1, sample=at) for at, text in enumerate("ab")]
    store.add_samples((prompt, sample) for prompt in (one, two) for sample in samples)
    store.add_judgement(Judgement(prompt="one", completions=tuple(samples), ranking=((0, 1),), source="execution"))
    assert store.unjudged("execution", 1) == [two]
    assert set(store.unjudged("simulated", 1)) == {one, two}
    assert store.unjudged("execution", 0) == []


def test_fingerprint_follows_the_content_alone(store):
    with PreferenceStore(":memory:") as other:
        rows = [judgement("one"), judgement("two")]
        store.add_judgements(rows)
        other.add_judgements(reversed(rows))
        assert store.fingerprint() == other.fingerprint()
        other.add_judgement(judgement("three"))
        assert store.fingerprint() != other.fingerprint()


COLLECT = """
import sys
from trivium.preferences.judgement import Judgement, Sample
from trivium.preferences.store import PreferenceStore

with PreferenceStore(sys.argv[1]) as store:
    for start in range(0, 400, 8):
        samples = [Sample(text=f"{at}", model="m", sample=at) for at in range(4)]
        with store.transaction():
            for prompt in store.add_prompts((f"prompt {i}", "", "") for i in range(start, start + 8)):
                store.add_samples((prompt, sample) for sample in samples)
        store.add_judgements(
            Judgement(prompt=f"prompt {i}", completions=samples, ranking=((0,), (1, 2, 3)))
            for i in range(start, start + 8)
        )
        print(start, flush=True)
"""


def test_killed_collection_goes_on_without_loss_or_doubles(tmp_path):
    path = tmp_path / "preferences.db"
    command = [sys.executable, "-c", COLLECT, str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "src"}
    ) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(5)][-1]
        process.send_signal(signal.SIGKILL)
    with PreferenceStore(path) as store:
        counts = store.counts()
        assert counts["judgements"] >= acknowledged + 8, "what was acknowledged is there"
        assert counts["prompts"] < 400, "it was killed before its end"
        assert counts["completions"] == 4 * counts["prompts"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": "src"})
    with PreferenceStore(path) as store:
        assert store.counts() == {"prompts": 400, "completions": 1600, "judgements": 400, "superseded": 0}


def test_thousands_of_completions_are_added_quickly(store):
    prompts = store.add_prompts((f"prompt {index}", "", "") for index in range(1000))
    samples = [Sample(text="    return x\n" * 5, ids=tuple(range(60)), sample=at) for at in range(6)]
    started = time.process_time()
    store.add_samples((prompt, sample) for prompt in prompts for sample in samples)
    assert store.counts()["completions"] == 6000
    assert time.process_time() - started < 3, "about 0.2 s of a core, however busy the machine is"


def test_other_files_and_newer_versions_are_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        PreferenceStore(tmp_path / "none.db", create=False)
    (tmp_path / "text.db").write_text("no database, but long enough to be looked at " * 100)
    with pytest.raises(DataError, match="no sound preference database"):
        PreferenceStore(tmp_path / "text.db")
    with sqlite3.connect(tmp_path / "other.db") as raw:
        raw.execute("CREATE TABLE photos (id)")
    with pytest.raises(DataError, match="database of something else"):
        PreferenceStore(tmp_path / "other.db")
    PreferenceStore(tmp_path / "newer.db").close()
    with sqlite3.connect(tmp_path / "newer.db") as raw:
        raw.execute("INSERT INTO migrations VALUES (?, 'later')", (len(MIGRATIONS) + 1,))
    with pytest.raises(DataError, match="Use the release that wrote it"):
        PreferenceStore(tmp_path / "newer.db")
    with pytest.raises(DataError, match="cannot be used"):
        PreferenceStore(tmp_path)


def test_locked_file_is_told_apart_from_a_broken_one(sqlite_store, tmp_path):
    store = sqlite_store
    with sqlite3.connect(tmp_path / "preferences.db", isolation_level=None) as raw:
        raw.execute("BEGIN IMMEDIATE")
        store.db.execute("PRAGMA busy_timeout = 50")
        with pytest.raises(RunDirError, match="in use by another process"):
            store.add_prompt("p")
        raw.execute("ROLLBACK")
    store.add_prompt("p")


def test_ranking_must_fit_the_completions():
    for ranking, reason in (
        (((0,), (2,)), "completion 2, but there are 2"),
        (((0, 0),), "twice"),
        (((0,), ()), "empty tier"),
    ):
        with pytest.raises(ValueError, match=reason):
            judgement(ranking=ranking)


def test_a_full_disk_is_an_error_of_the_system_and_undoes_the_transaction(tmp_path):
    """SQLite's own limit on the file's size stands for the disk's; the command line tells it as any full disk."""
    with PreferenceStore(tmp_path / "a.db") as store:
        name = store.add_prompt("x = ")
        store.db.execute(f"PRAGMA max_page_count = {store.db.value('PRAGMA page_count') + 2}")
        with pytest.raises(OSError) as caught, store.transaction():
            for index in range(1000):
                store.add_samples([(name, Sample(text="1" * 500, finish="stop", sample=index))])
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, store.path)
        assert store.counts()["completions"] == 0
