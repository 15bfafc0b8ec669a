"""The Python source of the packages that are installed beside this one: real code, some hundred megabytes at most."""

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from trivium.data.config import SourceConfig
from trivium.data.drops import Drops
from trivium.data.sources.files import decode_file
from trivium.records import Document

LEFT_OUT = re.compile(r"tests?|testing|conftest\.py|_?vendor(ed)?|__pycache__|.*_pb2\.py|.*\.dist-info")
"""Folders and files that are tests, copies of other packages, or generated."""
LARGEST = 1_000_000
"""Bytes; longer files are tables."""


def read_installed_code(source: SourceConfig, drops: Drops) -> Iterator[Document]:
    """Modules of every installed distribution by name, each with its distribution's licence."""
    for name, distribution in sorted(_installed().items()):
        for file in sorted(distribution.files or (), key=str):
            inside = Path(file)
            if inside.suffix != ".py" or ".." in inside.parts or any(map(LEFT_OUT.fullmatch, inside.parts)):
                continue
            path = Path(str(distribution.locate_file(file)))
            if not path.is_file():
                continue
            where = f"{name}/{inside.as_posix()}"
            if path.stat().st_size > LARGEST:
                drops.leave_out(where, f"has more than {LARGEST:,} bytes", "large", source.label)
                continue
            yield Document(
                text=decode_file(path.read_bytes(), is_python=True),
                source=source.label,
                language=source.language or "python",
                license=source.license or _license(distribution),
                path=where,
            )


def installed_versions() -> list[str]:
    """`name version` of all that `read_installed_code` reads: the same list, the same corpus."""
    return [f"{name} {distribution.version}" for name, distribution in sorted(_installed().items())]


def _installed() -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        if name := distribution.metadata["Name"]:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution)  # the first is the one imported
    return found


def _license(distribution: Distribution) -> str:
    fields = distribution.metadata.json
    told = str(fields.get("license_expression") or fields.get("license") or "").strip()
    return told.splitlines()[0][:80] if told else ""
