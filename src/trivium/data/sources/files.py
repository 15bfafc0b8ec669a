"""Text files: one, or a folder of them, each file a document with the language of its suffix."""

import codecs
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow

from trivium.base.errors import DataError
from trivium.data.config import SourceConfig
from trivium.data.drops import Drops
from trivium.records import Document

LANGUAGES = {
    ".bash": "bash",
    ".c": "c",
    ".cc": "cpp",
    ".cfg": "ini",
    ".cpp": "cpp",
    ".cs": "csharp",
    ".css": "css",
    ".go": "go",
    ".h": "c",
    ".hpp": "cpp",
    ".html": "html",
    ".ini": "ini",
    ".java": "java",
    ".js": "javascript",
    ".json": "json",
    ".jsx": "javascript",
    ".kt": "kotlin",
    ".lua": "lua",
    ".md": "english",
    ".php": "php",
    ".pl": "perl",
    ".py": "python",
    ".pyi": "python",
    ".r": "r",
    ".rb": "ruby",
    ".rs": "rust",
    ".rst": "english",
    ".scala": "scala",
    ".sh": "bash",
    ".sql": "sql",
    ".swift": "swift",
    ".tex": "latex",
    ".toml": "toml",
    ".ts": "typescript",
    ".tsx": "typescript",
    ".txt": "english",
    ".xml": "xml",
    ".yaml": "yaml",
    ".yml": "yaml",
}
"""Suffixes that a folder is searched for, and their languages."""

SKIPPED_FOLDERS = {"__pycache__", "node_modules", "site-packages", "dist-packages"}

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
"""A declared encoding in one of the first two lines (PEP 263)."""


def read_folder(source: SourceConfig, drops: Drops) -> Iterator[Document]:
    """Files below a folder, sorted by path; hidden ones and known litter are passed over."""
    root = Path(source.path)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Set the source's kind to what it is, or leave it at 'auto'.")
    for path in _walk(root):
        language = LANGUAGES.get(path.suffix.lower())
        if language is None:
            drops.leave_out(str(path), f"has the unknown suffix {path.suffix!r}", "suffix", source.label)
            continue
        yield from _read_document(path, source.language or language, source, drops)


def read_text_file(source: SourceConfig, drops: Drops) -> Iterator[Document]:
    """One text file (`.gz`, `.zst` too) as one document."""
    path = Path(source.path)
    if not path.is_file():
        raise DataError(f"{path} is not a file. Set the source's kind to what it is, or leave it at 'auto'.")
    stem = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    language = LANGUAGES.get(stem.suffix.lower(), "")
    yield from _read_document(path, source.language or language, source, drops)


def decode_file(data: bytes, is_python: bool = False) -> str:
    """The text of a file: by byte order mark, then a Python file's declaration, then UTF-8. Line ends become `\\n`.

    Raises:
        ValueError: the bytes are no text in that encoding, with the reason.
    """
    mark, encoding = next((entry for entry in BYTE_ORDER_MARKS if data.startswith(entry[0])), (b"", ""))
    data = data[len(mark) :]
    encoding = encoding or (_declared_encoding(data) if is_python else "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not {encoding} text (byte {error.start + 1})") from None
    except LookupError:
        raise ValueError(f"declares the unknown encoding {encoding!r}") from None
    if "\0" in text:
        raise ValueError("holds NUL bytes, so it is not text")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _declared_encoding(data: bytes) -> str:
    for line in data[:1000].splitlines()[:2]:
        if match := CODING.match(line):
            return match.group(1).decode()
        if line.strip() and not line.lstrip().startswith(b"#"):
            break
    return "utf-8"


def _walk(root: Path) -> list[Path]:
    """All files below `root` by path, so that the order is the same everywhere."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS and not name.startswith(".")]
        found += [Path(folder, name) for name in files if not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(root).parts)


def _read_document(path: Path, language: str, source: SourceConfig, drops: Drops) -> Iterator[Document]:
    # A name may hold bytes that are no UTF-8; messages and manifests need one that can be printed.
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    try:
        if not path.is_file():
            raise ValueError("is not a regular file")
        text = decode_file(_read_bytes(path), path.suffix in (".py", ".pyi"))
    except OSError as error:
        drops.bad(name, f"cannot be read: {error.strerror or error}", source.label)
    except ValueError as error:
        drops.bad(name, str(error), source.label)
    else:
        yield Document(text=text, source=source.label, language=language, license=source.license, path=name)


def _read_bytes(path: Path) -> bytes:
    if path.suffix not in (".gz", ".zst"):
        return path.read_bytes()
    try:
        with pyarrow.input_stream(str(path), compression="gzip" if path.suffix == ".gz" else "zstd") as stream:
            return stream.read()
    except (OSError, zlib.error, pyarrow.ArrowException) as error:
        raise ValueError(f"is damaged: {str(error).splitlines()[0]}") from None
