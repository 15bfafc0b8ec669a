import json
import math

import numpy as np
import pytest
import torch

from trivium.base.errors import ConfigError, DataError
from trivium.data import Corpus, CorpusLoader, DataConfig, open_corpus, prepare_corpus, tokenizer_texts
from trivium.tokenizer import Tokenizer


def text(number: int) -> str:
    return "\n".join(f"def f{number}_{line}(x):\n    return x + {line}  # é" for line in range(number % 7 + 1))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([text(number) for number in range(50)], vocab_size=320)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "code").mkdir()
    for number in range(120):
        (folder / "code" / f"{number:03}.py").write_text(text(number))
    (folder / "code" / "zcopy.py").write_text(text(5))
    lines = [json.dumps({"text": f"Sentence number {number}. " * 3, "language": "english"}) for number in range(80)]
    (folder / "english.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def config(files) -> DataConfig:
    sources = [{"path": str(files / "code"), "weight": 3}, {"path": str(files / "english.jsonl")}]
    return DataConfig.model_validate({"sources": sources, "validation_fraction": 0.2})


@pytest.fixture(scope="module")
def shards(config, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    return out, prepare_corpus(config, tokenizer, out)


def texts_of(stream, tokenizer) -> list[str]:
    bounds = zip(stream.starts, stream.starts[1:], strict=False)
    return [tokenizer.decode(stream.tokens[start:end]) for start, end in bounds]


def test_shards_hold_every_document_once(shards, tokenizer):
    corpus = open_corpus(shards[0])
    code, english = corpus.sources
    assert sorted(texts_of(code.train, tokenizer) + texts_of(code.validation, tokenizer)) == sorted(
        map(text, range(120))
    )
    assert len(texts_of(english.train, tokenizer) + texts_of(english.validation, tokenizer)) == 80
    for source in corpus.sources:
        assert not set(texts_of(source.train, tokenizer)) & set(texts_of(source.validation, tokenizer))
    first = code.train.tokens[: code.train.starts[1]].tolist()
    assert (first[0], first[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
    assert code.train.tokens.dtype == np.uint16


def test_the_report_counts_what_there_is(shards, files):
    out, report = shards
    assert report["left_out"] == {"duplicate": 1}
    dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert dropped[0]["where"].endswith("zcopy.py") and "005.py" in dropped[0]["reason"]
    assert report["bytes"] == sum(len(text(number).encode()) for number in range(120)) + sum(
        len(f"Sentence number {number}. " * 3) for number in range(80)
    )
    assert sum(report["documents"].values()) == 200
    assert set(report["bytes_per_token"]) == {"python", "english"}
    assert 0.1 < report["documents"]["validation"] / 200 < 0.3
    assert json.loads((out / "manifest.json").read_text()) == report


def test_shards_are_the_same_each_time(config, tokenizer, shards, tmp_path):
    assert prepare_corpus(config, tokenizer, tmp_path) == shards[1]
    for file in shards[0].iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_batches_are_a_pure_function_of_the_step(shards):
    loader = CorpusLoader(shards[0], seq_len=32, batch_size=4, seed=7)
    forward = [loader.batch(step) for step in range(60)]
    again = CorpusLoader(shards[0], seq_len=32, batch_size=4, seed=7)
    for step in (59, 0, 31):
        assert torch.equal(again.batch(step).ids, forward[step].ids)
        assert torch.equal(again.batch(step).positions, forward[step].positions)
    other = CorpusLoader(shards[0], seq_len=32, batch_size=4, seed=8)
    assert not torch.equal(other.batch(0).ids, forward[0].ids)
    assert forward[0].ids.shape == (4, 32) and forward[0].ids.dtype == torch.int64
    assert torch.equal(forward[0].loss_mask, forward[0].positions > 0)


def test_the_documents_of_a_batch_are_named(shards, files, tokenizer):
    """Each piece of a row is a piece of a document that is named for it, and no other document is named."""
    loader = CorpusLoader(shards[0], "train", seq_len=48, batch_size=4, seed=3)
    named = 0
    for step in range(20):
        batch, texts = loader.batch(step), []
        for name in loader.contents(step):
            source, _, place = name.partition(": ")
            path, _, line = place.partition(".jsonl:")
            known = (files / source / path.rsplit("/")[-1]) if source == "code" else files / "english.jsonl"
            content = known.read_text()
            texts.append(json.loads(content.splitlines()[int(line) - 1])["text"] if line else content)
        pieces = []
        for ids, positions in zip(batch.ids, batch.positions, strict=True):
            starts = [*(positions == 0).nonzero()[:, 0].tolist(), len(ids)]
            pieces += [tokenizer.decode(ids[a:b].tolist()) for a, b in zip(starts, starts[1:], strict=False)]
        for piece, content in zip(pieces, texts, strict=True):
            assert piece.replace("\ufffd", "") in content
        named += len(texts)
    assert named > 100


def test_processes_share_the_rows_of_a_batch(shards):
    whole = CorpusLoader(shards[0], seq_len=32, batch_size=4, seed=7).batch(3)
    parts = [CorpusLoader(shards[0], seq_len=32, batch_size=4, seed=7, rank=rank, world_size=2) for rank in (0, 1)]
    assert torch.equal(torch.cat([part.batch(3).ids for part in parts]), whole.ids)


def test_sources_are_mixed_by_weight(shards, tokenizer):
    loader = CorpusLoader(shards[0], seq_len=32, batch_size=16, seed=0)
    rows = [row for step in range(10) for row in loader.batch(step).ids]
    english = sum("number" in tokenizer.decode(row) for row in rows)
    assert english == pytest.approx(40, abs=2)


def test_validation_covers_every_held_out_token(shards, tokenizer):
    corpus = open_corpus(shards[0])
    loader = CorpusLoader(corpus, seq_len=32, batch_size=3)
    for source in corpus.sources:
        tokens, targets, counted = [], 0, 0
        for batch, size in loader.validation(source.name):
            tokens += batch.ids[batch.positions >= 0].tolist()
            kept = batch.ids[batch.loss_mask].tolist()
            counted += size
            targets += len(tokenizer.decode_bytes(kept))
        assert tokens == source.validation.tokens.tolist()
        assert counted == targets > 0
    rows = [len(batch.ids) for batch, _ in loader.validation("code", max_rows=5)]
    assert rows == [3, 2]
    with pytest.raises(DataError, match="no source 'nope'. It has: code, english"):
        next(loader.validation("nope"))


def test_a_corpus_of_one_document_holds_out_its_tail(tokenizer, tmp_path):
    whole = "\n".join(map(text, range(40)))
    (tmp_path / "one.txt").write_text(whole)
    config = DataConfig.model_validate({"sources": [str(tmp_path / "one.txt")], "validation_fraction": 0.1})
    report = prepare_corpus(config, tokenizer, tmp_path / "shards")
    (source,) = open_corpus(tmp_path / "shards").sources
    parts = [tokenizer.decode_bytes(stream.tokens) for stream in (source.train, source.validation)]
    assert b"".join(parts) == whole.encode()
    assert len(source.validation.tokens) == math.floor(0.1 * len(tokenizer.encode(whole) + [1, 2]))
    assert report["sources"][0]["split_by"] == "tail"
    assert [report["sources"][0]["splits"][split]["bytes"] for split in ("train", "validation")] == list(
        map(len, parts)
    )


def test_a_corpus_shorter_than_a_row_still_trains(tokenizer, tmp_path):
    (tmp_path / "tiny.txt").write_text("x = 1")
    config = DataConfig.model_validate({"sources": [str(tmp_path / "tiny.txt")], "validation_fraction": 0})
    prepare_corpus(config, tokenizer, tmp_path / "shards")
    loader = CorpusLoader(tmp_path / "shards", seq_len=64, batch_size=2)
    assert "x = 1" in tokenizer.decode(loader.batch(0).ids[0])
    assert list(loader.validation("tiny")) == []


def test_tokenizer_texts_leave_held_out_documents_out(config, shards, tokenizer):
    texts = tokenizer_texts(config)
    corpus = open_corpus(shards[0])
    expected = [row for source in corpus.sources for row in texts_of(source.train, tokenizer)]
    assert texts == expected
    some = tokenizer_texts(config, max_bytes=4000)
    assert set(some) < set(texts) and sum(map(len, some)) <= 4000
    assert any("Sentence" in row for row in some) and any("def" in row for row in some)


def test_bad_shards_are_refused(config, tokenizer, tmp_path):
    with pytest.raises(DataError, match="holds no tokenised corpus"):
        open_corpus(tmp_path)
    prepare_corpus(config, tokenizer, tmp_path)
    file = tmp_path / "code-train.bin"
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"code-train\.bin is missing or damaged"):
        open_corpus(tmp_path)
    file.write_bytes(data[:-2])
    with pytest.raises(DataError, match=r"code-train\.bin is missing or damaged"):
        open_corpus(tmp_path, verify=False)


def test_a_failed_preparation_leaves_no_corpus(files, config, tokenizer, tmp_path):
    prepare_corpus(config, tokenizer, tmp_path)
    (files.parent / "broken.jsonl").write_text('{"text": "ok"}\n{"text": 1}\n')
    broken = DataConfig.model_validate({"sources": [str(files.parent / "broken.jsonl")]})
    with pytest.raises(DataError, match=r"broken\.jsonl:2"):
        prepare_corpus(broken, tokenizer, tmp_path)
    with pytest.raises(DataError, match="holds no tokenised corpus"):
        open_corpus(tmp_path)
    assert not [file for file in tmp_path.iterdir() if file.name.endswith(".tmp")]
    skipping = broken.model_copy(update={"on_error": "skip"})
    assert prepare_corpus(skipping, tokenizer, tmp_path)["left_out"] == {"bad": 1}


def test_a_source_of_duplicates_only_is_refused(files, tokenizer, tmp_path):
    sources = [str(files / "code"), {"path": str(files / "code"), "name": "again"}]
    with pytest.raises(DataError, match="Every text of source 'again' is in the sources before it"):
        prepare_corpus(DataConfig.model_validate({"sources": sources}), tokenizer, tmp_path)


def test_nonsense_sizes_are_refused(shards):
    corpus: Corpus = open_corpus(shards[0])
    with pytest.raises(ConfigError, match="seq_len is 1"):
        CorpusLoader(corpus, seq_len=1)
    with pytest.raises(ConfigError, match="batch_size is 3; it must be a positive multiple of 2"):
        CorpusLoader(corpus, batch_size=3, world_size=2)
