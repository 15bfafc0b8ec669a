"""The playground over HTTP: what is sent before the vote, what a vote leaves, streaming, stopping and limits."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the `label` extra is not installed")

from label_site import PLAIN, Site, csrf
from reciting import BYTES, chain, save_reciting

from trivium.base import compiled
from trivium.preferences import people
from trivium.preferences.comparisons import fill
from trivium.preferences.pairs import ranked_from_store
from trivium.preferences.store import PreferenceStore
from trivium.preferences.web import server
from trivium.preferences.web.execution import Runner
from trivium.preferences.web.playground import KEPT, MOST_CHARACTERS, MOST_LOADED, Ask, Playground

HOSTILE = "<script>&\"'\x07\u202e"
ANSWERS = {"M0": "uvw", "M1": "abc", "M2": "xyz"}
"""What each model writes after a colon."""
FORM = {"mode": "complete", "prompt": "say:", "first": "M1", "temperature": "0", "max_new_tokens": "64", "seed": "7"}
BLIND = FORM | {"second": "M2"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("run")
    turn, middle = BYTES.token_id("<|assistant|>"), BYTES.token_id("<|fim_middle|>")
    more = {"M0": chain("#", HOSTILE), "M1": chain("=", "7*6)\n"), "M2": chain(turn, "hi") | chain(middle, "+ 1")}
    loop = {"M0": chain("~", "0123456789", ends=False), "M1": {}, "M2": {}}
    return {
        name: save_reciting(root / name, chain(":", text) | more[name] | loop[name]) for name, text in ANSWERS.items()
    }


@pytest.fixture
def playground(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Playground]:
    """Slow enough for answers to be stopped."""
    monkeypatch.setenv(compiled.PLAIN, "1")
    compiled.library.cache_clear()
    made = Playground(folders, Runner())
    yield made
    made.close()
    compiled.library.cache_clear()


@pytest.fixture
def play(tmp_path: Path, playground: Playground) -> Iterator[Site]:
    made = Site(str(tmp_path / "preferences.db"), playground=playground)
    made.configure()
    yield made
    made.store.close()


@pytest.fixture
def busy(playground: Playground) -> Iterator[threading.Event]:
    """The thread that answers is kept waiting until the event is set."""
    event = threading.Event()
    playground._thread.submit(event.wait)
    yield event
    event.set()


def ask(client: Any, **form: str) -> Any:
    return client.post("/play", data={"csrf": csrf(client.get("/play").text)} | form)


def events(text: str) -> list[dict[str, str]]:
    return [json.loads(part[6:]) for part in text.split("\n\n") if part.startswith("data: ")]


def test_one_model_answers_by_name_without_javascript(play: Site) -> None:
    page = ask(play.person("ada"), **FORM)
    assert re.fullmatch(r"/play/[\w-]{16}", page.url.path) and "Answer: M1" in page.text
    assert "abc</span>" in page.text and "ended by itself" in page.text
    assert "<span class=" in page.text and page.text.count("nats, ") == 4, "three letters and the end"
    assert 'value="7"' in page.text and "say:</textarea>" in page.text, "the form comes filled in"
    assert play.store.counts()["completions"] == 0, "nothing is kept without a vote"


def test_nothing_that_tells_a_model_is_sent_before_the_vote(play: Site, folders: dict[str, Path]) -> None:
    ada = play.person("ada")
    sides = set()
    for _ in range(12):
        page = ask(ada, **BLIND)
        address = page.url.path
        streamed = ask(ada, **BLIND, stream="1")
        token = {"csrf": csrf(page.text)}
        ran = ada.post(f"{address}/run", data=token | {"side": "A"})
        unread = ada.post(f"{address}/vote", data=token)
        answers = [page, streamed, ran, unread, *(ada.get(f"{address}/{rest}") for rest in ("text/0", "text/1"))]
        assert [each.status_code for each in answers] == [200, 200, 200, 422, 200, 200]
        for each in answers:
            sent = each.text + str(each.headers) + str(each.url)
            assert not re.search(r"M[012]\b|nats|tokens|logprob|" + str(folders["M1"].parent), sent), sent
        sides.add(ada.get(f"{address}/text/0").text)
        voted = ada.post(f"{address}/vote", data=token | {"choice": "A"})
        first = "M1" if ada.get(f"{address}/text/0").text == "abc" else "M2"
        assert f"Saved. A is {first}, B is {'M2' if first == 'M1' else 'M1'}." in voted.text
    assert sides == {"abc", "xyz"}, "both models have been on the left"


def test_both_sides_are_built_alike(play: Site) -> None:
    page = ask(play.person("ada"), **BLIND).text
    one, two = re.findall(r'<article class="side".*?</article>', page, re.S)
    strip = lambda text: re.sub(r"<code>.*?</code>|\b[AB]\b|/\d\"", "", text, flags=re.S)  # noqa: E731
    assert strip(one) == strip(two)


def test_a_vote_becomes_a_pair_that_trains_a_reward_model(play: Site) -> None:
    ada = play.person("ada")
    page = ask(ada, **BLIND)
    left = ada.get(f"{page.url.path}/text/0").text
    data = {"csrf": csrf(page.text), "choice": "B2", "note": "clearer"}
    for _ in range(2):
        assert "Saved." in ada.post(f"{page.url.path}/vote", data=data).text
    ada.post(f"{page.url.path}/vote", data=data | {"choice": "A"})
    (said,) = (each.judgement for each in play.store.judgements())
    assert (said.source, said.annotator, said.margin, said.comment) == ("play", "ada", 2.0, "clearer")
    assert [each.text for each in said.completions] == ["abc", "xyz"], "in the order in which they were asked"
    assert said.completions[0].ids == (*BYTES.encode("abc"), BYTES.eos_id)
    assert said.details["order"] == ([0, 1] if left == "abc" else [1, 0])
    assert said.details["play"] == {
        "mode": "complete",
        "models": ["M1", "M2"],
        "temperature": 0.0,
        "max_new_tokens": 64,
        "seed": 7,
    }
    (group,) = ranked_from_store(play.store)
    assert group.prompt == "say:" and group.source == "play"
    ((better, worse),) = group.pairs
    assert (group.completions[worse].text, group.completions[better].text) == (left, {"abc": "xyz", "xyz": "abc"}[left])
    assert len({each.model for each in said.completions}) == 2
    assert all(re.fullmatch("play:[0-9a-f]{32}", each.model) for each in said.completions)
    assert fill(play.store) == 0, "it is given to nobody else"
    assert [row["action"] for row in play.store.db.rows("SELECT action FROM audit WHERE subject = ?", (said.id[5:],))]


def test_ties_are_told_apart_and_runs_before_the_vote_are_recorded(play: Site) -> None:
    ada = play.person("ada")
    for choice, ran in (("tie", False), ("both_bad", True)):
        page = ask(ada, **BLIND)
        data = {"csrf": csrf(page.text), "choice": choice}
        if ran:
            ada.post(f"{page.url.path}/run", data=data | {"side": "B"})
        ada.post(f"{page.url.path}/vote", data=data)
    said = {each.judgement.details["choice"]: each.judgement for each in play.store.judgements()}
    assert {name: each.details["execution_seen"] for name, each in said.items()} == {"tie": False, "both_bad": True}
    assert all(each.ranking == ((0, 1),) for each in said.values())


def test_a_stream_gives_the_text_of_the_page(play: Site) -> None:
    ada = play.person("ada")
    for form in (BLIND, FORM | {"first": "M0", "prompt": "#"}, FORM | {"first": "M0", "prompt": "~"}):
        plain = ask(ada, **form)
        streamed = events(ask(ada, **form, stream="1").text)
        assert list(streamed[0]) == ["turn"] and streamed[-1] == {"end": f"/play/{streamed[0]['turn']}"}
        for letter, at in zip("AB", range(2 if "second" in form else 1), strict=False):
            text = "".join(each["text"] for each in streamed if each.get("side") == letter)
            assert text == ada.get(f"{streamed[-1]['end']}/text/{at}").text and text
            if "second" not in form:
                assert text == ada.get(f"{plain.url.path}/text/{at}").text
    assert len(text) == 64 and "cut at the cap" in plain.text


def test_answers_are_text(play: Site) -> None:
    page = ask(play.person("ada"), **FORM | {"first": "M0", "prompt": "</pre><img src=x>\u202e#"}).text
    assert "<script>&" not in page and "<img" not in page and "\x07" not in page
    assert "⟨U+0007⟩" in page and "⟨U+202E⟩" in page and "&lt;" in page
    assert page.count("\u202e") == 1, "in the field with one's own text alone"


def test_chats_gaps_and_two_samples_of_a_model(play: Site) -> None:
    ada = play.person("ada")
    chat = ask(ada, **FORM | {"mode": "chat", "first": "M2", "system": "be brief"}).text
    assert "Prompt: system" in chat and "Prompt: user" in chat and ">hi</span>" in chat
    gap = ask(ada, **FORM | {"mode": "gap", "first": "M2", "prompt": "y = x ", "suffix": "\nprint(y)"}).text
    assert "Prompt: before the gap" in gap and "Prompt: after the gap" in gap
    page = ask(ada, **BLIND | {"second": "M1", "prompt": "x", "temperature": "10"})
    ada.post(f"{page.url.path}/vote", data={"csrf": csrf(page.text), "choice": "tie"})
    (said,) = (each.judgement for each in play.store.judgements())
    assert [each.sample for each in said.completions] == [0, 1]
    assert said.completions[0].ids != said.completions[1].ids, "each has a seed of its own"


def test_a_run_is_of_prompt_and_answer_in_the_sandbox(play: Site) -> None:
    ada = play.person("ada")
    page = ask(ada, **FORM | {"prompt": "import os\nprint(os.getpid(), (8 - 1) * 6, y:="})
    token = {"csrf": csrf(page.text), "side": "A"}
    ran = ada.post(f"{page.url.path}/run", data=token | {"after": "print(y + 1)"}).text
    output = re.findall(r'aria-label="Output of A">(.*?)</pre>', ran, re.S)[0].split()
    assert "✓ ran to its end" in ran and output[1:] == ["42", "42", "43"] and output[0] != str(os.getpid())
    broken = ada.post(f"{page.url.path}/run", data=token | {"after": "raise OSError('gone')"}).text
    assert "✗ error" in broken and "gone" in broken


def test_programs_of_each_mode() -> None:
    function = 'def f(x):\n    """Double."""\n'
    assert (
        Ask(prompt=function, models=("M",)).program("    return 2 * x\nprint(1)\n") == function + "    return 2 * x\n"
    )
    assert Ask(prompt="print(", models=("M",)).program("1)\n") == "print(1)\n"
    assert Ask(mode="gap", prompt="x = ", suffix="\n", models=("M",)).program("3") == "x = 3\n"
    chat = Ask(mode="chat", prompt="Write a program.", models=("M",))
    assert chat.program("Here:\n```python\nprint(2)\n```\nDone.") == "print(2)\n"


@pytest.mark.parametrize(
    ("form", "status", "told"),
    [
        ({"prompt": " \n"}, 422, "The prompt: is empty."),
        ({"prompt": "a\0:"}, 422, "The prompt: holds a NUL"),
        ({"first": "M9"}, 422, "There is no model &#39;M9&#39;. Models: M0, M1, M2."),
        ({"temperature": "-1"}, 422, "The temperature: Input should be greater than or equal to 0."),
        ({"temperature": "nan"}, 422, "The temperature: Input should be a finite number."),
        ({"max_new_tokens": "1025"}, 422, "The most tokens: Input should be less than or equal to 1024."),
        ({"seed": "x"}, 422, "The seed: Input should be a valid integer"),
        ({"mode": "sing"}, 422, "The mode: Input should be"),
        ({"prompt": "x" * (MOST_CHARACTERS + 1)}, 413, "Prompt is longer than 16,000 characters."),
        ({"prompt": "x" * 300_000}, 413, "The request is too large."),
        ({"csrf": "no"}, 403, "The page is out of date."),
    ],
)
def test_what_is_refused(play: Site, playground: Playground, form: dict[str, str], status: int, told: str) -> None:
    ada = play.person("ada")
    answer = ask(ada, **FORM | form)
    assert answer.status_code == status and told in answer.text
    assert playground._turns == {}
    if status == 422 and form != {"prompt": "a\0:"}:
        assert (
            f'name="seed" type="number" min="0" max="9007199254740991" value="{form.get("seed", "7")}"' in answer.text
        )


def test_a_prompt_beyond_the_context_is_told(play: Site) -> None:
    page = ask(play.person("ada"), **FORM | {"prompt": "x" * 3000})
    assert "prompt 0 has 3001 tokens; this model takes 1 to 2047." in page.text


def test_only_for_whoever_is_logged_in_and_asked(play: Site) -> None:
    ada, bob = play.person("ada"), play.person("bob")
    address = ask(ada, **FORM).url.path
    assert ada.get(address).status_code == 200
    for path in (address, f"{address}/text/0"):
        assert bob.get(path).status_code == 404, "another's"
        assert "Not logged in" in play.browser().get(path).text
    token = {"csrf": csrf(bob.get("/play").text)}
    for action in ("run", "stop", "vote"):
        assert bob.post(f"{address}/{action}", data=token | {"side": "A", "choice": "A"}).status_code == 404
    play.configure(play=False)
    assert ada.get("/play").status_code == 403 and "switched the playground off" in ada.get("/play").text
    assert bob.post("/play", data=FORM | token).status_code == 403


def test_without_models_there_is_no_playground(site: Site) -> None:
    ada = site.person("ada")
    assert ada.get("/play").status_code == 404 and 'href="/play"' not in ada.get("/label").text


def test_one_request_at_a_time_and_one_that_waits_can_be_stopped(
    play: Site, playground: Playground, busy: threading.Event
) -> None:
    waiting = playground.start("ada", Ask(prompt="say:", models=("M1", "M2")))
    ada = play.person("ada")
    refused = ask(ada, **FORM)
    assert refused.status_code == 409 and "Your last request is still being answered." in refused.text
    other = playground.start("bob", Ask(prompt="say:", models=("M1",), temperature=0))
    token = {"csrf": csrf(refused.text)}
    assert ada.post(f"/play/{waiting.id}/run", data=token | {"side": "A"}).status_code == 404
    assert ada.post(f"/play/{waiting.id}/stop", data=token).status_code == 204
    busy.set()
    assert other.ended.wait(60) and waiting.ended.is_set()
    assert (waiting.state, waiting.sides[0].text, other.state, other.sides[0].text) == ("cut", "", "done", "abc")
    vote = ada.post(f"/play/{waiting.id}/vote", data=token | {"choice": "A"})
    assert vote.status_code == 409 and "Ask again" in vote.text, "halves are not compared"
    page = ada.get(f"/play/{waiting.id}").text
    assert "Stopped." in page and not re.search(r"\bM[012]\b", page)
    assert play.store.counts()["judgements"] == 0


def test_stopping_keeps_what_was_written(playground: Playground) -> None:
    turn = playground.start("ada", Ask(prompt="~", models=("M0", "M0"), temperature=0, max_new_tokens=1024))
    written = "".join(piece[1] for piece in turn.next_news(60) if piece is not None)
    turn.halt.set()
    assert turn.ended.wait(60) and turn.state == "cut"
    first = turn.sides[0]
    rest = "".join(piece[1] for piece in turn.next_news(0.1) if piece is not None)
    assert first.text == written + rest and written and first.text == ("0123456789" * 103)[: len(first.text)]
    assert "".join(text for text, _ in first.pieces) == first.text


def test_whoever_goes_away_stops_the_answer(tmp_path: Path, playground: Playground, busy: threading.Event) -> None:
    path = tmp_path / "away.db"
    with PreferenceStore(path) as store:
        people.local_owner(store, "ada")
        listening = server.listen(store, host="127.0.0.1", port=0, public_url="", owner="ada")
        session = people.open_session(store, "ada")
    with server.background(str(path), listening, playground) as link:
        host = link.split("/")[2]
        headers = {
            "cookie": f"{listening.address.cookie}={session}",
            "content-type": "application/x-www-form-urlencoded",
        }
        connection = HTTPConnection(host, timeout=60)
        connection.request("GET", "/play", headers=headers)
        token = csrf(connection.getresponse().read().decode())
        connection.request("POST", "/play", f"csrf={token}&prompt=~&first=M0&stream=1", headers)
        answer = connection.getresponse()
        assert answer.getheader("content-type", "").startswith("text/event-stream")
        assert answer.getheader("cache-control") == "no-store"
        (begun,) = events(answer.read1(200).decode())
        connection.close()
        turn = playground.turn("ada", begun["turn"])
        assert turn is not None and turn.halt.wait(60)
        busy.set()
        assert turn.ended.wait(60) and turn.state == "cut"


def test_few_models_and_few_turns_are_kept(playground: Playground) -> None:
    for number in range(KEPT + 3):
        turn = playground.start("ada", Ask(prompt="say:", models=(f"M{number % 3}",), temperature=0))
        assert turn.ended.wait(60) and turn.sides[0].text == ANSWERS[f"M{number % 3}"]
        assert len(playground._loaded) <= MOST_LOADED
    assert len(playground._turns) == KEPT and playground.turn("ada", turn.id) is turn


def test_the_command_line_gives_the_same_answer(playground: Playground, folders: dict[str, Path]) -> None:
    prompt = 'it\'s \\n a `$HOME` "test"\n\n x'
    asked = Ask(prompt=prompt, models=("M1", "M1"), temperature=10, max_new_tokens=9, seed=3, mode="gap", suffix=" 'y'")
    turn = playground.start("ada", asked)
    assert turn.ended.wait(60) and turn.state == "done", turn.problem
    second = next(side for side in turn.sides if side.place == 1)
    command = asked.command(folders["M1"], 1).replace("trivium", f"{sys.executable} -m trivium", 1)
    environment = os.environ | {"PYTHONPATH": "src"}
    done = subprocess.run(["bash", "-c", f"{command} --json"], capture_output=True, env=environment, check=True)
    answers = json.loads(done.stdout)
    assert [each["prompt"] for each in answers] == [prompt] * 2 and answers[1]["text"] == second.text
    chat = Ask(prompt="p", models=("M1",), mode="chat", system="s t")
    assert "--system 's t'" in chat.command(folders["M1"], 0) and "--n" not in chat.command(folders["M1"], 0)


def test_modes_are_those_that_a_model_can_do(tmp_path: Path, folders: dict[str, Path], playground: Playground) -> None:
    assert list(playground.modes) == ["complete", "chat", "gap"]
    bare = save_reciting(tmp_path / "M0", {})
    config = json.loads((bare / "tokenizer_config.json").read_text())
    (bare / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": None}))
    tokenizer = (bare / "tokenizer.json").read_text().replace("<|fim_middle|>", "<|fim_muddle|>")
    (bare / "tokenizer.json").write_text(tokenizer)
    limited = Playground({"M0": bare}, Runner())
    assert list(limited.modes) == ["complete"]
    turn = limited.start("ada", Ask(prompt="x", models=("M0",), mode="chat"))
    assert turn.ended.wait(60) and turn.state == "failed" and "has no chat template" in turn.problem
    limited.close()


def test_settings_switch_it_off(play: Site) -> None:
    ada = play.person("ada", "owner")
    assert 'name="play" value="1" checked' in ada.get("/admin").text
    ada.post("/admin/settings", data={"csrf": csrf(ada.get("/admin").text), "completions": "2"})
    assert ada.get("/play").status_code == 403 and PLAIN.play


def test_a_vote_is_changed_from_the_history_by_a_new_record(play: Site) -> None:
    ada = play.person("ada")
    page = ask(ada, **BLIND)
    voted = ada.post(f"{page.url.path}/vote", data={"csrf": csrf(page.text), "choice": "A", "note": "first"}).text
    (path,) = re.findall(r'href="(/label/history/play/[\w-]+)"', voted)
    assert f'href="{path}"' in ada.get("/label/history").text
    shown = ada.get(path)
    assert "first</textarea>" in shown.text and 'value="A" data-key="a" class="chosen"' in shown.text
    assert ada.get(f"{path}/text/0").text in ANSWERS.values() and ada.get(f"{path}/text/2").status_code == 404
    assert {name for name in ANSWERS if f": {name}</h2>" in shown.text} == {"M1", "M2"}
    data = {"csrf": csrf(shown.text), "choice": "B2", "note": "second"}
    for _ in range(2):
        assert "B is much better <small>(changed)</small>" in ada.post(path, data=data).text
    assert ada.post(path, data={"csrf": csrf(shown.text)}).status_code == 422
    (said,) = play.store.judgements()
    first = play.store.judgement(said.judgement.supersedes)
    assert play.store.counts()["superseded"] == 1, "the same change sent again changes nothing"
    assert (said.judgement.margin, said.judgement.comment, said.judgement.source) == (2.0, "second", "play")
    assert said.judgement.ranking == first.ranking[::-1] and said.judgement.completions == first.completions
    assert said.judgement.details["unblinded"] and "unblinded" not in first.details
    assert said.judgement.details["play"] == first.details["play"]
    actions = play.store.db.rows("SELECT action FROM audit WHERE subject = ? ORDER BY number", (path.split("/")[-1],))
    assert [row["action"] for row in actions] == ["play", "edit"]
    assert "Strength of models" in play.person("rae", "reviewer").get("/stats").text
    eve = play.person("eve")
    assert "Strength of models" not in eve.get("/stats").text
    data["csrf"] = csrf(eve.get("/label").text)
    refused = [eve.get(path), eve.get(f"{path}/text/0"), eve.post(path, data=data)]
    assert [each.status_code for each in refused] == [404] * 3


def test_whoever_had_an_answer_under_its_name_does_not_vote_blind(play: Site) -> None:
    ada, bob = play.person("ada"), play.person("bob")
    ask(ada, **FORM)  # M1 by name: `abc` is known from now on
    for client in (ada, bob, bob):  # bob's second look comes after his first one told the names
        page = ask(client, **BLIND)
        client.post(f"{page.url.path}/vote", data={"csrf": csrf(page.text), "choice": "tie", "unsafe-7": "1"})
    page = ask(bob, **BLIND | {"prompt": "tell:"})
    bob.post(f"{page.url.path}/vote", data={"csrf": csrf(page.text), "choice": "tie"})
    said = sorted(play.store.judgements(), key=lambda each: each.created)
    assert [(each.judgement.annotator, "unblinded" in each.judgement.details) for each in said] == [
        ("ada", True),
        ("bob", False),
        ("bob", True),
        ("bob", False),
    ]
    assert not any("unsafe" in each.judgement.details for each in said), "the playground asks for no flags"
