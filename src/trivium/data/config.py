"""Configuration of corpora: sources, their weights and what happens to bad records."""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from trivium.base.config import Config

Kind = Literal["auto", "builtin_code", "builtin_english", "installed_code", "folder", "text", "jsonl", "parquet"]


class SourceConfig(Config):
    """One source of documents. In a list of sources, a path or a built-in source's name alone is enough."""

    path: str = ""
    """Folder, text file, JSONL (`.gz`, `.zst`) or Parquet file; not used by built-in sources."""
    kind: Kind = "auto"
    """How it is read; `auto` goes by the path's suffix, a folder's files are read as text."""
    name: str = ""
    """What reports call it; by default made from the path."""
    weight: float = Field(default=1.0, gt=0)
    """Its share of the training rows, relative to the other sources' weights."""
    language: str = ""
    """Language of its documents; by default from each file's suffix or the record's `language` field."""
    license: str = ""
    """Licence of its documents; by default the record's `license` field."""
    text_column: str = "text"
    """Field (JSONL) or column (Parquet) that holds the text."""
    split_by: Literal["text", "path"] = "text"
    """What decides whether a document is held out: a hash of its text, or of its path."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, str | Path):
            text = str(value)
            value = {"kind": text} if text in BUILTIN else {"path": text}
        return value

    @field_validator("path")
    @classmethod
    def _expand(cls, value: str) -> str:
        return str(Path(value).expanduser()) if value.startswith("~") else value

    @model_validator(mode="after")
    def _has_path(self) -> "SourceConfig":
        if self.kind in BUILTIN:
            if self.path:
                raise ValueError(f"kind {self.kind} takes no path, got {self.path!r}")
        elif not self.path:
            raise ValueError("a source needs a path, or a built-in kind: " + ", ".join(BUILTIN))
        return self

    @property
    def label(self) -> str:
        """The source's name: as given, or made from kind or path."""
        if self.name or self.kind in BUILTIN:
            return self.name or self.kind
        path = Path(self.path)
        return path.name.split(".")[0] or path.resolve().name or "corpus"


BUILTIN = ("builtin_code", "builtin_english", "installed_code")
"""Sources that need no path: the running Python's own standard library, and the packages installed beside it."""


class DataConfig(Config):
    """A corpus: weighted sources, the held-out share, and how bad records are treated."""

    sources: tuple[SourceConfig, ...] = (
        SourceConfig(kind="builtin_code", weight=0.8, split_by="path"),
        SourceConfig(kind="builtin_english", weight=0.2, split_by="path"),
    )
    """Where the documents come from."""
    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the documents held out, chosen by hash so that it never depends on the seed."""
    on_error: Literal["stop", "skip"] = "stop"
    """At a bad record: `stop` with its place and reason, or `skip`, count and list it."""

    @field_validator("sources", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path | dict) else value

    @model_validator(mode="after")
    def _names_differ(self) -> "DataConfig":
        if not self.sources:
            raise ValueError("sources is empty: name at least one")
        names = [file_name(source.label) for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sources are called {name!r}: give one of them another name")
        return self


def file_name(label: str) -> str:
    """A source's name as part of a file name."""
    return re.sub(r"[^\w.-]+", "_", label)
