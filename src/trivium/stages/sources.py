"""Fingerprints of what a corpus is read from."""

import hashlib
import sys
from pathlib import Path

from trivium.data.config import BUILTIN, DataConfig, SourceConfig
from trivium.data.sources.installed import installed_versions


def source_inputs(data: DataConfig) -> dict[str, Path | str]:
    """Name to path (or, for the built-in sources, what they come from) of every source."""
    return {f"source {source.label}": _origin(source) for source in data.sources}


def _origin(source: SourceConfig) -> Path | str:
    if source.kind == "installed_code":
        return "packages " + hashlib.sha256("\n".join(installed_versions()).encode()).hexdigest()[:16]
    return f"python {sys.version.split()[0]}" if source.kind in BUILTIN else Path(source.path)
