"""The data side of the Python front door: `batches` and `tokenize`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from trivium.base.errors import ConfigError, DataError
from trivium.batch import Batch
from trivium.data.config import DataConfig, SourceConfig
from trivium.data.corpus import unique_documents, wrap_document
from trivium.data.drops import Drops
from trivium.data.examples import encode_pairs
from trivium.data.loader import CorpusLoader
from trivium.data.packing import fill_rows, join_documents
from trivium.data.shards import MANIFEST, Corpus, CorpusSource, open_corpus
from trivium.records import Document
from trivium.tokenizer import Tokenizer

Texts = Iterable[str | Document]
CorpusLike = str | Path | DataConfig | SourceConfig | Corpus | Mapping[str, Texts] | Texts


def batches(
    corpus: CorpusLike,
    tokenizer: Tokenizer,
    batch_size: int = 16,
    seq_len: int = 256,
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
    epochs: int = 1,
    steps: int | None = None,
    start: int = 0,
) -> Iterator[Batch]:
    """Batches of packed documents, by default once through the corpus.

    Args:
        corpus: texts or documents; `{source name: texts}`; a path to files or to prepared shards; a built-in source's
            name; or a `DataConfig`.
        batch_size: rows in a batch.
        seq_len: tokens in a row.
        weights: share of each source in the rows, for a mapping; equal by default.
        epochs: how often the corpus is gone through, unless `steps` says how many batches there are.
        start: step to begin at; batch `n` is the same wherever one begins.
    Raises:
        DataError: there is no text, or a record is bad.
    """
    opened = load_corpus(corpus, tokenizer, weights)
    loader = CorpusLoader(opened, "train", seq_len=seq_len, batch_size=batch_size, seed=seed)
    end = loader.steps_per_epoch * epochs if steps is None else steps
    return (loader.batch(step) for step in range(start, end))


def load_corpus(corpus: CorpusLike, tokenizer: Tokenizer, weights: Mapping[str, float] | None = None) -> Corpus:
    """Open prepared shards, or tokenise a corpus in memory."""
    if isinstance(corpus, Corpus):
        return corpus
    if isinstance(corpus, str | Path) and (Path(corpus) / MANIFEST).is_file():
        opened = open_corpus(corpus)
        if opened.fingerprint != tokenizer.fingerprint:
            raise DataError(f"The shards in {corpus} were made with another tokenizer. Prepare the data again.")
        return opened
    groups: dict[str, list[str]] = {}
    shares: dict[str, float] = {}
    if isinstance(corpus, str | Path | SourceConfig):
        corpus = DataConfig.model_validate({"sources": [corpus], "validation_fraction": 0})
    if isinstance(corpus, DataConfig):
        for source, document, split in unique_documents(corpus, Drops(corpus.on_error)):
            shares[source.label] = source.weight
            if split == "train":
                groups.setdefault(source.label, []).append(document.text)
    else:
        named = dict(corpus) if isinstance(corpus, Mapping) else {"corpus": corpus}
        groups = {str(name): [_text_of(item) for item in texts] for name, texts in named.items()}
    for name in weights or {}:
        if name not in groups:
            raise ConfigError(f"weights names the source {name!r}; the corpus has: {', '.join(groups)}.")
    shares = {name: (weights or {}).get(name, shares.get(name, 1.0)) for name in groups}
    return _in_memory(groups, shares, tokenizer)


def _text_of(item: str | Document) -> str:
    return item.text if isinstance(item, Document) else item


def _in_memory(groups: Mapping[str, Sequence[str]], shares: Mapping[str, float], tokenizer: Tokenizer) -> Corpus:
    sources = []
    for name, texts in groups.items():
        documents = [wrap_document(ids, tokenizer) for ids in tokenizer.encode_arrays([t for t in texts if t.strip()])]
        if not documents:
            raise DataError(f"Source {name!r} of the corpus holds no text.")
        sources.append(CorpusSource(name, shares[name], join_documents(documents), join_documents([])))
    return Corpus(tuple(sources), tokenizer.token_bytes, tokenizer.pad_id, tokenizer.fingerprint)


def tokenize(
    batch: Batch | Sequence[str],
    tokenizer: Tokenizer,
    responses: Sequence[str] | None = None,
    max_length: int | None = None,
) -> Batch:
    """Texts as a `Batch`, one a row, padded on the right; a `Batch` passes through.

    Without responses each row is [bos] text [eos] and every token but the first carries loss. With responses it is
    [bos] prompt response [eos], and only the response and eos carry loss.

    Raises:
        DataError: prompts and responses differ in number, there are none, or a row exceeds `max_length`.
    """
    if isinstance(batch, Batch):
        return batch
    texts = [batch] if isinstance(batch, str) else list(batch)
    if responses is None:
        pairs = [
            (ids.tolist(), [True] * len(ids))
            for ids in (wrap_document(ids, tokenizer) for ids in tokenizer.encode_arrays(texts))
        ]
    else:
        answers = [responses] if isinstance(responses, str) else list(responses)
        if len(texts) != len(answers):
            raise DataError(f"There are {len(texts)} prompts and {len(answers)} responses; give one for each.")
        pairs = encode_pairs(texts, answers, tokenizer)
    if not pairs:
        raise DataError("There is no text to tokenise.")
    longest = max(len(ids) for ids, _ in pairs)
    if max_length is not None and longest > max_length:
        raise DataError(f"A row has {longest} tokens, more than max_length = {max_length}. Shorten it or raise that.")
    return fill_rows([[row] for row in range(len(pairs))], pairs, longest, tokenizer.pad_id)
