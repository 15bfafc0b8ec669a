"""Token shards on disk: one memory-mapped file a source and split, an index of documents, and a manifest.

<source>-<split>.bin        tokens, uint16 or uint32, documents end to end
<source>-<split>.docs.npy   int64, where each document begins, and the end
<source>-<split>.docs.txt   the path of each document, one a line
token_bytes.npy             bytes that each token stands for
manifest.json               written last: without it there is no corpus
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trivium.base.errors import DataError
from trivium.base.files import atomic_path, write_text
from trivium.data.config import file_name
from trivium.data.packing import Stream

FORMAT = 2
SPLITS = ("train", "validation")
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class CorpusSource:
    """One source's tokens."""

    name: str
    weight: float
    train: Stream
    validation: Stream


@dataclass(frozen=True)
class Corpus:
    """A tokenised corpus, open for reading."""

    sources: tuple[CorpusSource, ...]
    token_bytes: np.ndarray
    """(vocab_size,) bytes each token stands for; 0 for special tokens."""
    pad_id: int
    fingerprint: str = ""
    """Of the tokenizer that made it."""

    @property
    def train_tokens(self) -> int:
        """Tokens to train on, all sources together."""
        return sum(len(source.train.tokens) for source in self.sources)


def open_corpus(path: str | Path, verify: bool = True) -> Corpus:
    """Map the shards of a directory; with `verify`, check their content against the manifest.

    Raises:
        DataError: there is no whole corpus, or a file is damaged.
    """
    directory = Path(path)
    manifest = read_manifest(directory)
    sources = []
    try:
        for entry in manifest["sources"]:
            streams = [
                _open_split(directory, entry["splits"][split], np.dtype(manifest["dtype"]), verify) for split in SPLITS
            ]
            sources.append(CorpusSource(entry["name"], entry["weight"], *streams))
        token_bytes = np.load(directory / "token_bytes.npy", allow_pickle=False)
        return Corpus(tuple(sources), token_bytes, manifest["pad_id"], manifest["tokenizer"])
    except DataError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{directory} is damaged ({reason}). Prepare the data again.") from None


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a shard directory.

    Raises:
        DataError: it is missing or of another format.
    """
    file = directory / MANIFEST
    if not file.is_file():
        raise DataError(f"{directory} holds no tokenised corpus (no {MANIFEST}). Prepare the data again.")
    try:
        manifest = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged ({error}). Prepare the data again.") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise DataError(f"{file} has format {found}, expected {FORMAT}. Prepare the data again.")
    return manifest


def _open_split(directory: Path, entry: dict[str, Any], dtype: np.dtype, verify: bool) -> Stream:
    file = directory / entry["file"]
    size = file.stat().st_size if file.is_file() else -1
    if size != entry["tokens"] * dtype.itemsize or (verify and sha256(file) != entry["sha256"]):
        raise DataError(f"{file} is missing or damaged. Prepare the data again.")
    starts = np.load(directory / entry["index"], allow_pickle=False)
    names = directory / entry["names"]
    if len(starts) != entry["documents"] + 1 or starts[-1] != entry["tokens"]:
        raise DataError(f"{directory / entry['index']} does not fit {file.name}. Prepare the data again.")
    if size == 0:  # an empty file cannot be mapped
        return Stream(np.zeros(0, dtype), starts, names)
    return Stream(np.memmap(file, dtype, "r"), starts, names)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class SplitWriter:
    """One source and split while it is being written to an open file."""

    def __init__(self, file: BinaryIO, dtype: np.dtype) -> None:
        self.file, self.dtype = file, dtype
        self.starts = [0]
        self.names: list[str] = []
        self.documents = 0
        self.text_bytes = 0

    @property
    def tokens(self) -> int:
        """Tokens written so far."""
        return self.starts[-1]

    def add(self, ids: np.ndarray, text_bytes: int, name: str) -> None:
        """Append one document."""
        self.names.append(" ".join(name.split()))
        self.file.write(ids.astype(self.dtype).tobytes())
        self.starts.append(self.starts[-1] + len(ids))
        self.documents += 1
        self.text_bytes += text_bytes

    def cut_tail(self, tokens: int, token_bytes: np.ndarray) -> np.ndarray:
        """Take the last tokens off again; the document that is cut ends there."""
        keep = self.tokens - tokens
        self.file.seek(keep * self.dtype.itemsize)
        tail = np.frombuffer(self.file.read(), self.dtype)
        self.file.seek(keep * self.dtype.itemsize)
        self.file.truncate()
        self.starts = [start for start in self.starts if start < keep] + [keep]
        self.names = self.names[: len(self.starts) - 1]
        self.documents = len(self.starts) - 1
        self.text_bytes -= int(token_bytes[tail].sum())
        return tail

    def entry(self, directory: Path, source: str, split: str) -> dict[str, Any]:
        """Write the index; return what the manifest says of this split (the checksum is added later)."""
        name = f"{file_name(source)}-{split}"
        with atomic_path(directory / f"{name}.docs.npy") as temporary, open(temporary, "wb") as index:
            np.save(index, np.array(self.starts, np.int64), allow_pickle=False)
        write_text(directory / f"{name}.docs.txt", "".join(f"{each}\n" for each in self.names))
        return {
            "file": f"{name}.bin",
            "index": f"{name}.docs.npy",
            "names": f"{name}.docs.txt",
            "documents": self.documents,
            "tokens": self.tokens,
            "bytes": self.text_bytes,
        }
