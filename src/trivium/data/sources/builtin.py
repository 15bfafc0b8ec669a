"""The built-in corpus: the running Python's standard library, as code and as English.

It is real text that every installation has, so the first run needs no download. Tests, generated tables and
installed packages are left out. Paths are relative to the library, so that splits are the same everywhere.
"""

import ast
import gc
import importlib
import inspect
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import BuiltinFunctionType, ModuleType

from trivium.data.config import SourceConfig
from trivium.data.drops import Drops
from trivium.data.sources.files import decode_file
from trivium.records import Document

LICENSE = "PSF-2.0"
LEFT_OUT = re.compile(
    r"tests?|idle_test|lib2to3|site-packages|dist-packages|__pycache__|encodings|pydoc_data|_bundled|lib-dynload"
    r"|config-\d.*|_sysconfigdata.*"
)
"""Folders and files that are tests, generated tables, or no part of the library."""

DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
SHORTEST_DOCSTRING = 20
"""Characters; shorter docstrings say too little to be English."""


def read_builtin_code(source: SourceConfig, drops: Drops) -> Iterator[Document]:
    """The library's modules, without tests, lib2to3, tables of encodings and installed packages."""
    for path, text in _modules():
        yield _document(text, "python", path, source)


def read_builtin_english(source: SourceConfig, drops: Drops) -> Iterator[Document]:
    """Docstrings (one document a module), the language reference of `help()`, and the library's text files."""
    root = _root()
    for path, text in _modules():
        yield _document("\n\n".join(_docstrings(text, path)), "english", path, source)
    for name in sorted(sys.builtin_module_names):
        module = importlib.import_module(name)
        yield _document("\n\n".join(_runtime_docstrings(module)), "english", f"builtins/{name}", source)
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions pack it apart
        drops.leave_out("pydoc_data", "is not part of this Python", "missing", source.label)
        topics = {}
    for topic, text in sorted(topics.items()):
        yield _document(text, "english", f"pydoc_data/{topic}", source)
    for path in _files((".rst", ".txt")):
        yield _document(decode_file((root / path).read_bytes()), "english", path, source)


def _root() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _files(suffixes: tuple[str, ...]) -> list[str]:
    """The library's files with these suffixes, as sorted paths below its root."""
    root, found = _root(), []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not LEFT_OUT.fullmatch(name)]
        inside = Path(folder).relative_to(root)
        found += [(inside / name).as_posix() for name in files if name.endswith(suffixes)]
    return sorted(path for path in found if not LEFT_OUT.fullmatch(path))


def _modules() -> Iterator[tuple[str, str]]:
    """(path in the library, text) of each module."""
    root = _root()
    for path in _files((".py",)):
        yield path, decode_file((root / path).read_bytes(), is_python=True)


def _document(text: str, language: str, path: str, source: SourceConfig) -> Document:
    return Document(
        text=text,
        source=source.label,
        language=source.language or language,
        license=source.license or LICENSE,
        path=f"python/{path}",
    )


def _docstrings(text: str, path: str) -> list[str]:
    """Docstrings of a module, its classes, functions and methods, in order."""
    was_enabled = gc.isenabled()
    gc.disable()  # a syntax tree is many objects and no garbage: collecting takes as long as parsing
    try:
        found: list[str] = []
        waiting: list[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef] = [ast.parse(text, path)]
        while waiting:
            node = waiting.pop()
            docstring = ast.get_docstring(node)
            if docstring and len(docstring) >= SHORTEST_DOCSTRING:
                found.append(docstring)
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                waiting.extend(child for child in reversed(node.body) if isinstance(child, DOCUMENTED))
        return found
    except SyntaxError:  # templates that merely end in .py
        return []
    finally:
        if was_enabled:
            gc.enable()


def _runtime_docstrings(module: ModuleType) -> Iterator[str]:
    """Docstrings of a module written in C, each once.

    By name, and only of what the module itself defines: what a session put there would make the corpus, and with it
    every fingerprint, depend on the session.
    """
    members: list[object] = [module]
    for _, value in sorted(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, BuiltinFunctionType):
            members.append(value)
        elif isinstance(value, type):
            members += [value, *(member for _, member in sorted(vars(value).items()))]
    docstrings = [getattr(member, "__doc__", None) for member in members]
    long_enough = (text for text in docstrings if isinstance(text, str) and len(text) >= SHORTEST_DOCSTRING)
    yield from map(inspect.cleandoc, dict.fromkeys(long_enough))
