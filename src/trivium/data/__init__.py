"""From texts on disk to batches of token ids."""

from trivium.data.config import DataConfig, SourceConfig
from trivium.data.corpus import prepare_corpus, tokenizer_texts
from trivium.data.drops import Drops
from trivium.data.examples import ChatExample, ExampleLoader, encode_examples, encode_pairs, load_examples
from trivium.data.front import batches, load_corpus, tokenize
from trivium.data.loader import CorpusLoader
from trivium.data.packing import pack_examples
from trivium.data.shards import Corpus, open_corpus

__all__ = [
    "ChatExample",
    "Corpus",
    "CorpusLoader",
    "DataConfig",
    "Drops",
    "ExampleLoader",
    "SourceConfig",
    "batches",
    "encode_examples",
    "encode_pairs",
    "load_corpus",
    "load_examples",
    "open_corpus",
    "pack_examples",
    "prepare_corpus",
    "tokenize",
    "tokenizer_texts",
]
