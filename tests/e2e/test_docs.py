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

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


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
