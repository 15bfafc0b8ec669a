"""Fingerprints: short digests of values, files, folders and of the code a stage uses.

Files are always read in full: sizes and times of modification do not prove that content is unchanged
(memory-mapped writes, clocks, coarse timestamps), and BLAKE2b reads about a gigabyte a second.
"""

import ast
import hashlib
import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from trivium.base.errors import InputError
from trivium.base.files import check_regular

PACKAGE_ROOT = Path(__file__).resolve().parent.parent
DIGEST_BYTES = 16


def fingerprint(value: Any) -> str:
    """Digest of a JSON-able value; the order of dict keys does not matter, that of lists does.

    Raises:
        TypeError: a part is not JSON (a set, a tensor, a key that is not a string).
        ValueError: a number is NaN or infinite.
    """
    _check_keys(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return _digest(text.encode())


def fingerprint_file(path: Path | str) -> str:
    """Digest of a file's bytes.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    check_regular(Path(path))
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, _hasher).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}. Check the path.") from error


def fingerprint_tree(directory: Path | str) -> str:
    """Digest of a folder: the relative names and the content of all files below it, symbolic links followed.

    Raises:
        InputError: `directory` is not a folder, or a file in it cannot be read.
    """
    root = Path(directory)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder. Check the path.")
    return fingerprint(sorted([relative, fingerprint_file(path)] for relative, path in _files_below(root)))


def fingerprint_path(path: Path | str) -> str:
    """Digest of a file or of a folder, whichever stands at `path`."""
    return fingerprint_tree(path) if Path(path).is_dir() else fingerprint_file(path)


def fingerprint_modules(*module_names: str, root: Path = PACKAGE_ROOT) -> str:
    """The code version of what a stage uses: the source of the named modules and of all they import in the package.

    Imports are read from the syntax tree, nothing is executed. A string that is exactly a module's dotted name
    (lazy registries) counts as an import; an `__init__` that is only passed through does not, nor do imports for
    type checking. What a module compiles lies beside it under its name, ending in
    `.cpp` or `.h`, and belongs to it.

    Args:
        module_names: dotted names such as `trivium.stages.pretrain`.
        root: the package's folder, for tests.
    """
    return fingerprint({name: _digest(source) for name, source in module_sources(*module_names, root=root).items()})


def module_sources(*module_names: str, root: Path = PACKAGE_ROOT) -> dict[str, bytes]:
    """The sources behind `fingerprint_modules`: dotted name to bytes.

    Raises:
        ModuleNotFoundError: a named module is not in the package.
    """
    for name in module_names:
        if _module_file(name, root) is None:
            raise ModuleNotFoundError(f"no module {name!r} under {root}")
    sources: dict[str, bytes] = {}
    waiting = list(module_names)
    while waiting:
        name = waiting.pop()
        path = _module_file(name, root)
        if path is None or name in sources:
            continue
        sources[name] = path.read_bytes()
        for compiled in (path.with_suffix(".cpp"), path.with_suffix(".h")):
            if compiled.is_file():
                sources[f"{name}{compiled.suffix}"] = compiled.read_bytes()
        for base, attribute in _references(sources[name], name, path.name == "__init__.py", root.name):
            submodule = f"{base}.{attribute}"
            waiting.append(submodule if attribute and _module_file(submodule, root) else base)
    return sources


def _hasher() -> Any:
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def _check_keys(value: Any) -> None:
    """JSON would turn the keys 1 and "1" into the same text."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a fingerprinted dict has the key {key!r}, expected strings")
            _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item)


def _files_below(root: Path) -> Iterator[tuple[str, Path]]:
    """(relative name, path) of the regular files below `root`; pipes and sockets have no content to read."""
    ancestors: dict[str, frozenset[str]] = {str(root): frozenset()}
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in ancestors[folder]:  # a link to a folder above: its files have been seen
            subfolders.clear()
            continue
        ancestors.update({os.path.join(folder, name): ancestors[folder] | {real} for name in subfolders})
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield path.relative_to(root).as_posix(), path


def _module_file(name: str, root: Path) -> Path | None:
    package, *parts = name.split(".")
    if package != root.name or not all(part.isidentifier() for part in parts):
        return None
    base = root.joinpath(*parts)
    candidates = [base / "__init__.py", *([base.with_suffix(".py")] if parts else [])]
    return next((path for path in candidates if path.is_file()), None)


@lru_cache(maxsize=1024)
def _references(source: bytes, name: str, is_package: bool, package: str) -> tuple[tuple[str, str], ...]:
    """(module, attribute or "") for everything in `source` that names a module of `package`."""
    found: list[tuple[str, str]] = []
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            found.extend((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, name, is_package)
            found.extend((base, "" if alias.name == "*" else alias.name) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            # a lazy reference; the package's bare name is just a word, and its face would lead to everything
            found.append((node.value.partition(":")[0], ""))
    return tuple(item for item in found if item[0].split(".")[0] == package)


def _absolute(node: ast.ImportFrom, name: str, is_package: bool) -> str:
    """The dotted name that a `from ... import` refers to, relative ones resolved."""
    if not node.level:
        return node.module or ""
    parts = name.split(".")
    parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*parts, *([node.module] if node.module else [])])
