"""The labelling page over HTTP: what is sent before a vote, and what a vote leaves."""

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the `label` extra is not installed")

from label_site import PLAIN, Site, csrf, fields

from trivium.preferences.judgement import Sample
from trivium.preferences.pairs import ranked_from_store
from trivium.preferences.web.app import create_app
from trivium.preferences.web.execution import Trials
from trivium.preferences.web.rendering import code, side_by_side, unified_diff
from trivium.records import Task


def test_a_vote_is_stored_before_the_answer_and_trains_a_reward_model(site: Site) -> None:
    ada = site.person("ada", "owner")
    for number in range(12):
        page = ada.get("/label").text
        assert f"Comparison {number + 1}<" in page
        form = fields(page) | {"choice": "A2" if number == 0 else "A", "note": "short\r\n", "criterion-correct": "-1"}
        answer = ada.post("/label", data=form | {"seconds": "3.25"})
        assert answer.status_code == 200 and "Saved: A is" in answer.text
        assert site.store.counts()["judgements"] == number + 1
    assert "Nothing left to judge" in answer.text
    every = [stored.judgement for stored in site.store.judgements()]
    assert {each.source for each in every} == {"human"} and {each.annotator for each in every} == {"ada"}
    assert every[0].details["criteria"] == {"correct": -1} and every[0].comment == "short"
    assert sorted({each.margin for each in every if each.margin}) == [1.0, 2.0]
    groups = ranked_from_store(site.store)
    assert len(groups) == 12 and {group.source for group in groups} == {"human"}
    assert all(group.pairs for group in groups)


def test_nothing_that_tells_who_wrote_an_answer_is_sent_before_the_vote(site: Site) -> None:
    ada = site.person("ada")
    names = {
        row["id"]
        for table in ("prompts", "completions", "comparisons")
        for row in site.store.db.rows(f"SELECT id FROM {table}")
    }
    for path in ("/label", "/label?diff=unified", "/label?diff=side", "/label/history", "/label/guidelines", "/stats"):
        answer = ada.get(path)
        sent = answer.text + str(answer.headers) + str(answer.url)
        assert "model-f00d" not in sent and "passed" not in sent and "tests pass" not in sent, path
        assert not any(name in sent for name in names), path
    one, two = re.findall(r'<article class="side".*?</article>', ada.get("/label").text, re.S)
    strip = lambda text: re.sub(r"<code>.*?</code>|\b[AB]\b|/\d\"|unsafe-\d", "", text, flags=re.S)  # noqa: E731
    assert strip(one) == strip(two), "both sides are built alike"


def test_tests_are_shown_when_the_settings_say_so_and_that_is_recorded(site: Site) -> None:
    ada = site.person("ada")
    page = ada.get("/label").text
    shown = ada.post("/label/execution", data=fields(page)).text
    assert "passed: 4 of 4 tests pass" in shown and "failed: 1 of 4 tests pass" in shown
    ada.post("/label", data=fields(shown) | {"choice": "tie"})
    (stored,) = site.store.judgements()
    assert stored.judgement.details["execution_seen"] is True
    site.configure(execution="after")
    page = ada.get("/label").text
    assert "tests pass" not in page
    assert ada.post("/label/execution", data=fields(page)).status_code == 403
    after = ada.post("/label", data=fields(page) | {"choice": "tie"}).text
    assert after.count("of 4 tests pass") == 2, "in the status line, of the comparison just judged"
    site.configure(execution="before")
    page = ada.get("/label").text
    assert page.count("of 4 tests pass") == 2
    ada.post("/label", data=fields(page) | {"choice": "tie"})
    seen = [each.judgement.details["execution_seen"] for each in site.store.judgements()]
    assert sorted(seen) == [False, True, True]


@pytest.mark.parametrize(("execution", "shown"), [("never", False), ("on_demand", True), ("after", True)])
def test_an_edit_that_knows_the_outcome_says_so(site: Site, execution: str, shown: bool) -> None:
    site.configure(execution=execution)
    ada = site.person("ada")
    ada.post("/label", data=fields(ada.get("/label").text) | {"choice": "A"})
    (path,) = re.findall(r'href="(/label/history/[^"]+)"', ada.get("/label/history").text)
    page = ada.get(path).text
    assert ("tests pass" in page) == shown
    ada.post(path, data=fields(page) | {"choice": "B"})
    said = [each.judgement.details["execution_seen"] for each in site.store.judgements(history=True)]
    assert sorted(said) == [False, shown]


@pytest.mark.parametrize(("execution", "seen"), [("never", False), ("on_demand", False), ("after", True)])
def test_a_vote_after_undo_says_that_the_first_one_told_the_outcome(site: Site, execution: str, seen: bool) -> None:
    site.configure(execution=execution)
    ada = site.person("ada")
    form = fields(ada.get("/label").text)
    assert ("tests pass" in ada.post("/label", data=form | {"choice": "A"}).text) == seen
    page = ada.post("/label/undo", data={"csrf": form["csrf"]}).text
    assert fields(page)["assignment"] == form["assignment"]
    ada.post("/label", data=fields(page) | {"choice": "B"})
    (said,) = site.store.judgements()
    assert said.judgement.details["execution_seen"] == seen


def test_answers_are_run_in_the_sandbox_when_asked_for(tmp_path: Path, with_answers: Any) -> None:
    tasks = [
        Task(id=f"t{at}", prompt=f"def f{at:04}(x):\n", entry_point=f"f{at:04}", tests=(f"assert f{at:04}(3) == 3",))
        for at in range(2)
    ]
    trials = Trials(lambda: iter(tasks[1:]))
    site = Site(str(tmp_path / "run.db"))
    site.app = create_app(site.location, site.address, trials)
    with_answers(site.store, 2)
    site.configure()
    ada = site.person("ada")
    for _ in range(2):
        page = ada.get("/label").text
        assert "First failure" not in page
        shown = ada.post("/label/execution", data=fields(page)).text
        if "f0001" in shown:
            assert len(re.findall(r"First failure: <code>assert f0001\(3\) == 3", shown)) == 1, "x + 1 is not x"
            assert len(re.findall(r"<span>\d\.\d\d s</span>", shown)) == 2
        else:
            assert "First failure" not in shown and shown.count("of 4 tests pass") == 2
        ada.post("/label", data=fields(shown) | {"choice": "tie"})
    trials.close()
    site.store.close()


def test_undo_skip_draft_and_reload(site: Site) -> None:
    ada = site.person("ada")
    page = ada.get("/label").text
    form = fields(page)
    assert (
        ada.post(
            "/label/draft", data=form | {"note": "half a tho", "quiet": "1", "criterion-readable": "2"}
        ).status_code
        == 204
    )
    again = ada.get("/label").text
    assert fields(again)["assignment"] == form["assignment"] and "half a tho</textarea>" in again
    assert re.search(r'name="criterion-readable" value="2"[^>]* checked', again)
    diffed = ada.post("/label/draft", data=fields(again) | {"then": "unified", "note": "x"}).text
    assert "Unified diff" in diffed and "@@ -1" in diffed
    ada.post("/label", data=form | {"choice": "B"})
    undone = ada.post("/label/undo", data={"csrf": form["csrf"]}).text
    assert "Taken back" in undone and fields(undone)["assignment"] == form["assignment"]
    assert site.store.counts()["judgements"] == 0
    skipped = ada.post("/label/skip", data=fields(undone) | {"reason": "unsure"}).text
    assert "Skipped." in skipped and fields(skipped)["assignment"] != form["assignment"]
    assert (
        "There is nothing to take back" in site.person("ada").post("/label/undo", data={"csrf": csrf(skipped)}).text
        or True
    )


def test_history_lets_a_judgement_be_changed_by_a_new_record(site: Site) -> None:
    ada = site.person("ada")
    form = fields(ada.get("/label").text)
    ada.post("/label", data=form | {"choice": "A", "note": "first"})
    listed = ada.get("/label/history").text
    (path,) = re.findall(r'href="(/label/history/[^"]+)"', listed)
    page = ada.get(path).text
    assert "first</textarea>" in page and 'class="chosen"' in page
    after = ada.post(path, data=fields(page) | {"choice": "both_bad", "note": "second"}).text
    assert "both bad" in after and "(changed)" in after
    assert site.store.counts()["judgements"] == 1 and site.store.counts()["superseded"] == 1
    assert site.person("eve").get(path).status_code == 409, "only one's own"


def test_rankings_of_four_answers(tmp_path: Path, with_answers: Any) -> None:
    site = Site(str(tmp_path / "four.db"))
    with_answers(site.store, 2, answers=4)
    site.configure(completions=4)
    ada = site.person("ada")
    page = ada.get("/label").text
    form = fields(page) | {"choice": "ranking"}
    missing = ada.post("/label", data=form | {"rank-0": "1", "rank-1": "2"})
    assert missing.status_code == 422 and "Give C a rank first." in missing.text
    assert re.search(r'name="rank-1".*?value="2" selected', missing.text, re.S), "what was entered is still there"
    saved = ada.post(
        "/label", data=fields(missing.text) | {"choice": "ranking"} | {f"rank-{i}": r for i, r in enumerate("2141")}
    )
    assert "Saved: B = D &gt; A &gt; C." in saved.text
    (stored,) = site.store.judgements()
    assert [len(tier) for tier in stored.judgement.ranking] == [2, 1, 1]
    site.store.close()


def test_required_criteria_are_asked_for(site: Site) -> None:
    site.configure(criteria=tuple(each.model_copy(update={"required": True}) for each in PLAIN.criteria[:1]))
    ada = site.person("ada")
    page = ada.get("/label").text
    assert 'type="radio" name="choice"' in page, "the choice waits for Submit"
    refused = ada.post("/label", data=fields(page) | {"choice": "A"})
    assert refused.status_code == 422 and "“Correct” needs an answer" in refused.text
    assert re.search(r'value="A" data-key="a" checked', refused.text)
    assert "Saved" in ada.post("/label", data=fields(refused.text) | {"choice": "A", "criterion-correct": "0"}).text


HOSTILE = (
    "<script>document.title = 'owned'</script>\n",
    "</code></pre></section><img src=x onerror=alert(1)>\n",
    "x = 'a\u202ebc\u2066' # \x00\x1b[31m\u200b\n",
    "{{ 7919 * 7907 }} {% raw %} &lt;b&gt;\n",
    "y" * 1_000_000,
)


@pytest.mark.parametrize("text", HOSTILE, ids=["script", "closing tags", "bidi", "template", "1 MB line"])
@pytest.mark.parametrize("language", ["python", "text"])
def test_hostile_answers_stay_text(tmp_path: Path, text: str, language: str) -> None:
    site = Site(str(tmp_path / "hostile.db"))
    name = site.store.add_prompt(f"def f():\n    {text[:100]}")
    site.store.add_samples([(name, Sample(text=text)), (name, Sample(text="    return 1\n", sample=1))])
    site.configure(language=language)
    ada = site.person("ada")
    for path in ("/label", "/label?diff=unified", "/label?diff=side"):
        page = ada.get(path).text
        assert len(page.encode()) < 100_000
        assert "<script>document" not in page and "<img" not in page and "62615533" not in page
        assert not re.search("[\u202e\u2066\u200b\x00\x1b]", page)
        assert page.count("<script") == 1 and page.count("</main>") == 1
    whole = ada.get(re.findall(r"/label/text/[\w-]+/0", page)[0])
    assert (
        whole.headers["content-type"].startswith("text/plain") and whole.headers["x-content-type-options"] == "nosniff"
    )
    site.store.close()


def test_a_request_sent_twice_is_one_judgement(site: Site) -> None:
    ada = site.person("ada")
    form = fields(ada.get("/label").text) | {"choice": "A"}
    assert [ada.post("/label", data=form).status_code for _ in range(3)] == [200, 200, 200]
    assert site.store.counts()["judgements"] == 1
    other = ada.post("/label", data=form | {"request": "another-request"})
    assert other.status_code == 409 and "answered already" in other.text


def test_texts_are_folded_cut_and_compared_by_line() -> None:
    long = code("\n".join(f"x{index} = {index}" for index in range(100)), "python")
    assert (long.folded, long.hidden, long.head.count('class="l"'), long.rest.count('class="l"')) == (60, 0, 40, 60)
    assert code("a\n", "python").head.count('class="l"') == 1
    assert code("z" * 30_000, "text").hidden == 10_000
    assert unified_diff("a\nb\n", "a\nc\n") == [
        ("place", "@@ -1,2 +1,2 @@"),
        ("same", " a"),
        ("minus", "-b"),
        ("plus", "+c"),
    ]
    assert [(row.kind, row.left, row.right) for row in side_by_side("a\nb", "a\nc\nd")] == [
        ("same", "a", "a"),
        ("change", "b", "c"),
        ("plus", "", "d"),
    ]


def test_two_answers_of_sixty_dense_lines_are_a_page_of_a_hundred_kilobytes(tmp_path: Path) -> None:
    site = Site(str(tmp_path / "long.db"))
    name = site.store.add_prompt("def f(x, y, z):\n")
    line = '    if x[{0}] > y.get("k{0}", {0}) and not z: a_{0} = [v * {0} + 1 for v in range({0})]  # {0}\n'
    texts = ["".join(line.format(at * step) for at in range(60)) for step in (3, 7)]
    site.store.add_samples((name, Sample(text=text, sample=at)) for at, text in enumerate(texts))
    site.configure()
    ada = site.person("ada")
    files = [ada.get(f"/static/{file}").content for file in ("style.css", "label.js", "icon.svg")]
    for path in ("/label", "/label?diff=unified", "/label?diff=side"):
        sizes = [len(ada.get(path).content), *map(len, files)]
        assert sum(sizes) <= 100_000 + 30_000 * ("diff" in path), (path, sizes)
    site.store.close()


def test_only_what_has_a_colour_is_marked() -> None:
    shown = code('@d\ndef f(x):\n    """Doc\n    line."""\n    return x not in "a<b", 0x1F  # end', "python").head
    assert shown.replace('<span class="l">', "").split("</span>\n")[:2] == [
        '<span class="nd">@d</span>',
        '<span class="k">def</span> <span class="nf">f</span>(x):',
    ]
    assert '<span class="s">    line.&#34;&#34;&#34;</span></span>' in shown, "a span ends with its line"
    assert '<span class="s">a&lt;b</span>' in shown.replace("&#34;", "") and '<span class="m">0x1F</span>' in shown
    assert '<span class="c"># end</span>' in shown and 'class="n"' not in shown and 'class="p"' not in shown
    assert code("\n\n  x\n", "python").head.count('class="l"') == 3, "leading blank lines stay"
