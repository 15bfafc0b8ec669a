"""What a hostile annotator tries: other people's pairs, forged and replayed requests, odd bodies, spent invitations."""

import re
from typing import Any
from urllib.parse import urlencode

import pytest

pytest.importorskip("fastapi", reason="the `label` extra is not installed")

from label_site import PASSWORD, Site, csrf, fields

from trivium.preferences import people
from trivium.preferences.comparisons import set_gold
from trivium.preferences.web.access import Limiter


def test_nothing_can_be_done_to_other_people_s_pairs(site: Site) -> None:
    ada, eve = site.person("ada"), site.person("eve")
    hers = fields(ada.get("/label").text)
    mine = fields(eve.get("/label").text)
    forged = mine | {"assignment": hers["assignment"], "choice": "A", "note": "gotcha", "reason": "other"}
    for path in ("/label", "/label/draft", "/label/execution", "/label/skip", f"/label/history/{hers['assignment']}"):
        assert eve.post(path, data=forged).status_code == 409, path
    for path in (f"/label/text/{hers['assignment']}/0", f"/label/history/{hers['assignment']}"):
        assert eve.get(path).status_code == 409, path
    assert "Saved" not in eve.get(f"/label?done={hers['assignment']}").text
    again = ada.get("/label").text
    assert fields(again)["assignment"] == hers["assignment"] and "gotcha" not in again
    assert site.store.db.value("SELECT SUM(execution_seen) FROM assignments") == 0
    assert site.store.counts()["judgements"] == 0


def test_a_request_counts_once_whatever_it_is_sent_for(site: Site) -> None:
    ada, eve = site.person("ada"), site.person("eve")
    first = fields(ada.get("/label").text) | {"choice": "A"}
    ada.post("/label", data=first)
    second = fields(ada.get("/label").text) | {"choice": "B", "request": first["request"]}
    assert ada.post("/label", data=second).status_code == 409, "a name that was used for another comparison"
    theirs = fields(eve.get("/label").text) | {"choice": "B", "request": first["request"]}
    assert eve.post("/label", data=theirs).status_code == 409
    ada.post("/label/undo", data={"csrf": first["csrf"]})
    assert "Saved" not in ada.post("/label", data=first).text, "what was taken back does not come back by a replay"
    assert site.store.counts()["judgements"] == 0


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("text/plain", b"csrf="),
        ("multipart/form-data; boundary=x; charset=unicode_escape", b"--x\r\n\r\n\\ud800\r\n--x--\r\n"),
        ("", b"csrf="),
    ],
)
def test_only_plain_forms_are_read(site: Site, kind: str, body: bytes) -> None:
    ada = site.person("ada", "owner")
    for path in ("/label", "/label/undo", "/admin/invite", "/login"):
        answer = ada.post(path, content=body, headers={"content-type": kind} if kind else {})
        assert answer.status_code == 415 and "own forms" in answer.text, path


def test_odd_addresses_get_a_page(site: Site) -> None:
    ada = site.person("ada")
    name = fields(ada.get("/label").text)["assignment"]
    for path in ("/label?other=x", f"/label/text/{name}/x", f"/label/text/{name}/{10**30}", "/label/history/play/x"):
        answer = ada.get(path)
        assert answer.status_code == 404 and answer.headers["content-type"].startswith("text/html"), path


def test_writes_of_a_session_are_limited(site: Site) -> None:
    site.app.state.site.writes = Limiter(3, 60)
    ada = site.person("ada")
    form = fields(ada.get("/label").text) | {"quiet": "1"}
    assert [ada.post("/label/draft", data=form).status_code for _ in range(4)] == [204, 204, 204, 429]
    bob = site.person("bob")
    assert bob.post("/label/draft", data=fields(bob.get("/label").text) | {"quiet": "1"}).status_code == 204


def test_an_invitation_opened_twice_lets_one_person_in_under_its_role(site: Site) -> None:
    people.add_person(site.store, "ada", "owner")
    token = people.invite(site.store, "annotator", by="ada")
    eve, bob = site.browser(), site.browser()
    forms = [{"csrf": csrf(client.get(f"/join/{token}").text), "password": PASSWORD} for client in (eve, bob)]
    assert "Comparison" in eve.post(f"/join/{token}", data=forms[0] | {"name": "eve", "role": "owner"}).text
    assert eve.get("/admin").status_code == 403
    late = bob.post(f"/join/{token}", data=forms[1] | {"name": "bob"})
    assert late.status_code == 400 and "has been used" in late.text
    assert [each.name for each in people.people(site.store)] == ["ada", "eve"]
    other = people.invite(site.store, "annotator", by="ada")
    bob.get(f"/join/{other}")
    for name in ("ADA", "eve", "<b>", "a\0b", ""):
        assert bob.post(f"/join/{other}", data=forms[1] | {"name": name}).status_code == 400, name


def test_roles_and_sessions_end_at_once(site: Site) -> None:
    ada, eve = site.person("ada", "owner"), site.person("eve", "reviewer")
    assert eve.get("/export").status_code == 200
    people.change_person(site.store, "eve", role="annotator", active=True, by="ada")
    assert eve.get("/export").status_code == 403
    stolen = dict(eve.cookies)
    eve.post("/logout", data={"csrf": csrf(eve.get("/label").text)})
    replay = site.browser()
    replay.cookies.update(stolen)
    assert replay.get("/label").status_code == 401
    again = site.person("eve")
    people.change_person(site.store, "eve", role="annotator", active=False, by="ada")
    assert again.get("/label").status_code == 401 and ada.get("/label").status_code == 200


def test_gold_and_repeats_look_like_any_other_pair(site: Site) -> None:
    def shape(page: str) -> str:
        """The page without texts, numbers and random names."""
        body = re.sub(r"<code>.*?</code>", "", page[page.index("<form id") :], flags=re.S)
        return re.sub(r'value="[\w-]{16,}"|/label/text/[\w-]+|\d+', "", body)

    eve = site.person("eve")
    names = [row["id"] for row in site.store.db.rows("SELECT id FROM comparisons ORDER BY id LIMIT 4")]
    for name in names:
        set_gold(site.store, name, ((0,), (1,)), by="ada")
    site.configure(gold_share=0.4, repeat_share=0.4, repeat_after=1)
    shapes: dict[str, set[str]] = {}
    for _ in range(12):
        page = eve.get("/label").text
        form = fields(page)
        row: Any = site.store.db.row("SELECT purpose FROM assignments WHERE id = ?", (form["assignment"],))
        shapes.setdefault(row["purpose"], set()).add(shape(page))
        assert row["purpose"] == "first" or row["purpose"] not in page
        eve.post("/label", data=form | {"choice": "A"})
    assert shapes.keys() == {"first", "gold", "repeat"} and len(set.union(*shapes.values())) == 1


def test_a_nul_is_text_in_both_databases(location: str, with_answers: Any) -> None:
    site = Site(location)
    with_answers(site.store, 2)
    site.configure()
    ada = site.person("ada")
    form = fields(ada.get("/label").text)
    kind = {"content-type": "application/x-www-form-urlencoded"}

    def send(path: str, **odd: bytes | str) -> Any:
        return ada.post(path, content=urlencode(form | odd), headers=kind)

    odd = b"12345678\0\xff"
    for name in ("note", "request", "reason", "then", "other", "seconds", "assignment"):
        assert send("/label/draft", **{name: odd}).status_code < 500, name
    assert "Saved" in send("/label", choice="A", note=odd, request=odd).text
    (said,) = site.store.judgements()
    assert said.judgement.comment == "12345678\0\ufffd"
    assert "⟨U+0000⟩" in ada.get("/label/history").text
    site.store.close()
