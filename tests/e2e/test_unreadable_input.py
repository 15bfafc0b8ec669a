"""Files that the user may not read, and folders that may not be written: root may do both, so nobody asks."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench import make_world

from trivium.cli import main

NOBODY = 65534
FRESH = ["run", "mine.toml", "--name", "fresh"]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's privileges; for everybody else, as they are."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture(scope="module", autouse=True)
def loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import all that the commands use: nobody may have no access to Python's own library."""
    folder = tmp_path_factory.mktemp("loaded") / "world"
    make_world(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["tokenizer", "mine.toml"]) == 0
        assert main(["prefs", "import", "preferences.jsonl", "--store", "p.db"]) == 0
        assert main(["generate", "corpus", "x"]) == 2


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A recipe with its files in a place that everybody may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    with as_nobody():
        make_world(folder / "world")
    monkeypatch.chdir(folder / "world")
    yield folder / "world"
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o777)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("path", "command", "told"),
    [
        ("mine.toml", FRESH, "mine.toml: cannot read the recipe: Permission denied. Check the path."),
        ("answers.jsonl", FRESH, "answers.jsonl cannot be read: Permission denied. Check path and permissions."),
        (
            "preferences.jsonl",
            FRESH,
            "preferences.jsonl cannot be read: Permission denied. Check path and permissions.",
        ),
        ("tasks.jsonl", FRESH, "tasks.jsonl cannot be read: Permission denied. Check path and permissions."),
        ("corpus/part_3.py", FRESH, "cannot read corpus/part_3.py: Permission denied. Check the path."),
        (
            "mine.toml",
            ["generate", "corpus", "--file", "mine.toml"],
            "mine.toml: Permission denied. Name a text file that holds the prompt.",
        ),
        (".", FRESH, "cannot write to the run directory runs/fresh: Permission denied. Choose another place."),
        (
            ".",
            ["prefs", "import", "preferences.jsonl", "--store", "new/p.db"],
            "new/p.db cannot be made: Permission denied.",
        ),
    ],
)
def test_what_may_not_be_touched(
    path: str, command: list[str], told: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / path).chmod(0o555 if path == "." else 0)
    with as_nobody():
        assert main(command) == 2
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1].startswith(f"trivium: {told}")
    assert errors.count("trivium: ") == 1 and not (world / "runs").exists()
