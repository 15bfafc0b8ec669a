"""The labelling page over HTTP: what is sent before a vote, what a vote leaves, and who may do what."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the `label` extra is not installed")

from starlette.testclient import TestClient

from trivium.base.errors import ConfigError
from trivium.preferences import people
from trivium.preferences.audit import read_settings, write_settings
from trivium.preferences.comparisons import fill
from trivium.preferences.judgement import Sample
from trivium.preferences.pairs import ranked_from_store
from trivium.preferences.store import PreferenceStore
from trivium.preferences.votes import LabelSettings
from trivium.preferences.web.access import MOST_BYTES, Address, Limiter
from trivium.preferences.web.app import create_app
from trivium.preferences.web.execution import Trials
from trivium.preferences.web.rendering import code, side_by_side, unified_diff
from trivium.preferences.web.server import listen
from trivium.records import Task

BASE = "http://127.0.0.1:8417"
PASSWORD = "a long password"
PLAIN = LabelSettings(overlap_share=0, repeat_share=0, gold_share=0)


class Site:
    """A page with its store, and browsers of people."""

    def __init__(self, location: str, owner: str = "ada") -> None:
        self.location = location
        self.address = Address(frozenset({BASE}), 8417, one_time="one-time" if owner else "", owner=owner)
        self.app = create_app(location, self.address)
        self.store = PreferenceStore(location)

    def browser(self) -> TestClient:
        return TestClient(self.app, base_url=BASE, follow_redirects=True)

    def person(self, name: str, role: Any = "annotator") -> TestClient:
        """A browser of somebody who is logged in; they have no password."""
        if not any(each.name == name for each in people.people(self.store)):
            people.add_person(self.store, name, role)
        client = self.browser()
        client.cookies.set(self.address.cookie, people.open_session(self.store, name))
        return client

    def configure(self, **changes: Any) -> None:
        write_settings(self.store, PLAIN.model_copy(update=changes), "")
        fill(self.store)


@pytest.fixture
def site(tmp_path: Path, with_answers: Callable[..., list[str]]) -> Iterator[Site]:
    made = Site(str(tmp_path / "preferences.db"))
    with_answers(made.store, 12)
    made.configure()
    yield made
    made.store.close()


def fields(page: str) -> dict[str, str]:
    """The hidden fields of a page's vote form."""
    form = page[page.index('<form id="vote"') :]
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))


def csrf(page: str) -> str:
    return re.findall(r'name="csrf" value="([^"]*)"', page)[0]


def test_the_printed_link_lets_one_browser_in_once(site: Site) -> None:
    first, second = site.browser(), site.browser()
    assert "Comparison 1" in first.get("/start?token=one-time").text
    assert first.get("/start?token=one-time").status_code == 200, "whoever is in stays in"
    refused = second.get("/start?token=one-time")
    assert refused.status_code == 403 and "has been used" in refused.text
    assert second.get("/label").status_code == 401
    cookie = first.cookies.jar._cookies["127.0.0.1"]["/"]["trivium_8417"]  # pyright: ignore[reportAttributeAccessIssue]
    assert cookie.has_nonstandard_attr("HttpOnly") and cookie.get_nonstandard_attr("SameSite").lower() == "lax"


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
    "{{ 7 * 7 }} {% raw %} &lt;b&gt;\n",
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
        assert (
            "<script>document" not in page
            and "<img" not in page
            and "49" not in re.sub(r"&#\d+;|value=\"[^\"]*\"", "", page)
        )
        assert not re.search("[\u202e\u2066\u200b\x00\x1b]", page)
        assert page.count("<script") == 1 and page.count("</main>") == 1
    whole = ada.get(re.findall(r"/label/text/[\w-]+/0", page)[0])
    assert (
        whole.headers["content-type"].startswith("text/plain") and whole.headers["x-content-type-options"] == "nosniff"
    )
    site.store.close()


def test_every_answer_carries_the_headers_that_keep_scripts_out(site: Site) -> None:
    ada = site.person("ada", "owner")
    for path in ("/label", "/admin", "/static/label.js", "/nowhere"):
        headers = ada.get(path).headers
        assert (
            headers["content-security-policy"].startswith("default-src 'self';")
            and "unsafe" not in headers["content-security-policy"]
        )
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "same-origin")
    page = ada.get("/label")
    assert page.headers["cache-control"] == "no-store"
    assert "style=" not in page.text and not re.search(r"\son\w+=", page.text) and "http" not in page.text


def test_requests_of_other_hosts_sites_and_forms_are_refused(site: Site) -> None:
    ada = site.person("ada", "owner")
    form = fields(ada.get("/label").text) | {"choice": "A"}
    assert ada.get("/label", headers={"host": "evil.example:8417"}).status_code == 421
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert ada.post("/label", data=form, headers=headers).status_code == 403
    for token in ("", "x" * 64, csrf(site.person("eve").get("/label").text)):
        assert ada.post("/label", data=form | {"csrf": token}).status_code == 403
    assert ada.post("/label", data=form | {"note": "n" * MOST_BYTES}).status_code == 413
    chunks = (b"a=" + b"b" * 60_000 for _ in range(9))
    assert (
        ada.post("/label", content=chunks, headers={"content-type": "application/x-www-form-urlencoded"}).status_code
        == 413
    )
    assert ada.post("/label", data=form | {"note": "n" * 2001}).status_code == 400
    assert site.store.counts()["judgements"] == 0
    assert ada.post("/label", data=form, headers={"origin": BASE}).status_code == 200
    assert site.store.counts()["judgements"] == 1


def test_a_request_sent_twice_is_one_judgement(site: Site) -> None:
    ada = site.person("ada")
    form = fields(ada.get("/label").text) | {"choice": "A"}
    assert [ada.post("/label", data=form).status_code for _ in range(3)] == [200, 200, 200]
    assert site.store.counts()["judgements"] == 1
    other = ada.post("/label", data=form | {"request": "another-request"})
    assert other.status_code == 409 and "answered already" in other.text


def test_annotators_reach_neither_the_owners_page_nor_exports(site: Site) -> None:
    bob, rae, ada = site.person("bob"), site.person("rae", "reviewer"), site.person("ada", "owner")
    token = csrf(bob.get("/label").text)
    posts = ("invite", "person", "password", "settings", "guidelines", "gold")
    for path in ("/admin", "/export", "/export/file"):
        assert bob.get(path).status_code == 403
    for name in posts:
        for client, key in ((bob, token), (rae, csrf(rae.get("/label").text))):
            data = {"csrf": key, "role": "owner", "name": "bob", "text": "x", "password": PASSWORD}
            assert client.post(f"/admin/{name}", data=data).status_code == 403
    assert {each.name: each.role for each in people.people(site.store)}["bob"] == "annotator"
    assert (rae.get("/export").status_code, rae.get("/admin").status_code, ada.get("/admin").status_code) == (
        200,
        403,
        200,
    )
    assert rae.get("/export/file?names=1").status_code == 403
    assert "rae" not in bob.get("/stats").text and ">Admin<" not in bob.get("/label").text


def test_invited_people_join_log_in_and_are_slowed_down(tmp_path: Path, with_answers: Any) -> None:
    site = Site(str(tmp_path / "team.db"), owner="")
    with_answers(site.store, 3)
    site.configure()
    people.add_person(site.store, "ada", "owner", PASSWORD)
    ada = site.browser()
    page = ada.get("/label").text
    assert "Log in" in page and ada.get("/start?token=").status_code == 403
    data = {"csrf": csrf(page), "name": "ada"}
    assert ada.post("/login", data=data | {"password": "wrong"}).status_code == 401
    assert site.browser().post("/login", data=data | {"password": PASSWORD}).status_code == 403, "no form of its own"
    assert "Comparison" in ada.post("/login", data=data | {"password": PASSWORD}).text
    invited = ada.post("/admin/invite", data={"csrf": csrf(ada.get("/admin").text), "role": "annotator"}).text
    (path,) = set(re.findall(rf"{BASE}(/join/[\w-]+)", invited))
    bob = site.browser()
    form = {"csrf": csrf(bob.get(path).text), "name": "bob"}
    assert bob.post(path, data=form | {"password": "short"}).status_code == 400
    assert "Comparison" in bob.post(path, data=form | {"password": PASSWORD}).text
    assert site.browser().get(path).status_code == 404
    bob.post("/logout", data={"csrf": csrf(bob.get("/label").text)})
    page = bob.get("/label").text
    tries = [
        bob.post("/login", data={"csrf": csrf(page), "name": "bob", "password": "no"}).status_code for _ in range(7)
    ]
    assert tries == [401] * 5 + [429] * 2
    site.store.close()


def test_settings_guidelines_gold_and_people_on_the_owners_page(site: Site) -> None:
    ada = site.person("ada", "owner")
    site.person("bob")
    ada.post("/label", data=fields(ada.get("/label").text) | {"choice": "A"})
    page = ada.get("/admin").text
    token = {"csrf": csrf(page)}
    settings = {
        "completions": "2",
        "overlap_share": "0.5",
        "criteria": "safe: Safe *\nwit: Witty",
        "execution": "never",
    }
    assert "Settings saved" in ada.post("/admin/settings", data=token | settings).text
    kept = read_settings(site.store)
    assert [(each.name, each.required) for each in kept.criteria] == [("safe", True), ("wit", False)]
    assert (kept.overlap_share, kept.execution, kept.much_better) == (0.5, "never", False)
    refused = ada.post("/admin/settings", data=token | {"completions": "12"})
    assert refused.status_code == 422 and "completions" in refused.text
    ada.post("/admin/guidelines", data=token | {"text": "Be kind."})
    assert "Be kind." in ada.get("/label/guidelines").text and "Version 1" in ada.get("/label/guidelines").text
    (name,) = re.findall(r'name="assignment" value="([^"]+)"', page)
    ada.post("/admin/gold", data=token | {"assignment": name})
    assert site.store.db.value("SELECT COUNT(*) FROM comparisons WHERE gold IS NOT NULL") == 1
    ada.post("/admin/person", data=token | {"name": "bob", "role": "reviewer"})
    bob = people.people(site.store)[1]
    assert (bob.role, bob.active) == ("reviewer", False)
    assert (
        "last owner" in ada.post("/admin/person", data=token | {"name": "ada", "role": "annotator", "active": "1"}).text
    )
    ada.post("/admin/password", data=token | {"password": PASSWORD})
    assert ada.get("/admin").status_code == 200, "this browser stays in"
    assert people.check_password(site.store, "ada", PASSWORD) is not None


def test_exports_have_pseudonyms_and_can_be_read_back(site: Site, tmp_path: Path) -> None:
    from trivium.preferences.formats import import_preferences

    ada = site.person("ada", "owner")
    for choice in ("A", "tie", "B"):
        ada.post("/label", data=fields(ada.get("/label").text) | {"choice": choice, "note": "=1+1"})
    full = ada.get("/export/file?form=full&source=human")
    assert "attachment" in full.headers["content-disposition"]
    assert {json.loads(line)["annotator"] for line in full.text.splitlines()} == {"p1"}
    named = ada.get("/export/file?form=full&names=1").text
    (tmp_path / "all.jsonl").write_text(named)
    with PreferenceStore(":memory:") as other:
        import_preferences(tmp_path / "all.jsonl", other)
        same = [stored.judgement for stored in other.judgements()] == [
            stored.judgement for stored in site.store.judgements()
        ]
        assert same
    assert len(ada.get("/export/file?form=pairs").text.splitlines()) == 3
    log = ada.get("/export/file?form=log").text
    assert log.count("\n") == 4 and "'=1+1" in log and ",p1,human," in log


def test_statistics_show_every_share_with_its_n(site: Site) -> None:
    ada = site.person("ada", "owner")
    for _ in range(4):
        ada.post("/label", data=fields(ada.get("/label").text) | {"choice": "A", "seconds": "1.0"})
    page = ada.get("/stats").text
    assert re.search(r"100% <small class=\"warn\">n = 4, few</small>", page), "under two seconds, all of them"
    assert "12 comparisons, 4 judged" in page


def test_rates_are_limited() -> None:
    time = 0.0
    limiter = Limiter(2, 10, clock=lambda: time)
    assert [limiter.allows("a"), limiter.allows("a"), limiter.allows("a"), limiter.allows("b")] == [
        True,
        True,
        False,
        True,
    ]
    time = 10.5
    assert limiter.allows("a")


def test_other_addresses_need_accounts(tmp_path: Path) -> None:
    def open_at(store: PreferenceStore, **options: Any) -> None:
        listen(store, **{"host": "127.0.0.1", "port": None, "public_url": "", "owner": "ada"} | options).close()

    with PreferenceStore(tmp_path / "a.db") as store:
        people.local_owner(store, "ada")
        open_at(store)
        for options in ({"host": "0.0.0.0"}, {"host": "192.0.2.1"}, {"public_url": "https://labels.example.org"}):
            with pytest.raises(ConfigError, match="people need accounts"):
                open_at(store, **options)
        people.set_password(store, "ada", PASSWORD, by="ada")
        with pytest.raises(ConfigError, match="Pass --public-url"):
            open_at(store, host="0.0.0.0")
        with pytest.raises(ConfigError, match="cannot be served"):
            open_at(store, host="192.0.2.1")
        with pytest.raises(ConfigError, match="no address of a page"):
            open_at(store, public_url="labels")
        found = listen(store, host="127.0.0.1", port=None, public_url="https://labels.example.org", owner="ada")
        found.close()
        assert (found.url, found.address.one_time, found.address.secure) == (
            "https://labels.example.org/login",
            "",
            True,
        )


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
