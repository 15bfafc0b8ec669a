"""Who may do what on the labelling page, and what keeps others out; the owner's page, figures and exports."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

pytest.importorskip("fastapi", reason="the `label` extra is not installed")

from label_site import BASE, PASSWORD, Site, csrf, fields

from trivium.base.errors import ConfigError
from trivium.preferences import people
from trivium.preferences.audit import read_settings
from trivium.preferences.store import PreferenceStore
from trivium.preferences.web.access import MOST_BYTES, Limiter
from trivium.preferences.web.server import listen


def test_the_printed_link_lets_one_browser_in_once(site: Site) -> None:
    first, second = site.browser(), site.browser()
    assert "Comparison 1" in first.get("/start?token=one-time").text
    assert first.get("/start?token=one-time").status_code == 200, "whoever is in stays in"
    refused = second.get("/start?token=one-time")
    assert refused.status_code == 403 and "has been used" in refused.text
    assert second.get("/label").status_code == 401
    cookie = first.cookies.jar._cookies["127.0.0.1"]["/"]["trivium_8417"]  # pyright: ignore[reportAttributeAccessIssue]
    assert cookie.has_nonstandard_attr("HttpOnly") and cookie.get_nonstandard_attr("SameSite").lower() == "lax"


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
    assert len(ada.get("/export/file?form=pairs&ties=drop").text.splitlines()) == 2
    table = ada.get("/export/file?form=pairs-table")
    assert 'filename="preferences.parquet"' in table.headers["content-disposition"]
    assert pyarrow.parquet.read_table(io.BytesIO(table.content)).num_rows == 3
    log = ada.get("/export/file?form=log").text
    assert log.count("\n") == 4 and "'=1+1" in log and ",p1,human," in log


def test_exports_are_narrowed_as_asked(site: Site) -> None:
    site.configure(overlap_share=1.0)
    ada, bob, rae = site.person("ada", "owner"), site.person("bob"), site.person("rae", "reviewer")
    for choices in (("A", "A"), ("A", "B"), ("tie", "B")):
        for client, choice in zip((ada, bob), choices, strict=True):
            client.post("/label", data=fields(client.get("/label").text) | {"choice": choice})
        if choices == ("A", "A"):
            ada.post("/admin/guidelines", data={"csrf": csrf(ada.get("/admin").text), "text": "Be kind."})
    page, theirs = ada.get("/export").text, rae.get("/export").text
    assert "p1 (ada)" in page and ">version 1<" in page and ">p1<" in theirs and "ada" not in theirs

    def lines(query: str, client: Any = rae) -> int:
        return len(client.get(f"/export/file?{query}").text.splitlines())

    assert [lines(query) for query in ("", "annotator=p1", "guideline=1", "annotator=p2&guideline=0")] == [6, 3, 4, 1]
    assert [lines(f"min_agreement={share}") for share in ("0.4", "0.6")] == [6, site_agreed(site)]
    for query in ("annotator=bob", "guideline=7", "min_agreement=2", "min_agreement=x", "source=x", "ties=x"):
        assert rae.get(f"/export/file?{query}").status_code == 400, query


def site_agreed(site: Site) -> int:
    """Judgements with which the other person's of the same comparison agrees."""
    said = [(each.judgement.id, each.judgement.ranking) for each in site.store.judgements()]
    return sum(said.count(each) == 2 for each in said)


def test_statistics_show_every_share_with_its_n(site: Site) -> None:
    ada = site.person("ada", "owner")
    for _ in range(4):
        ada.post("/label", data=fields(ada.get("/label").text) | {"choice": "A", "seconds": "1.0"})
    page = ada.get("/stats").text
    assert re.search(r"100% <small>51–100%</small> <small class=\"warn\">n = 4, few</small>", page), (
        "under two seconds, all of them"
    )
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


def test_reviewers_see_where_people_disagree_and_ask_another(site: Site) -> None:
    site.configure(overlap_share=1.0)
    ada, bob, rae = site.person("ada"), site.person("bob"), site.person("rae", "reviewer")
    for number in range(3):
        for client, choice in ((ada, "tie"), (bob, ("both_bad", "A", "tie")[number])):
            client.post("/label", data=fields(client.get("/label").text) | {"choice": choice, "note": "<b>why</b>"})
    assert bob.get("/disagreements").status_code == 403
    page = rae.get("/disagreements").text
    assert page.count("Ask one person more</button>") == 1, "a tie and both bad rank alike"
    assert "&lt;b&gt;why" in page and "<b>ada</b>: 1 = 2" in page
    name = re.findall(r'name="comparison" value="(\w+)"', page)[0]
    asked = rae.post("/disagreements", data={"csrf": csrf(page), "comparison": name})
    assert "One person more will be asked" in asked.text and "one more is asked" in asked.text
    assert rae.post("/disagreements", data={"csrf": csrf(page), "comparison": name}).status_code == 400
    site.configure(overlap_share=0.0)
    left = site.store.db.row("SELECT wanted, extra FROM comparisons WHERE id = ?", (name,))
    assert left == {"wanted": 2, "extra": 1}, "new settings keep what was asked for"
    stats = rae.get("/stats").text
    assert '67% <small>21–94%</small> <small class="warn">n = 3, few</small>' in stats, "two of three were ranked alike"
