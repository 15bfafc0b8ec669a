"""Do labels that a person gives on the page reach R, the policy and the report? One small run, from corpus to report.

    make check-labels
    make check-labels ARGS="--votes 60 --seed 0 --keep /some/folder"
    make check-labels ARGS=--quickstart

A small pipeline over two families of tasks collects answers, which the tests judge; or, with `--quickstart`, the whole
quickstart runs. Then `trivium prefs label` serves the answers, and a scripted annotator judges pairs in it as a browser
does: it follows the printed link, presses keys (each submits the form of the button that has the key), asks for the
tests and reads what the page shows, and nothing else. `trivium reward`, `rl`, `evaluate` and `report` follow. In the
end the store, R's figures and the report must agree on who gave how many labels, and M2 must be of that R.

The annotator prefers the answer that passes; of two that pass the shorter, if by a fifth; else it is a tie; of two that
fail, both are bad.
"""

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html.parser import HTMLParser
from http.client import HTTPResponse
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin
from urllib.request import HTTPCookieProcessor, Request, build_opener

from trivium.preferences.judgement import CHECK_SOURCE
from trivium.preferences.store import PreferenceStore
from trivium.preferences.votes import HUMAN
from trivium.tasks.ladder import examples, generate_tasks

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = ["arithmetic", "filter_map"]
RUN = Path("runs/labelled")
RECIPE = f"""
name = "labelled"
compute.threads = 1
data.sources = ["{ROOT / "src/trivium/objectives"}"]
tokenizer.vocab_size = 512
model = {{ n_layers = 3, d_model = 96 }}
pretrain = {{ steps = 20, batch_size = 16, eval_every = 20, eval_rows = 8 }}
sft = {{ path = "examples.jsonl", epochs = 4, batch_size = 16, eval_tasks = 0 }}

[collect]
heldout_fraction = 0.25
max_new_tokens = 40
tasks = {{ count = 600, families = {json.dumps(FAMILIES)} }}

[reward]
normalise_samples = 128
max_new_tokens = 40
tasks = {{ count = 64, families = {json.dumps(FAMILIES)} }}

[rl]
rounds = 1
steps = 4
prompts_per_step = 32
gold_responses = 16
eval_every = 4
eval_tasks = 16
max_new_tokens = 40
tasks = {{ count = 500, families = {json.dumps(FAMILIES)} }}

[evaluate]
samples = 4
utility_prompts = 20
bits_per_byte_rows = 8
max_new_tokens = 40
tasks = {{ count = 60, families = {json.dumps(FAMILIES)} }}
"""
"""The quickstart made small: two families of tasks and a third of the parameters are enough for a score that counts."""
QUICKSTART = """
name = "labelled"
"""
KEYS = {"1": "a", "2": "b", "3": "tie", "4": "both_bad", "e": "execution"}
"""Keys of the page to the buttons that they press."""


# The annotator's browser.


class Page(HTMLParser):
    """What a browser makes of the labelling page: its form, buttons by what presses them, and what stands there."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self.action = ""
        self.buttons: dict[str, dict[str, str]] = {}
        """`data-key` to the attributes of the button."""
        self.outcomes: list[bool] = []
        """Left to right, whether the tests pass; empty before they are shown."""
        self.status = ""
        self._in_form = self._in_status = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Forms, fields and buttons."""
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._in_form = given.get("id") == "vote"
            self.action = given["action"] if self._in_form else self.action
        elif self._in_form and tag == "textarea":
            self.fields[given["name"]] = ""
        elif self._in_form and tag == "input" and given.get("type", "text") == "hidden":
            self.fields[given["name"]] = given.get("value", "")
        elif self._in_form and tag == "button" and "data-key" in given:
            self.buttons[given["data-key"]] = given
        elif tag == "p" and given.get("class", "").startswith("verdict"):
            self.outcomes.append("good" in given["class"].split())
        self._in_status = "data-status" in given

    def handle_endtag(self, tag: str) -> None:
        """The end of what is being looked at."""
        self._in_form = self._in_form and tag != "form"
        self._in_status = False

    def handle_data(self, data: str) -> None:
        """The status region tells what became of the last vote."""
        self.status += data.strip() if self._in_status else ""


class Browser:
    """Follows links and redirects, keeps cookies, presses keys."""

    def __init__(self, link: str) -> None:
        self._opener = build_opener(HTTPCookieProcessor(CookieJar()))
        self.base = link.split("/start")[0]
        self.requests = 0
        self.page = Page(self._open(link))

    def press(self, key: str, **typed: str) -> None:
        """Press the button of a key: its form goes where it says, with its own value and what was typed."""
        button = self.page.buttons[KEYS[key]]
        form = self.page.fields | typed | ({button["name"]: button["value"]} if button.get("name") else {})
        self.page = Page(self._open(button.get("formaction") or self.page.action, form))

    def text(self, side: int) -> str:
        """An answer as the button `Copy` takes it."""
        return self._open(f"/label/text/{self.page.fields['assignment']}/{side}")

    def _open(self, path: str, form: dict[str, str] | None = None) -> str:
        body = urlencode(form).encode() if form is not None else None
        request = Request(urljoin(self.base, path), body, {"Origin": self.base} if body else {})
        while True:
            self.requests += 1
            try:
                answer: HTTPResponse
                with self._opener.open(request, timeout=60) as answer:
                    return answer.read().decode()
            except HTTPError as error:
                if error.code != 429:  # too many runs of tests in a minute
                    raise RuntimeError(f"{path} answers {error.code}: {error.read().decode()[-300:]}") from None
                time.sleep(5)


def judge(browser: Browser) -> str:
    """Judge the pair in view by what the page shows; the key pressed."""
    browser.press("e")
    left, right = browser.page.outcomes
    lengths = [len(browser.text(side).strip()) for side in range(2)]
    if left != right:
        key = "1" if left else "2"
    elif not left:
        key = "4"
    elif max(lengths) < 1.2 * min(lengths):
        key = "3"
    else:
        key = "1" if lengths[0] < lengths[1] else "2"
    browser.press(key, seconds="4.0")
    if not browser.page.status.startswith("Saved:"):
        raise RuntimeError(f"the page did not say that the vote was saved, but {browser.page.status!r}")
    return key


# The run.


class Log:
    """Lines with the seconds since the beginning, and the processor time of all commands that have ended."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        print("seconds  of a processor", flush=True)

    def say(self, text: str) -> None:
        """A line."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{time.monotonic() - self.began:7.1f}  {used.ru_utime + used.ru_stime:6.1f}  {text}", flush=True)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command line, in the folder."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        [sys.executable, "-m", "trivium", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def trivium(folder: Path, *arguments: str) -> str:
    """Run a command to its end; what it printed."""
    process = start(folder, *arguments)
    out, said = process.communicate()
    if process.returncode:
        sys.exit(f"trivium {' '.join(arguments)} exited with {process.returncode}:\n{said[-2000:]}")
    return out


@contextmanager
def labelling(folder: Path) -> Iterator[str]:
    """The page of the run in a process of its own; the link to open."""
    process = start(folder, "prefs", "label", str(RUN), "--annotator", "ada", "--no-open")
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        if process.wait(timeout=60):
            raise RuntimeError(f"the page ended with code {process.returncode}")
    finally:
        process.kill()
        process.communicate()


def annotate(folder: Path, votes: int, log: Log) -> Counter[str]:
    """Judge so many pairs on the page; how often each key was pressed."""
    pressed: Counter[str] = Counter()
    with labelling(folder) as link:
        browser = Browser(link)
        for number in range(1, votes + 1):
            pressed[judge(browser)] += 1
            if number % 20 == 0:
                told = ", ".join(f"{key} {pressed[key]}" for key in KEYS if pressed[key])
                log.say(f"  {number} judged; keys pressed: {told}; {browser.requests} requests")
    return pressed


def in_store(folder: Path) -> dict[str, Counter[str]]:
    """Judgements in force by source and annotator."""
    found: dict[str, Counter[str]] = {}
    with PreferenceStore(folder / RUN / "preferences.db", create=False) as store:
        for stored in store.judgements():
            found.setdefault(stored.judgement.source, Counter())[stored.judgement.annotator] += 1
    return found


def in_report(folder: Path) -> dict[str, list[str]]:
    """The report's table of labels: source to annotators, judgements, pairs to train, pairs held out, accuracy."""
    page = (folder / RUN / "report.html").read_text(encoding="utf-8")
    _, found, rest = page.partition("Where the labels came from</h3>")
    table = rest.split("</table>")[0] if found else ""
    rows = {}
    for row in re.findall(r'<tr><th scope="row">(.*?)</tr>', table):
        source, cells = row.split("</th>")[0].split("<")[0], re.findall(r"<td>(.*?)(?:<small>.*?</small>)?</td>", row)
        rows[source] = cells
    return rows


def problems(folder: Path, votes: int, pressed: Counter[str], before: Counter[str]) -> list[str]:
    """What store, R's figures and the report do not agree on."""
    stored, shown = in_store(folder), in_report(folder)
    figures = json.loads((folder / RUN / "R/rm.json").read_text())
    human = sum(stored.get(HUMAN, Counter()).values())
    checks = sum(stored.get(CHECK_SOURCE, Counter()).values())
    labels, measured = figures["labels"], figures["sources"]
    stages = json.loads((folder / RUN / "lineage.json").read_text())["stages"]
    telling: dict[str, bool] = {
        f"{votes} votes make {human} labels and {checks} repeats": human + checks == votes == sum(pressed.values()),
        "what the tests said is untouched": stored["execution"] == before,
        "all of the page's labels are one person's": set(stored[HUMAN]) == {"ada"},
        "R learned from both sources": set(labels) == {HUMAN, "execution"},
        "R counts the labels as the store does": {name: part["judgements"] for name, part in labels.items()}
        == {HUMAN: human, "execution": sum(before.values())},
        "R is better than chance": figures["accuracy_ci"][0] > 0.5,
        "R is measured on both": all(measured.get(name, {}).get("pairs", 0) > 0 for name in labels),
        "the report has both sources": set(shown) == set(labels),
        "the report names people by pseudonym": shown.get(HUMAN, [""])[0] == f"p1 ({human})",
        "the report counts as R does": all(
            shown[name][1:4] == [f"{n:,}" for n in (part["judgements"], part["pairs_train"], measured[name]["pairs"])]
            for name, part in labels.items()
            if name in shown and name in measured
        ),
        "M2 was trained against this R": _last(stages, "rl")["inputs"]["R"] == _last(stages, "reward")["outputs"]["R"],
        "the report's M2 is this one": stages["evaluate"]["inputs"]["M2"] == _last(stages, "rl")["outputs"]["M2"],
    }
    return [f"not so: {name}" for name, held in telling.items() if not held]


def _last(stages: dict[str, Any], name: str) -> dict[str, Any]:
    """What the lineage says of a stage in its last round."""
    return next(stages[each] for each in (f"{name}-2", name) if each in stages)


def check(folder: Path, votes: int, seed: int, quickstart: bool = False) -> list[str]:
    """The whole of it in `folder`; what was wrong."""
    log = Log()
    (folder / "labels.toml").write_text(f"seed = {seed}{QUICKSTART if quickstart else RECIPE}")
    if quickstart:
        log.say(f"run: the quickstart; {_told_of_models(json.loads(trivium(folder, 'run', 'labels.toml', '--json')))}")
    else:
        tasks = generate_tasks(1500, seed + 7, "train", families=FAMILIES)
        rows = ({"prompt": each.prompt, "response": each.response} for each in examples(tasks))
        (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for stage in ("tokenizer", "data", "pretrain", "sft", "collect"):
            log.say(f"{stage}: {_told(stage, folder)}")
    before = in_store(folder)["execution"]
    log.say(f"prefs label: {votes} pairs to judge on the page")
    pressed = annotate(folder, votes, log)
    for stage in ("reward", "rl", "evaluate"):
        log.say(f"{stage}: {_told(stage, folder, *(['--force'] if quickstart else []))}")
    trivium(folder, "report", str(RUN))
    log.say("report: where the labels came from")
    for source, (who, judgements, train, held, accuracy) in in_report(folder).items():
        log.say(
            f"  {source}: {judgements} judgements by {who}; {train} pairs to train on, "
            f"{held} held out, of which R gets {accuracy} right"
        )
    wrong = problems(folder, votes, pressed, before)
    log.say("; ".join(wrong) or "store, R and report agree")
    return wrong


def _told(stage: str, folder: Path, *options: str) -> str:
    """Run a stage; what to say of its figures."""
    found = json.loads(trivium(folder, stage, "labels.toml", "--json", *options))
    found = found.get(stage, found)
    told: dict[str, Callable[[dict[str, Any]], str]] = {
        "tokenizer": lambda found: f"{found['vocab_size']} tokens",
        "data": lambda found: f"{found['documents']['train']} documents to train on",
        "pretrain": lambda found: f"M0, {found['parameters']:,} parameters",
        "sft": lambda found: f"M1, {found['examples']} examples",
        "collect": lambda found: (
            f"{found['prompts']} prompts, {100 * found['passing']:.0f}% of answers pass their tests"
        ),
        "reward": _told_of_reward,
        "rl": lambda found: f"M2, {found['responses']} responses, KL {found['kl_sequence_last']:.3f}",
        "evaluate": _told_of_models,
    }
    return told[stage](found)


def _told_of_models(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} pass@1 {100 * each['pass_at_1']:.1f}%" for name, each in found["models"].items())


def _told_of_reward(found: dict[str, Any]) -> str:
    low, high = found["accuracy_ci"]
    labels = ", ".join(f"{part['judgements']} {source}" for source, part in found["labels"].items())
    return f"R from {labels} labels; held-out accuracy {found['accuracy']:.3f} ({low:.3f} to {high:.3f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(description="From the labelling page to the report.")
    parser.add_argument("--votes", type=int, default=60, help="pairs to judge on the page")
    parser.add_argument("--seed", type=int, default=0, help="of the run")
    parser.add_argument("--keep", type=Path, help="folder to work in, which stays")
    parser.add_argument("--quickstart", action="store_true", help="label a whole quickstart, and train R and M2 anew")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return int(bool(check(folder, options.votes, options.seed, options.quickstart)))


if __name__ == "__main__":
    sys.exit(main())
