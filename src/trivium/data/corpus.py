"""From sources to token shards: read, remove duplicates, hold out, tokenise, write, report."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from trivium.base.errors import DataError
from trivium.base.files import atomic_path, write_json
from trivium.data.config import DataConfig, SourceConfig, file_name
from trivium.data.drops import Drops
from trivium.data.mixture import digest, is_held_out
from trivium.data.shards import FORMAT, MANIFEST, SPLITS, SplitWriter, sha256
from trivium.data.sources import read_source
from trivium.records import Document
from trivium.tokenizer import Tokenizer

CHUNK_CHARACTERS = 4_000_000
"""Documents are tokenised together up to this size."""


def unique_documents(config: DataConfig, drops: Drops) -> Iterator[tuple[SourceConfig, Document, str]]:
    """(source, document, split) of a corpus without exact duplicates; of equal texts the first counts."""
    seen: dict[bytes, str] = {}
    for source in config.sources:
        before = len(seen)
        for document in read_source(source, drops):
            key = digest(document.text)
            if key in seen:
                drops.leave_out(document.path, f"is the same text as {seen[key]}", "duplicate", source.label)
                continue
            seen[key] = document.path
            held_out_by = digest(document.path) if source.split_by == "path" else key
            yield source, document, SPLITS[is_held_out(held_out_by, config.validation_fraction)]
        if len(seen) == before:
            raise DataError(f"Every text of source {source.label!r} is in the sources before it. Leave it out.")


def tokenizer_texts(config: DataConfig, max_bytes: int = 50_000_000, drops: Drops | None = None) -> list[str]:
    """Texts to train a tokenizer on: a sample of the training documents, by weight where not all fit.

    Held-out documents are not in it. The sample is by hash, so it is the same in every run.
    """
    drops = drops or Drops(config.on_error)
    total = sum(source.weight for source in config.sources)
    texts: list[str] = []
    for source, rows in groupby(unique_documents(config, drops), key=lambda row: row[0]):
        budget = max_bytes * source.weight / total
        texts += _sample((document.text for _, document, split in rows if split == "train"), budget)
    return texts


def _sample(texts: Iterable[str], budget: float) -> list[str]:
    """All texts, or of too many those with the lowest hashes: halved whenever they outgrow the budget."""
    kept: list[tuple[int, str]] = []
    size, limit = 0, 2**64
    for text in texts:
        rank = int.from_bytes(digest(text)[8:], "big")
        if rank >= limit:
            continue
        kept.append((rank, text))
        size += len(text)
        while size > budget and len(kept) > 1:
            limit //= 2
            kept = [(rank, text) for rank, text in kept if rank < limit] or [min(kept)]
            size = sum(len(text) for _, text in kept)
    return [text for _, text in kept]


def prepare_corpus(config: DataConfig, tokenizer: Tokenizer, out_dir: str | Path) -> dict[str, Any]:
    """Tokenise a corpus into memory-mapped shards under `out_dir`; `open_corpus` reads them.

    Writes `dropped.jsonl` (what was left out, with reasons) beside the shards and `manifest.json` last.

    Returns:
        the manifest: for each source its documents, tokens and bytes a split, bytes per token by language,
        and the counts of what was left out.
    Raises:
        DataError: a source is missing or empty, or a record is bad and `on_error` is `stop`.
    """
    directory, drops = Path(out_dir), Drops(config.on_error)
    (directory / MANIFEST).unlink(missing_ok=True)
    directory.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    token_bytes = tokenizer.token_bytes
    with atomic_path(directory / "token_bytes.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, token_bytes, allow_pickle=False)
    fit: Counter[tuple[str, str]] = Counter()
    entries = [
        _write_source(source, ((document, split) for _, document, split in rows), config, tokenizer, directory, fit)
        for source, rows in groupby(unique_documents(config, drops), key=lambda row: row[0])
    ]
    drops.write(directory / "dropped.jsonl")
    languages = sorted({language for language, _ in fit})
    manifest = {
        "format": FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype.name,
        "pad_id": tokenizer.pad_id,
        "sources": entries,
        "documents": {split: sum(entry["splits"][split]["documents"] for entry in entries) for split in SPLITS},
        "tokens": {split: sum(entry["splits"][split]["tokens"] for entry in entries) for split in SPLITS},
        "bytes": sum(entry["splits"][split]["bytes"] for entry in entries for split in SPLITS),
        "bytes_per_token": {
            language or "unknown": round(fit[language, "bytes"] / max(1, fit[language, "tokens"]), 4)
            for language in languages
        },
        "left_out": dict(drops.counts),
    }
    write_json(directory / MANIFEST, manifest)
    return manifest


def _write_source(
    source: SourceConfig,
    rows: Iterable[tuple[Document, str]],
    config: DataConfig,
    tokenizer: Tokenizer,
    directory: Path,
    fit: Counter[tuple[str, str]],
) -> dict[str, Any]:
    """Write both splits of one source; returns its entry in the manifest."""
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    with ExitStack() as stack:
        writers: dict[str, SplitWriter] = {}
        for split in SPLITS:
            temporary = stack.enter_context(atomic_path(directory / f"{file_name(source.label)}-{split}.bin"))
            writers[split] = SplitWriter(stack.enter_context(open(temporary, "wb+")), dtype)
        for chunk in _chunks(rows):
            encoded = tokenizer.encode_arrays([document.text for document, _ in chunk])
            for (document, split), ids in zip(chunk, encoded, strict=True):
                size = len(document.text.encode())
                fit[document.language, "bytes"] += size
                fit[document.language, "tokens"] += len(ids)
                writers[split].add(wrap_document(ids, tokenizer), size, document.path)
        split_by = _ensure_both(writers, config.validation_fraction, tokenizer.token_bytes) or source.split_by
        splits = {split: writer.entry(directory, source.label, split) for split, writer in writers.items()}
    for entry in splits.values():
        entry["sha256"] = sha256(directory / entry["file"])
    return {
        "name": source.label,
        "weight": source.weight,
        "language": source.language,
        "license": source.license,
        "split_by": split_by,
        "splits": splits,
    }


def _ensure_both(writers: dict[str, SplitWriter], fraction: float, token_bytes: np.ndarray) -> str:
    """Where hashing put all of a small source on one side, its tail is held out; returns `tail` then."""
    train, held = writers["train"], writers["validation"]
    if fraction == 0 or (train.tokens and held.tokens):
        return ""
    full, empty = (train, held) if train.tokens else (held, train)
    share = fraction if full is train else 1 - fraction
    count = int(full.tokens * share)
    if count:
        tail = full.cut_tail(count, token_bytes)
        empty.add(tail, int(token_bytes[tail].sum()), f"{full.names[-1]} and what follows it")
    return "tail"


def wrap_document(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """[bos] ids [eos]; without bos where the tokenizer has none."""
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return np.concatenate([np.array(begin, ids.dtype), ids, np.array([tokenizer.eos_id], ids.dtype)])


def _chunks(rows: Iterable[tuple[Document, str]]) -> Iterator[list[tuple[Document, str]]]:
    chunk, size = [], 0
    for row in rows:
        chunk.append(row)
        size += len(row[0].text)
        if size > CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
