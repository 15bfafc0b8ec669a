import math

import pytest
import torch

from trivium.base.errors import ConfigError, DataError
from trivium.data import DataConfig, batches, prepare_corpus, tokenize
from trivium.records import Document
from trivium.tokenizer import Tokenizer

TEXTS = [f"def f{number}(x):\n    return x + {number}\n" for number in range(40)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, vocab_size=300)


def test_batches_go_once_through_the_texts(tokenizer):
    found = list(batches(TEXTS, tokenizer, batch_size=4, seq_len=32, seed=0))
    total = sum(len(tokenizer.encode(text)) + 2 for text in TEXTS)
    assert len(found) == math.ceil(math.ceil(total / 32) / 4)
    assert all(batch.ids.shape == (4, 32) for batch in found)
    assert tokenize(found[0], tokenizer) is found[0]
    later = list(batches(TEXTS, tokenizer, batch_size=4, seq_len=32, seed=0, start=3, steps=5))
    assert len(later) == 2 and torch.equal(later[0].ids, found[3].ids)
    assert len(list(batches(TEXTS, tokenizer, batch_size=4, seq_len=32, epochs=2))) == 2 * len(found)


def test_all_kinds_of_corpora_are_taken(tokenizer, tmp_path):
    (tmp_path / "files").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "files" / f"{number}.py").write_text(text)
    config = DataConfig.model_validate({"sources": [str(tmp_path / "files")]})
    prepare_corpus(config, tokenizer, tmp_path / "shards")
    documents = [Document(text=text) for text in TEXTS]
    for corpus in (TEXTS, iter(TEXTS), documents, {"a": TEXTS}, tmp_path / "files", str(tmp_path / "shards"), config):
        batch = next(iter(batches(corpus, tokenizer, batch_size=2, seq_len=16)))
        assert "x" in tokenizer.decode(batch.ids[0])
    other = Tokenizer.train(TEXTS, vocab_size=270)
    with pytest.raises(DataError, match="made with another tokenizer"):
        batches(tmp_path / "shards", other)


def test_named_sources_are_weighted(tokenizer):
    corpus = {"code": TEXTS, "numbers": [str(number) * 9 for number in range(90)]}
    found = batches(corpus, tokenizer, batch_size=8, seq_len=16, weights={"code": 3}, steps=20)
    rows = [tokenizer.decode(row) for batch in found for row in batch.ids]
    assert sum("x" in row or "f" in row for row in rows) == pytest.approx(120, abs=3)
    with pytest.raises(ConfigError, match="weights names the source 'cod'"):
        batches(corpus, tokenizer, weights={"cod": 3})


def test_empty_corpora_are_refused(tokenizer):
    for corpus in ([], ["", " "], {"a": TEXTS, "b": []}):
        with pytest.raises(DataError, match="holds no text"):
            batches(corpus, tokenizer)


def test_texts_become_rows(tokenizer):
    batch = tokenize(["x", "def f1(x):"], tokenizer)
    assert batch.ids[0].tolist() == [1, *tokenizer.encode("x"), 2] + [0] * (batch.ids.shape[1] - 3)
    assert batch.positions[0].tolist() == [0, 1, 2] + [-1] * (batch.ids.shape[1] - 3)
    assert torch.equal(batch.loss_mask, batch.positions > 0)


def test_only_responses_carry_loss(tokenizer):
    batch = tokenize(["def f1(x):\n", "def f2(x):\n"], tokenizer, responses=["    return x", "    return x + 1"])
    learned = [
        tokenizer.decode(ids[mask], skip_special=False) for ids, mask in zip(batch.ids, batch.loss_mask, strict=True)
    ]
    assert learned == ["    return x<|eos|>", "    return x + 1<|eos|>"]
    with pytest.raises(DataError, match="2 prompts and 1 responses"):
        tokenize(["a", "b"], tokenizer, responses=["c"])
    with pytest.raises(DataError, match="more than max_length = 4"):
        tokenize(["a b c d"], tokenizer, max_length=4)
    with pytest.raises(DataError, match="no text"):
        tokenize([], tokenizer)
