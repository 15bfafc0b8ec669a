"""The report: complete, offline, escaped, and written whatever the run directory lacks."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import write_run

from trivium.base.errors import RunDirError
from trivium.report import write_report

VOID = {"meta", "link", "br", "img", "input", "hr", "base", "embed", "source"}
HOSTILE = "</pre></title></style><script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}&lt;$x$ ]]>-->"


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, *names: str) -> list[str]:
        return [value for name, value in self.attributes if name in names]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "quickstart").path


@pytest.fixture
def run_path(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "quickstart"))


@pytest.fixture(scope="module")
def complete(finished: Path) -> tuple[str, Page]:
    before = sorted(finished.rglob("*"))
    written = report(finished)
    assert sorted(finished.rglob("*")) == sorted([*before, finished / "report.html"])
    return written


def report(path: Path) -> tuple[str, Page]:
    text = write_report(path).read_text(encoding="utf-8")
    return text, Page(text)


def test_complete_run_shows_everything(complete: tuple[str, Page]) -> None:
    text, page = complete
    assert "Left out" not in page.text
    assert text.count("<svg") == 13
    for expected in (
        "66.1%, 13.8 points more than M1 (the 95% intervals do not overlap)",
        "in 60 steps over 3 rounds", "over-optimisation in round 3: from steps 41–45 to 56–60",
        "62.0–70.0", "−0.950", "85.3% (82.0–88.0)", "41.0%", "−0.22",  # tables
        "86.0%", "78.0–90.0", "6,000", "21–40", "highest at",  # rounds, fit
        "no user namespaces on this machine", "2 of 612 documents dropped",  # warnings
        "M0 passed 0 of 12, M1 passed 0 of 12, M2 passed 12 of 12.",
        "cost: $5 & $6", "inputs.corpus", "versions.python", "machine.cores", "c0ffee",
        "# parent is not set",
    ):  # fmt: skip
        assert expected in page.text, expected
    assert len(text) < 600_000


def test_page_is_offline_and_sound(complete: tuple[str, Page]) -> None:
    text, page = complete
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "base"})
    assert all(value.startswith("#") for value in page.values("src", "href", "xlink:href", "action"))
    assert "@import" not in text and "url(http" not in text
    assert re.search(r"#0102\d\d", text) is None  # every placeholder colour became one of the page's
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = {value[1:] for value in page.values("href", "xlink:href") if value}
    targets |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert targets <= set(ids)


def test_hostile_text_is_shown_and_not_obeyed(run_path: Path) -> None:
    answers = {model: {"text": HOSTILE + "\x00\x1b[31m\u202e\ud800", "passed": False} for model in ("M0", HOSTILE)}
    row = {"task_id": HOSTILE, "prompt": HOSTILE, "answers": answers}
    (run_path / "evaluate/samples/answers.jsonl").write_text(json.dumps(row) + "\n")
    (run_path / "recipe.toml").write_text(HOSTILE)
    summary = json.loads((run_path / "summary.json").read_text())
    summary["rl"] = {"algorithm": HOSTILE, HOSTILE: HOSTILE}
    summary["seed"] = HOSTILE
    (run_path / "summary.json").write_text(json.dumps(summary))
    lineage = json.loads((run_path / "lineage.json").read_text())
    manifest = lineage["stages"].pop("sft")
    manifest |= {"stage": HOSTILE, "warnings": [HOSTILE], "status": HOSTILE, "parents": [HOSTILE]}
    lineage["stages"][HOSTILE] = manifest | {"result": {HOSTILE: HOSTILE}}
    (run_path / "lineage.json").write_text(json.dumps(lineage))
    with open(run_path / "pretrain/metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 500, "time": 1, f"bits_per_byte/{HOSTILE}": 2.0}) + "\n")
    text, page = report(run_path)
    assert page.tags.isdisjoint({"script", "img"})
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) >= 12
    assert any(HOSTILE in value for value in page.values("aria-label"))
    assert "⟨U+0000⟩⟨U+001B⟩[31m⟨U+202E⟩⟨U+D800⟩" in page.text
    assert not re.search("[\x00\x1b\u202e]", text)


PARTS = [
    "recipe.toml",
    "summary.json",
    "utility.jsonl",
    "R/rm.json",
    "evaluate/samples/answers.jsonl",
    "pretrain/metrics.jsonl",
    "rl/metrics.jsonl",
    "rl-2/metrics.jsonl",
]


def test_each_missing_part_is_noted(run_path: Path) -> None:
    for name in PARTS:
        (run_path / name).unlink()
    (run_path / "lineage.json").unlink()  # the stages' own manifests tell as much
    _, page = report(run_path)
    for name in PARTS:
        assert f"{name} is missing" in page.text, name
    assert "inputs.corpus" in page.text
    assert "Recorded along the way" in page.text


def test_each_broken_part_is_a_warning(run_path: Path) -> None:
    for name in PARTS[1:]:
        (run_path / name).write_bytes(b'{"step": \xff\n\n')
    (run_path / "lineage.json").write_text("[")
    _, page = report(run_path)
    for name in [*PARTS[1:], "lineage.json"]:
        assert f"{name} cannot be read" in page.text, name


@pytest.mark.parametrize("odd", [None, "text", [[1], {}], {"a": {"b": 1}}, True, -1e300])
def test_values_of_any_kind_are_survived(run_path: Path, odd: Any) -> None:
    for path in [*run_path.rglob("*.json"), *run_path.rglob("*.jsonl")]:
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        values = [json.dumps(replace_leaves(json.loads(line), odd)) for line in lines]
        path.write_text("\n".join(values) + "\n")
    report(run_path)


def replace_leaves(value: Any, odd: Any) -> Any:
    if isinstance(value, dict) and value:
        return {key: item if key == "step" else replace_leaves(item, odd) for key, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [replace_leaves(item, odd) for item in value]
    return odd


def test_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("seed = 1\n")
    _, page = report(tmp_path)
    assert "This run has no results yet." in page.text


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="holds no run"):
        write_report(tmp_path)
    with pytest.raises(RunDirError, match="not a run directory"):
        write_report(tmp_path / "none")
    assert not (tmp_path / "none").exists()
