"""From texts on disk to batches of token ids."""

from trivium.data.config import DataConfig, SourceConfig
from trivium.data.corpus import prepare_corpus, tokenizer_texts
from trivium.data.loader import CorpusLoader
from trivium.data.shards import Corpus, open_corpus

__all__ = [
    "Corpus",
    "CorpusLoader",
    "DataConfig",
    "SourceConfig",
    "open_corpus",
    "prepare_corpus",
    "tokenizer_texts",
]
