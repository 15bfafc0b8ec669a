"""Take the pictures of the labelling page that the documentation shows: `python scripts/label_screenshots.py`.

Needs the `label` extra, Playwright and a system Chromium (CHROMIUM names another one). The pictures of the playground
need a run with models: runs/quickstart, or the one given.
"""

import os
import shutil
import sys
import tempfile
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from trivium.preferences.audit import read_settings, write_settings
from trivium.preferences.comparisons import fill
from trivium.preferences.desk import LabellingDesk
from trivium.preferences.judgement import Sample
from trivium.preferences.people import add_person
from trivium.preferences.store import PreferenceStore
from trivium.preferences.votes import Vote
from trivium.preferences.web.execution import Runner
from trivium.preferences.web.playground import Playground
from trivium.preferences.web.server import background, listen

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
ANSWERS = {
    'def clamp(value, low, high):\n    """Return value, moved into [low, high]."""\n': (
        "    return max(low, min(value, high))\n",
        "    if value < low:\n        return low\n    if value > high:\n        value = low\n    return value\n",
        "    result = value\n    if value < low:\n        result = low\n    return result\n",
        "    return sorted([low, value, high])[1]\n",
    ),
    'def is_palindrome(text):\n    """Say whether text reads the same backwards, letters only."""\n': (
        "    letters = [c.lower() for c in text if c.isalpha()]\n    return letters == letters[::-1]\n",
        "    text = text.lower()\n    return text == text[::-1]\n",
        "    for i in range(len(text) // 2):\n        if text[i] != text[-i - 1]:\n            return False\n"
        "    return True\n",
        "    letters = ''.join(filter(str.isalpha, text))\n    return letters.lower() == letters[::-1].lower()\n",
    ),
    'def count_words(text):\n    """Return how often each word of text occurs, as a dict."""\n': (
        "    counts = {}\n    for word in text.split():\n        counts[word] = counts.get(word, 0) + 1\n"
        "    return counts\n",
        "    counts = {}\n    for word in text.split():\n        counts[word] = 1\n    return counts\n",
        "    return {word: text.count(word) for word in text.split()}\n",
        "    return dict(zip(text.split(), range(len(text))))\n",
    ),
}
PASSING = {(0, 0), (0, 3), (1, 0), (1, 3), (2, 0)}


def demo_store(path: Path, completions: int = 2) -> None:
    """A store with answers and with two people's judgements."""
    with PreferenceStore(path) as store:
        for copy in range(14):
            for at, (prompt, answers) in enumerate(ANSWERS.items()):
                name = store.add_prompt(prompt.replace("(", f"_{copy}(", 1) if copy else prompt)
                store.add_samples(
                    (
                        name,
                        Sample(
                            text=text,
                            sample=index,
                            passed=(at, index) in PASSING,
                            tests_passed=4 if (at, index) in PASSING else 1,
                            tests_total=4,
                            verdict="passed" if (at, index) in PASSING else "failed",
                        ),
                    )
                    for index, text in enumerate(answers)
                )
        settings = read_settings(store).model_copy(update={"completions": completions, "overlap_share": 0.5})
        add_person(store, "ada", "owner", "a long password")
        add_person(store, "grace", "annotator", "a long password")
        write_settings(store, settings, "ada")
        fill(store)
        desk = LabellingDesk(store)
        for person, votes in (("grace", 26), ("ada", 24)):
            for number in range(votes if completions == 2 else 0):
                held = desk.next(person)
                assert held is not None
                better = "A" if held.shown[0].sample.passed else "B"
                passing = {each.sample.passed for each in held.shown}
                choice: Any = better if len(passing) == 2 else "tie" if True in passing else "both_bad"
                if person == "grace" and number % 4 == 1:
                    choice = "tie"
                note = "off by one" if number % 5 == 0 else ""
                vote = Vote(choice=choice, note=note, seconds=2.5 + number % 5)
                desk.vote(person, held.id, vote, f"{person}-request-{number}")
                ago = datetime.now(UTC) - timedelta(seconds=6 * (votes - number))
                closed = ago.isoformat(timespec="milliseconds")
                store.db.execute("UPDATE assignments SET closed = ? WHERE id = ?", (closed, held.id))


def served(path: Path, run: Path | None = None) -> AbstractContextManager[str]:
    """The page of a store, with the models of a run to play with; the link to open."""
    with PreferenceStore(path) as store:
        listening = listen(store, host="127.0.0.1", port=None, public_url="", owner="ada")
    names = [name for name in ("M0", "M1", "M2") if run is not None and (run / name / "config.json").is_file()]
    playground = Playground({name: run / name for name in names if run is not None}, Runner()) if names else None
    return background(str(path), listening, playground)


def shoot(page: Page, name: str, full: bool = True) -> None:
    """Keep what the page shows, in few colours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shot.png"
        page.screenshot(path=path, full_page=full, animations="disabled")
        picture = Image.open(path).convert("RGB").quantize(96, dither=Image.Dither.NONE)
        picture.save(IMAGES / f"{name}.png", optimize=True)


def main() -> None:
    """All pages: light and dark on a desktop, and narrow."""
    IMAGES.mkdir(exist_ok=True)
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        pair, four = Path(folder) / "pair.db", Path(folder) / "four.db"
        demo_store(pair)
        demo_store(four, completions=4)
        with served(pair) as link:
            _pages(browser, link)
        with served(four) as link:
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.goto(link)
            for side, rank in zip("ABCD", "2141", strict=True):
                page.select_option(f"[data-rank={side}]", rank)
            shoot(page, "label-ranking-light")
        run = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/quickstart")
        if (run / "M2" / "config.json").is_file():
            with served(pair, run) as link:
                _playground(browser, link)
        browser.close()


def _playground(browser: Any, link: str) -> None:
    """The request, and two answers of M1 and M2 before and after the vote."""
    looks = {"light": ("light", 1280), "dark": ("dark", 1280), "narrow": ("light", 380)}
    state = None
    for look, (scheme, width) in looks.items():
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, storage_state=state
        )
        page = context.new_page()
        page.goto(link)
        state = context.storage_state()
        page.goto(link.split("/start")[0] + "/play")
        page.fill("[name=prompt]", next(iter(ANSWERS)))
        page.select_option("[name=first]", "M1")
        page.select_option("[name=second]", "M2")
        page.fill("[name=max_new_tokens]", "48")
        shoot(page, f"play-ask-{look}")
        page.click("#ask button.main")
        page.wait_for_selector("[aria-label='Run answer A']")
        shoot(page, f"play-{look}")
        page.keyboard.press("1")
        page.wait_for_selector("[aria-label='Command for A']", state="attached")
        for details in page.locator(".side details:not(.after)").all():
            details.locator("summary").click()
        shoot(page, f"play-voted-{look}")


def _pages(browser: Any, link: str) -> None:
    looks = {"light": ("light", 1280), "dark": ("dark", 1280), "narrow": ("light", 380)}
    state = None
    for look, (scheme, width) in looks.items():
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, storage_state=state
        )
        page = context.new_page()
        page.goto(link)
        state = context.storage_state()
        shoot(page, f"label-{look}")
        if not page.query_selector(".verdict"):
            page.keyboard.press("e")
            page.wait_for_selector(".verdict")
        page.keyboard.press("d")
        page.wait_for_selector(".diff")
        shoot(page, f"label-diff-{look}")
        for name in ("history", "stats", "disagreements", "export", "admin"):
            page.goto(link.split("/start")[0] + ("/label/history" if name == "history" else f"/{name}"))
            shoot(page, f"label-{name}-{look}", full=name not in ("admin", "history", "disagreements"))
        page.goto(link.split("/start")[0] + "/label")
        page.keyboard.press("?")
        if look == "light":
            shoot(page, "label-keys-light", full=False)


if __name__ == "__main__":
    main()
