"""Fingerprints of what a corpus is read from."""

import sys
from pathlib import Path

from trivium.data.config import BUILTIN, DataConfig


def source_inputs(data: DataConfig) -> dict[str, Path | str]:
    """Name to path (or, for the built-in sources, the Python they come from) of every source."""
    return {
        f"source {source.label}": f"python {sys.version.split()[0]}" if source.kind in BUILTIN else Path(source.path)
        for source in data.sources
    }
