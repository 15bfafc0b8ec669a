"""What README and docs/ say exists: links, commands, options, recipes, records."""

import ast
import json
import re
from pathlib import Path

import pytest

from trivium.base.flags import option_names, options_of
from trivium.base.recipe import load_config
from trivium.cli.program import COMMANDS
from trivium.data.examples import load_examples
from trivium.preferences.formats import import_preferences
from trivium.preferences.store import PreferenceStore
from trivium.stages.pipeline import STAGES, Recipe
from trivium.tasks.formats import load_tasks

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ABOUT_OPTIONS = ["README", "index", "collect", "decisions", "evaluate", "formats", "own-data", "pretrain", "reward"]
ABOUT_OPTIONS += ["rl", "sft"]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(rf"`(?:--)?((?:{'|'.join([*STAGES, 'compute', 'model', 'sandbox'])})\.[a-z_0-9.]+)")

LINE = re.compile(r"^\| (.+) \| `(.+)` \| `([\w/]+\.py)` \| (.+) \|$", re.MULTILINE)
"""A row of docs/rlhf.md: an equation, the line of code as it stands, its file, its tests."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


SOURCES = sorted((ROOT / "src/trivium").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
NOT_TO_BE = {"benchmarks/tokenize.py"}
"""Files that a page names because there must be none."""
THEIRS = {"f", "help", "transformers.AutoTokenizer.from_pretrained"}
"""Calls of Python, of an example, of other libraries."""


def defined(files: list[Path]) -> set[str]:
    """Functions and classes, nested ones and methods included."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for path in files for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}


def mentioned(files: list[Path]) -> set[str]:
    """Names of arguments, fields and constants, and words that stand as text: options, their values, metrics."""
    found: set[str] = set()
    for node in (node for path in files for node in ast.walk(ast.parse(path.read_text()))):
        match node:
            case ast.arg(arg=name) | ast.Name(id=name) | ast.Constant(value=str(name)):
                found.add(name)
    return found


IN_SOURCE, IN_TESTS, WORDS = defined(SOURCES), defined(TESTS), mentioned(SOURCES)


def blocks(page: Path, language: str) -> list[str]:
    return [text for _, name, text in BLOCK.findall(page.read_text()) if name == language]


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in target:
            path = (page.parent / target.partition("#")[0]).resolve()
            assert path.exists() and ROOT in path.parents, f"{page.name}: {target}"


@each_page
def test_blocks_are_what_they_claim(page: Path) -> None:
    for text in blocks(page, "python"):
        ast.parse(text)
    for text in blocks(page, "json"):
        try:
            json.loads(text)
        except ValueError:  # JSON lines
            for line in text.splitlines():
                json.loads(line)


@each_page
def test_recipes_load(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "toml"):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        load_config(Recipe, path)


@each_page
def test_commands_exist(page: Path) -> None:
    text = page.read_text()
    named = {name for block in blocks(page, "") for name in re.findall(r"^\s*trivium ([a-z]+)", block, re.MULTILINE)}
    named |= set(re.findall(r"`trivium ([a-z]+)", text))
    assert named <= set(COMMANDS)


@pytest.mark.parametrize("name", ABOUT_OPTIONS)
def test_options_exist(name: str) -> None:
    page = ROOT / "README.md" if name == "README" else ROOT / "docs" / f"{name}.md"
    known = set(option_names(Recipe))
    known |= {option.rpartition(".")[0] for option in known}
    variants = tuple(f"{'.'.join(option.path)}." for option in options_of(Recipe) if option.kind == "open")
    files = (".json", ".jsonl", ".md", ".toml", ".py", ".safetensors")
    named = {option for option in OPTION.findall(page.read_text()) if not option.endswith(files)}
    assert {option for option in named if not option.startswith(variants)} <= known


def is_there(name: str) -> bool:
    """Whether a page's `part/file.py` is in the repository, the package or the tests; a bare name, anywhere."""
    if "/" not in name and "*" not in name:
        return any(next((ROOT / part).rglob(name), None) for part in ("src", "tests", "benchmarks", "scripts"))
    return any(next((ROOT / part).glob(name), None) for part in ("", "src/trivium", "tests"))


@each_page
def test_files_exist(page: Path) -> None:
    named = set(re.findall(r"`([\w./*-]+\.py)(?:`|::)", page.read_text())) - NOT_TO_BE
    assert {name for name in named if not is_there(name)} == set()


def stands_for(name: str) -> re.Pattern[str]:
    """What a page's short name of tests may be: `test_rlhf_14_...` begins them, `..._by_hand` ends one, NN a number."""
    return re.compile(re.escape(name).replace(re.escape("..."), r"\w*").replace("NN", r"\d\d"))


@each_page
def test_tests_exist(page: Path) -> None:
    """Those that a page names; `test_list` and the like are fields of task files."""
    named = set(re.findall(r"`(test_\w+(?:\.\.\.)?|\.\.\._\w+)`", page.read_text())) - WORDS
    assert {name for name in named if not any(map(stands_for(name).fullmatch, IN_TESTS))} == set()


@each_page
def test_called_functions_exist(page: Path) -> None:
    named = set(re.findall(r"`([A-Za-z_][\w.]*)\(", LINE.sub("", page.read_text()))) - THEIRS
    assert {name for name in named if name.rpartition(".")[2] not in IN_SOURCE} == set()


def test_equations_name_functions_and_nothing_that_is_not_there() -> None:
    text = LINE.sub("", (ROOT / "docs/rlhf.md").read_text())
    named = set(re.findall(r"`([A-Za-z]\w*)(?:\([^`]*\))?`", text))
    assert len(named) > 60 and named - IN_SOURCE - WORDS - IN_TESTS == set()
    tables = re.findall(r"^\| equation \| function \| tests \|\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    cells = [row.split(" | ")[1] for table in tables for row in table.splitlines()]
    functions = {name for cell in cells for name in re.findall(r"`(\w+)", cell)}
    assert len(functions) > 12 and functions - IN_SOURCE == set()


def test_every_equation_names_a_line_that_is_there_and_tests_that_hold_it() -> None:
    text = (ROOT / "docs/rlhf.md").read_text()
    rows = LINE.findall(text)
    sources = {path: (ROOT / "src/trivium" / path).read_text() for _, _, path, _ in rows}
    assert len(rows) > 60 and len({line for _, line, _, _ in rows}) == len(rows)
    assert [line for _, line, path, _ in rows if line not in sources[path]] == []
    tests = {equation: re.findall(r"`(\w+)`", cell) for equation, _, _, cell in rows}
    assert {name for named in tests.values() for name in named} - IN_TESTS == set() and all(tests.values())
    held = {name[5:12] for names in tests.values() for name in names if name.startswith("test_rlhf_")}
    held |= {name[5:12] for name in re.findall(r"test_rlhf_\d\d", text)}
    assert held == {f"rlhf_{number:02}" for number in range(1, 25)}, "the proofs are numbered 1 to 24"


def test_every_stage_has_a_page_that_the_index_names() -> None:
    index = (ROOT / "docs/index.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem == "index" or f"({page.name})" in index, page.name


def test_records_of_the_formats_page_are_read(tmp_path: Path) -> None:
    page = (ROOT / "docs/formats.md").read_text()

    def shown(heading: str) -> Path:
        section = page[page.index(f"### {heading}") :]
        path = tmp_path / f"{heading.split()[0]}.jsonl"
        path.write_text(BLOCK.findall(section)[0][2])
        return path

    assert len(load_examples(shown("Supervised examples"))) == 4
    assert len(load_tasks(shown("Tasks"))) == 1
    with PreferenceStore(tmp_path / "preferences.db") as store:
        report = import_preferences(shown("Preferences"), store)
    assert (report.records, report.pairs["pairs"], report.ignored) == (2, 2, {})
