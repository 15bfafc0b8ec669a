"""The labelling page in a real browser: keys, focus, resends, accessibility, size."""

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from trivium.base import compiled
from trivium.preferences import people
from trivium.preferences.audit import write_settings
from trivium.preferences.comparisons import fill
from trivium.preferences.judgement import Judgement, Sample
from trivium.preferences.store import PreferenceStore
from trivium.preferences.votes import LabelSettings

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `test`)")
pytest.importorskip("fastapi", reason="the `label` extra is not installed")
server = pytest.importorskip("trivium.preferences.web.server")

PLAIN = LabelSettings(overlap_share=0, repeat_share=0, gold_share=0)
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium is installed; CHROMIUM may name one")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


class Served:
    """A store and its page, which can be stopped and started again at the same port."""

    def __init__(self, path: Path, playground: Any = None) -> None:
        self.path, self.port, self.playground = path, _free_port(), playground
        self.store = PreferenceStore(path)
        self._stack = ExitStack()

    def configure(self, **changes: Any) -> None:
        write_settings(self.store, PLAIN.model_copy(update=changes), "")
        fill(self.store)

    def start(self) -> str:
        options: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "public_url": "", "owner": "ada"}
        listening = server.listen(self.store, **options)
        return self._stack.enter_context(server.background(str(self.path), listening, self.playground))

    def stop(self) -> None:
        self._stack.close()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def judged(self) -> list[Any]:
        return [stored.judgement for stored in self.store.judgements()]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def served(tmp_path: Path, with_answers: Callable[..., list[str]]) -> Iterator[Served]:
    made = Served(tmp_path / "preferences.db")
    with_answers(made.store, 24)
    made.configure()
    yield made
    made.stop()
    made.store.close()


@pytest.fixture
def playing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The page of a run with three models, M0 of which does not end after `~`, slowly enough to be stopped."""
    from reciting import chain, save_reciting

    from trivium.preferences.web.execution import Runner
    from trivium.preferences.web.playground import Playground

    loop = chain("~", "0123456789", ends=False)
    folders = {
        "M0": save_reciting(tmp_path / "M0", loop, n_layers=24),
        "M1": save_reciting(tmp_path / "M1", chain(":", "<b>i")),
        "M2": save_reciting(tmp_path / "M2", chain(":", "xyz")),
    }
    monkeypatch.setenv(compiled.PLAIN, "1")
    compiled.library.cache_clear()
    made = Served(tmp_path / "preferences.db", Playground(folders, Runner()))
    yield made
    made.stop()
    made.store.close()
    compiled.library.cache_clear()


def opened(browser: Any, served: Served, **options: Any) -> Any:
    """A page that has come by the link; whatever it complains of fails the test."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
    context.set_default_timeout(10_000)
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(served.start())
    return page


def heading(page: Any, number: int) -> None:
    sync_api.expect(page.locator("h1")).to_have_text(f"Comparison {number}")


def test_twenty_pairs_by_keys_alone(browser: Any, served: Served) -> None:
    page = opened(browser, served)
    keys = ["1", "2", "3", "4", "Shift+Digit1", "Shift+Digit2"]
    for number in range(1, 21):
        heading(page, number)
        if number == 5:
            page.keyboard.press("n")
            page.keyboard.type("keys 1 2 3 are text here")
            page.keyboard.press("Escape")
        if number == 6:
            page.keyboard.press("c")
            page.keyboard.press("ArrowRight")
            assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "A more"
        if number == 7:
            page.keyboard.press("d")
            page.wait_for_selector("pre[aria-label='Unified diff']:focus")
            page.keyboard.press("e")
            page.wait_for_selector(".verdict")
        if number == 8:
            page.keyboard.press("]")
            assert page.evaluate("document.activeElement.dataset.side") == "B"
            page.keyboard.press("[")
            assert page.evaluate("document.activeElement.dataset.side") == "A"
            page.keyboard.press("g")
            page.wait_for_selector("dialog[open] .prose")
            page.keyboard.press("1")  # a dialog is open: no vote
            page.keyboard.press("Escape")
            page.wait_for_selector("dialog", state="detached")
        page.keyboard.press(keys[number % 6])
        heading(page, number + 1)
        sync_api.expect(page.locator("[data-status]")).to_contain_text("Saved")
        sync_api.expect(page.locator("#heading")).to_be_focused()
    heading(page, 21)
    page.keyboard.press("u")
    heading(page, 20)
    assert "Taken back" in page.text_content("[data-status]")
    page.keyboard.press("s")
    page.keyboard.press("Enter")
    heading(page, 21)
    assert page.text_content("[data-status]") == "Skipped."
    every = served.judged()
    assert len(every) == 19 and page.complaints == []
    choices = {(each.details["choice"], each.margin) for each in every}
    assert choices == {("A", 1), ("B", 1), ("tie", None), ("both_bad", None), ("A", 2), ("B", 2)}
    assert [each.comment for each in every if each.comment] == ["keys 1 2 3 are text here"]
    assert [each.details["criteria"] for each in every if "criteria" in each.details] == [{"correct": -1}]
    assert sum(each.details["execution_seen"] for each in every) == 1
    seconds = [each.details["seconds"] for each in every]
    assert all(0 <= each < 60 for each in seconds) and max(seconds) > 0


BUTTONS = {"b": "2", "tie": "3", "both_bad": "4", "a2": "Shift+1", "b2": "Shift+2", "undo": "u", "diff": "d"}
SHORTCUTS = {f"[data-key={name}]": key for name, key in BUTTONS.items()} | {
    "[data-key=execution]": "e",
    "[data-note]": "n",
    "#criteria": "c",
    "[data-skip] summary": "s",
    "[data-help]": "?",
    "[data-side=A]": "[",
    "[data-side=B]": "]",
    "nav a[href='/label/guidelines']": "g",
}
"""What each key leads to."""


def test_keys_can_be_changed_and_turned_off(browser: Any, served: Served) -> None:
    page = opened(browser, served)
    assert page.get_attribute("[data-key=a]", "aria-keyshortcuts") == "1"
    told = {place: page.get_attribute(place, "aria-keyshortcuts") for place in SHORTCUTS}
    assert told == SHORTCUTS
    page.keyboard.press("?")
    page.focus("dialog .keys label:nth-child(1) input")
    page.keyboard.press("q")
    page.keyboard.press("Escape")
    assert page.get_attribute("[data-key=a]", "aria-keyshortcuts") == "q"
    page.keyboard.press("q")
    heading(page, 2)
    page.reload()
    page.keyboard.press("?")
    page.uncheck("dialog input[type=checkbox]")
    page.keyboard.press("Escape")
    assert page.get_attribute("[data-key=a]", "aria-keyshortcuts") is None
    assert [page.get_attribute(place, "aria-keyshortcuts") for place in SHORTCUTS] == [None] * len(SHORTCUTS)
    page.keyboard.press("q")
    page.keyboard.press("2")
    page.click("[data-key=b]")
    heading(page, 3)
    assert len(served.judged()) == 2 and page.complaints == []


def test_rankings_by_keys(browser: Any, served: Served, with_answers: Any) -> None:
    with_answers(served.store, 24, answers=4)
    served.configure(completions=4)
    page = opened(browser, served)
    heading(page, 1)
    for rank in "2141":
        page.keyboard.press("]")
        page.keyboard.press(rank)
    assert page.text_content("[data-order]") == "B = D > A > C"
    page.focus("#heading")
    page.keyboard.press("Enter")
    heading(page, 2)
    (judgement,) = served.judged()
    order = judgement.details["order"]
    assert judgement.ranking == (tuple(sorted((order[1], order[3]))), (order[0],), (order[2],))
    assert page.complaints == []


def test_drafts_and_votes_outlive_the_server(browser: Any, served: Served) -> None:
    page = opened(browser, served)
    with page.expect_response("**/label/draft"):
        page.fill("[data-note]", "half a thought")
    served.stop()
    page.click("[data-key=a]")
    sync_api.expect(page.locator("[data-status]")).to_contain_text("Trying again")
    served.start()
    heading(page, 2)
    assert [each.comment for each in served.judged()] == ["half a thought"]
    with page.expect_response("**/label/draft"):
        page.fill("[data-note]", "another")
    page.reload()
    assert page.input_value("[data-note]") == "another"


def test_votes_without_javascript(browser: Any, served: Served) -> None:
    page = opened(browser, served, java_script_enabled=False)
    page.check("[name=criterion-readable][value='1']")
    page.fill("[data-note]", "plain")
    page.click("[data-key=diff]")
    assert page.input_value("[data-note]") == "plain" and page.is_visible(".diff")
    page.click("[data-key=b]")
    assert page.text_content("h1") == "Comparison 2"
    page.click("[data-key=undo]")
    assert page.text_content("h1") == "Comparison 1"
    page.click("summary")
    page.click("[name=reason][value=prompt]")
    assert page.text_content("[data-status]") == "Skipped."
    page.click("[data-key=tie]")
    assert [each.details["choice"] for each in served.judged()] == ["tie"]


def test_scripts_in_answers_do_not_run(browser: Any, tmp_path: Path) -> None:
    served = Served(tmp_path / "hostile.db")
    attack = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202e</pre>"
    prompt = served.store.add_prompt(attack)
    served.store.add_samples([(prompt, Sample(text=attack)), (prompt, Sample(text="y" * 1_000_000, sample=1))])
    served.configure()
    page = opened(browser, served)
    page.keyboard.press("d")
    page.wait_for_selector(".diff")
    assert page.title() == "Comparison 1 · Trivium" and page.complaints == []
    assert page.locator("main img, main script").count() == 0
    assert "<script>document.title" in page.inner_text(".sides") and "⟨U+202E⟩" in page.inner_text(".sides")
    served.stop()
    served.store.close()


PLAYED = Judgement(
    prompt="say:",
    completions=(Sample(text="x = 1", model="play:a"), Sample(text="y = 2", model="play:b")),
    ranking=((1,), (0,)),
    id="play-x",
    annotator="ada",
    source="play",
    details={"choice": "A", "order": [1, 0], "execution_seen": False, "play": {"mode": "chat", "models": ["M1", "M2"]}},
)


def test_a_page_is_small_and_fits_a_phone(browser: Any, served: Served) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 720})
    page = context.new_page()
    page.goto(served.start())
    page.click("[data-key=a]")
    heading(page, 2)
    sizes: list[int] = []
    page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
    session = context.new_cdp_session(page)
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    page.goto(f"{served.base}/label", wait_until="networkidle")
    assert len(sizes) <= 6 and sum(sizes) <= 100_000, sizes
    served.store.add_judgement(PLAYED)
    paths = ["/label", "/label?diff=side", "/label/history", "/label/history/play/x", "/label/guidelines", "/stats"]
    for path in (*paths, "/export", "/admin", "/disagreements"):
        page.goto(served.base + path)
        wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert wide[0] <= wide[1], f"{path} is {wide[0]} px wide"


def fill_in(page: Any, **values: str) -> None:
    page.select_option("[name=first]", "M1")
    for name, value in ({"temperature": "0", "max_new_tokens": "1024"} | values).items():
        page.fill(f"[name={name}]", value)


def test_the_playground_streams_stops_and_is_voted_on_by_keys(browser: Any, playing: Served) -> None:
    page = opened(browser, playing)
    page.goto(f"{playing.base}/play")
    fill_in(page, prompt="~")
    page.select_option("[name=first]", "M0")
    page.click("#ask button.main")
    page.wait_for_selector("[data-live] pre:has-text('0123456789')")
    page.keyboard.press("Escape")
    sync_api.expect(page.locator("[data-status]")).to_have_text("Stopped.")
    sync_api.expect(page.locator("h1")).to_have_text("Answer")
    sync_api.expect(page.locator("#heading")).to_be_focused()
    fill_in(page, prompt="say:")
    page.select_option("[name=first]", "M1")
    page.select_option("[name=second]", "M2")
    page.click("#ask button.main")
    sync_api.expect(page.locator("h1")).to_have_text("Two answers")
    assert not re.search(r"\bM[12]\b", page.content())
    page.keyboard.press("1")
    sync_api.expect(page.locator("[data-status]")).to_contain_text("Saved. A is M")
    (said,) = playing.judged()
    assert said.source == "play" and said.details["choice"] == "A"
    assert {each.text for each in said.completions} == {"<b>i", "xyz"}
    page.click("text=Change the vote")
    sync_api.expect(page.locator("h1")).to_have_text("Change a vote of the playground")
    page.keyboard.press("n")
    page.keyboard.type("on second thoughts")
    page.keyboard.press("Escape")
    page.keyboard.press("4")
    sync_api.expect(page.locator("h1")).to_have_text("History")
    assert "both bad" in page.inner_text("table") and "on second thoughts" in page.inner_text("table")
    (said,) = playing.judged()
    assert said.details["choice"] == "both_bad" and said.details["unblinded"] and said.supersedes
    assert page.locator("main b").count() == 0 and page.complaints == []


def test_the_playground_works_without_javascript_fits_a_phone_and_pleases_axe(browser: Any, playing: Served) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    plain = opened(browser, playing, java_script_enabled=False)
    plain.goto(f"{playing.base}/play")
    fill_in(plain, prompt="say:")
    plain.select_option("[name=first]", "M1")
    plain.select_option("[name=second]", "M2")
    plain.click("#ask button.main")
    addresses = [f"{playing.base}/play", plain.url]
    plain.click("[aria-label='Run answer A']")
    plain.wait_for_selector(".verdict")
    page = browser.new_context(viewport={"width": 360, "height": 720}, storage_state=plain.context.storage_state())
    page = page.new_page()
    found = []
    for voted in (False, True):
        if voted:
            plain.click("[data-key=b]")
            assert "Saved. A is M" in plain.text_content("[data-status]")
        for address in addresses:
            page.goto(address)
            page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
            assert wide[0] <= wide[1], f"{address} is {wide[0]} px wide"
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                found += [f"{address} {scheme}: {each}" for each in violations(axe, page)]
    assert found == []


def test_axe_finds_nothing_on_any_page_in_either_theme(browser: Any, served: Served) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = opened(browser, served)
    page.keyboard.press("1")
    heading(page, 2)
    page.keyboard.press("e")
    page.wait_for_selector(".verdict")
    changed = served.store.db.value("SELECT id FROM assignments WHERE state = 'judged'")
    served.store.add_judgement(PLAYED)
    invitation = people.invite(served.store, "annotator", by="ada")
    paths = [
        *(
            "/label?diff=unified",
            "/label?diff=side",
            "/label/history",
            f"/label/history/{changed}",
            "/label/history/play/x",
        ),
        *("/label/guidelines", "/stats", "/disagreements", "/export", "/admin", f"/join/{invitation}", "/nowhere"),
    ]
    found = []
    for path in paths:
        page.goto(served.base + path)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            found += [f"{path} {scheme}: {each}" for each in violations(axe, page)]
    served.configure(criteria=(PLAIN.criteria[0].model_copy(update={"required": True}),))
    page.goto(f"{served.base}/label")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator(".problem")).to_be_focused()
    page.keyboard.press("?")
    found += [f"dialog: {each}" for each in violations(axe, page)]
    served.configure(completions=4)
    for path in ("/label", "/login"):
        page.goto(served.base + path)
        found += [f"{path} again: {each}" for each in violations(axe, page)]
    served.store.db.execute("UPDATE comparisons SET active = 0")
    served.store.db.execute("UPDATE assignments SET state = 'released' WHERE state = 'open'")
    page.goto(f"{served.base}/label")
    assert page.text_content("h1") == "Nothing left to judge"
    found += [f"done: {each}" for each in violations(axe, page)]
    assert found == []


def violations(axe: Any, page: Any) -> list[str]:
    """What axe has against the page as it is."""
    report = axe.Axe().run(page, options={"resultTypes": ["violations"]})
    return [f"{each['id']}: {each['nodes'][0]['html'][:120]}" for each in report.response["violations"]]


def test_every_control_has_a_name_and_pages_a_language(browser: Any, served: Served) -> None:
    page = opened(browser, served)
    assert page.get_attribute("html", "lang") == "en"
    tree = page.locator("main").aria_snapshot()
    for text in (
        'region "Answer A"',
        'region "Answer B"',
        'radiogroup "Correct"',
        "status",
        'group "Which is better?"',
    ):
        assert text in tree, text
    assert not re.search(r"^\s*- (button|textbox|radio|combobox)(:|$)", tree, re.M), "a control without a name"
