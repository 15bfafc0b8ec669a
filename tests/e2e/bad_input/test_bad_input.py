"""Every bad input gives one clear line and exit code 2, and leaves every file as it was."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from bench import Case, make_runs, make_world, snapshot
from catalogue import cases, page

from trivium.cli import main

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "world"
    make_world(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_runs()
    return folder


@pytest.fixture
def world(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "world"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{name}: {case.title}") for name, case in cases()])
def test_bad_input(case: Case, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arrange in case.arrange:
        arrange()
    capsys.readouterr()
    before = snapshot(world)
    code = main(case.arguments)
    errors = capsys.readouterr().err
    told = [line.removeprefix("trivium: ") for line in errors.splitlines() if line.startswith("trivium: ")]
    assert code == 2 and len(told) == 1 and errors.endswith(f"{told[0]}\n"), errors
    assert "Traceback" not in errors and "bug in Trivium" not in errors
    assert case.fits(told[0]), told[0]
    after = snapshot(world)
    assert [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)] == []


def test_there_are_enough_cases_and_none_twice() -> None:
    names = Counter((name, case.title) for name, case in cases())
    assert len(names) >= 500 and set(names.values()) == {1}


def test_the_page_is_current() -> None:
    assert (ROOT / "docs/bad-input.md").read_text() == page(), "`make docs` brings docs/bad-input.md up to date"
