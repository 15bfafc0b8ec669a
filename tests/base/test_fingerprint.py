"""Equal content, equal fingerprint; any change of content, another."""

import os
from pathlib import Path

import pytest

from trivium.base.errors import InputError
from trivium.base.fingerprint import (
    fingerprint,
    fingerprint_file,
    fingerprint_modules,
    fingerprint_tree,
    module_sources,
)


def test_values_ignore_key_order_and_nothing_else() -> None:
    value = {"a": 1, "b": {"c": [1, 2.5, None, True], "d": "ü"}}
    assert fingerprint(value) == fingerprint({"b": {"d": "ü", "c": (1, 2.5, None, True)}, "a": 1})
    others = [{"a": 1}, {**value, "a": 2}, {**value, "a": "1"}, {**value, "a": True}, [value], [1, 2], [2, 1], None]
    assert len({fingerprint(other) for other in [value, *others]}) == len(others) + 1


def test_value_is_stable_across_versions() -> None:
    """Stored manifests are compared with it. Expected: `printf %s JSON | b2sum -l 128`."""
    assert fingerprint({"b": [1, 0.5, "x"], "a": None}) == "fbabc2188e5a95b75c80ddcaadb68943"


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {2: 0}}, {1, 2}, object(), b"bytes"])
def test_values_that_are_not_json_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        fingerprint(value)


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"lr": float("nan")})


def test_file_change_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"aaaa")
    before, stat = fingerprint_file(path), path.stat()
    path.write_bytes(b"aaab")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint_file(path) != before


def test_tree_depends_on_names_and_content_only(tmp_path: Path) -> None:
    for name, order in (("x", ("a", "sub/b")), ("y", ("sub/b", "a"))):
        for file in order:
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file)
    base = fingerprint_tree(tmp_path / "x")
    assert fingerprint_tree(tmp_path / "y") == base
    (tmp_path / "y" / "a").rename(tmp_path / "y" / "c")
    assert fingerprint_tree(tmp_path / "y") != base
    (tmp_path / "x" / "sub" / "b").write_text("other")
    assert fingerprint_tree(tmp_path / "x") != base


def test_tree_follows_links_without_circling(tmp_path: Path) -> None:
    corpus, outside = tmp_path / "corpus", tmp_path / "outside"
    corpus.mkdir()
    outside.mkdir()
    (outside / "text").write_text("one")
    (corpus / "linked").symlink_to(outside)
    (outside / "back").symlink_to(corpus)
    (corpus / "broken").symlink_to("nowhere")
    os.mkfifo(corpus / "pipe")
    before = fingerprint_tree(corpus)
    (outside / "text").write_text("two")
    assert fingerprint_tree(corpus) != before


def test_missing_paths_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        fingerprint_tree(tmp_path / "none")
    with pytest.raises(InputError, match="cannot read"):
        fingerprint_file(tmp_path / "none")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    root = tmp_path / "pkg"
    files = {
        "__init__.py": "import pkg.unrelated",
        "stages/__init__.py": "import pkg.unrelated",
        "stages/sft.py": "import json\nfrom pkg.model import net\nfrom ..base.files import write\nfrom . import shared",
        "stages/shared.py": "def f():\n    from pkg.rl import ppo\n",
        "model/__init__.py": "",
        "model/net.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pkg.typed\nX = 1",
        "base/files.py": "REGISTRY = {'a': 'pkg.lazy:load'}",
        "rl/ppo.py": "from pkg.model import Net, net",
        "lazy.py": "",
        "typed.py": "",
        "unrelated.py": "",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_modules_are_followed_transitively(package: Path) -> None:
    used = set(module_sources("pkg.stages.sft", root=package))
    assert used == {
        "pkg.stages.sft",
        "pkg.stages.shared",
        "pkg.base.files",
        "pkg.model",  # `Net` is no module, so the package provides it
        "pkg.model.net",
        "pkg.rl.ppo",
        "pkg.lazy",
    }


@pytest.mark.parametrize(
    ("file", "changes"),
    [("lazy.py", True), ("rl/ppo.py", True), ("stages/sft.py", True), ("unrelated.py", False), ("typed.py", False)],
)
def test_code_version_follows_the_modules_used(package: Path, file: str, changes: bool) -> None:
    before = fingerprint_modules("pkg.stages.sft", root=package)
    (package / file).write_text("# changed\n" + (package / file).read_text())
    assert (fingerprint_modules("pkg.stages.sft", root=package) != before) is changes


def test_code_that_a_module_compiles_belongs_to_it(package: Path) -> None:
    before = fingerprint_modules("pkg.stages.sft", root=package)
    source = package / "stages" / "sft.cpp"
    versions = set()
    for text in ("int x;", "int y;"):
        source.write_text(text)
        versions.add(fingerprint_modules("pkg.stages.sft", root=package))
    assert len(versions | {before}) == 3


def test_own_package_is_found() -> None:
    used = module_sources("trivium.runs")
    assert {"trivium.runs.manifest", "trivium.base.files", "trivium.base.errors"} <= set(used)
    with pytest.raises(ModuleNotFoundError):
        fingerprint_modules("trivium.no_such_module")


def test_a_stage_does_not_depend_on_the_stages_after_it() -> None:
    early = module_sources("trivium.stages.pretrain")
    assert "trivium.training.trainer" in early
    assert not {"trivium.front", "trivium.stages.rl", "trivium.stages.pipeline", "trivium.cli"} & set(early)
