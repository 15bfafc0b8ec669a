"""The tree's layers hold: imports go down only, the core needs no extra, nothing is pickled."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "src" / "trivium"

LAYERS = [
    {"base", "records", "batch"},
    {"runs", "tokenizer", "sandbox", "model", "objectives", "optim", "distributed"},
    {"data", "tasks", "generation", "training"},
    {"rewards"},
    {"rl", "preferences", "evaluation"},
    {"stages"},
    {"serving", "report"},
    {"cli", "front"},
    {"__main__"},
]
LEVEL = {part: number for number, layer in enumerate(LAYERS) for part in layer} | {"__version__": -1}

CORE = {
    "jinja2",
    "matplotlib",
    "numpy",
    "psutil",
    "pyarrow",
    "pydantic",
    "pygments",
    "rensa",
    "rich",
    "safetensors",
    "scipy",
    "tensorboard",
    "tiktoken",
    "tokenizers",
    "torch",
}
"""What `pip install trivium` brings; the extras' libraries are imported inside functions, where they are used."""

EXTRAS = {"preferences/web": {"fastapi", "markupsafe", "starlette", "uvicorn"}}
"""Packages that belong to an extra and may load its libraries; whoever needs them imports them inside functions."""

LAZY_REFERENCE = re.compile(r"trivium(\.\w+)+(:\w+)?")


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if "builtin" not in path.relative_to(ROOT).parts)


def part_of(path: Path) -> str:
    """The name in `LEVEL` that a module belongs to; "" for the front door, which sees everything."""
    first = path.relative_to(ROOT).parts[0]
    return "" if first in ("__init__.py", "__main__.py", "front.py") else first.removesuffix(".py")


def imported(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all imports, relative ones resolved, lazy `"trivium.a.b:c"` strings included."""
    package = ("trivium", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base == "trivium":
                yield from ((node.lineno, f"trivium.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, base
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and LAZY_REFERENCE.fullmatch(node.value):
            yield node.lineno, node.value.partition(":")[0]


def breaches(path: Path, source: str) -> list[str]:
    """Imports in `source`, the module at `path`, that do not go down."""
    part = part_of(path)
    found = []
    for line, name in imported(ast.parse(source), path):
        pieces = name.split(".")
        if pieces[0] != "trivium" or len(pieces) < 2 or not part:
            continue
        target = pieces[1]
        if target != part and LEVEL.get(target, len(LAYERS)) >= LEVEL[part]:
            found.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    return found


def test_every_part_of_the_tree_has_a_layer() -> None:
    parts = {part_of(path) for path in modules()} - {""}
    assert parts <= LEVEL.keys(), "add the new package to LAYERS and to the tree in CONTRIBUTING.md"


def test_imports_go_down_only() -> None:
    found = [breach for path in modules() if part_of(path) for breach in breaches(path, path.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "clean"),
    [
        ("stages/sft.py", "from trivium.model import load", True),
        ("model/hf.py", "from trivium.model.config import ModelConfig", True),
        ("model/hf.py", "from .config import ModelConfig", True),
        ("model/hf.py", "from trivium.tokenizer import Tokenizer", False),  # equals do not meet
        ("objectives/kl.py", "from ..data import loader", False),
        ("model/hf.py", "def f():\n    import trivium.stages.sft", False),
        ("runs/lineage.py", "from trivium import cli", False),
        ("rl/ppo.py", 'STAGE = "trivium.stages.rl:run"', False),
        ("stages/sft.py", "from trivium.report import write_report", False),
        ("base/log.py", "import torch", True),
    ],
)
def test_breaches_are_seen(module: str, source: str, clean: bool) -> None:
    assert (breaches(ROOT / module, source) == []) is clean


def test_modules_import_without_extras() -> None:
    """An extra's library may be imported inside a function, never when a module loads, but for the extra's own."""
    found = []
    for path in modules():
        folder = path.relative_to(ROOT).parent.as_posix()
        allowed = CORE | {"trivium"} | set(sys.stdlib_module_names) | EXTRAS.get(folder, set())
        for node in ast.parse(path.read_text()).body:
            for line, name in (
                imported(ast.Module([node], []), path) if isinstance(node, ast.Import | ast.ImportFrom) else ()
            ):
                library = name.split(".")[0]
                inner = [
                    part for part in EXTRAS if part != folder and name.startswith(f"trivium.{part}".replace("/", "."))
                ]
                if library not in allowed or inner:
                    found.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not found, "\n".join(found)


def test_nothing_is_pickled() -> None:
    found = []
    for path in modules():
        for node in ast.walk(tree := ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "torch.save"):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node.func)}")
        pickles = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
        found += [f"{path.relative_to(ROOT)}:{line} {name}" for line, name in imported(tree, path) if name in pickles]
    assert not found, "\n".join(found)
