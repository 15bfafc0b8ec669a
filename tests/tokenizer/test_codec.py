import argparse
import inspect
import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.base.errors import ConfigError, DataError, ModelError
from trivium.tokenizer import Tokenizer
from trivium.tokenizer.bytelevel import STABLE
from trivium.tokenizer.special import SPECIAL_TOKENS

CODE = inspect.getsource(argparse)
ENGLISH = "\n".join(str(inspect.getdoc(value)) for value in vars(argparse).values())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([CODE, ENGLISH], vocab_size=1024)


def slow_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """What the `tokenizers` library, and so transformers, gives."""
    return tokenizer._model.encode(text, add_special_tokens=False).ids


def test_special_tokens_come_first(tokenizer):
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert [tokenizer.token_id(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert tokenizer.vocab_size == 1024


def test_newline_and_indentation_are_one_token_and_digits_single(tokenizer):
    pieces = [tokenizer.decode([index]) for index in tokenizer.encode("def f(x):\n        return 12345\n")]
    assert "\n       " in pieces and " return" in pieces
    assert [piece for piece in pieces if piece.strip().isdigit()] == list("12345")


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_round_trip_and_equal_ids_for_any_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids == slow_ids(tokenizer, text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(["\n", " ", "  ", "\t", "\r\n", "x", "foo", "'s", "'re", "12", "_", "):", "é", "#", "日本"])
    )
)
def test_equal_ids_for_texts_like_code(tokenizer, parts):
    assert tokenizer.encode("".join(parts)) == slow_ids(tokenizer, "".join(parts))


def test_equal_ids_for_every_character_given_to_tiktoken(tokenizer):
    assert tokenizer.backend == "tiktoken"
    bounds = STABLE.split("-")
    ranges = [
        (bounds[0], bounds[1][0]),
        *((left[1], right[0]) for left, right in zip(bounds[1:], bounds[2:], strict=False)),
    ]
    characters = [chr(code) for low, high in ranges for code in range(ord(low), ord(high) + 1)]
    assert len(characters) > 40_000
    # Words can only come out equal if each character is a letter, a digit, a space or other for both libraries.
    for start in range(0, len(characters), 2000):
        text = "".join(f"a{char}a!{char}! {char}  {char}" for char in characters[start : start + 2000])
        assert tokenizer.encode(text) == slow_ids(tokenizer, text)


@settings(deadline=None)
@given(st.binary())
def test_round_trip_for_any_bytes(tokenizer, data):
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


@pytest.mark.parametrize("text", [" " * 1_200_000, "\n \t" * 300_000 + "x", "q" * 400_000, "=-" * 200_000])
def test_long_runs_are_encoded(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text


def test_special_tokens_in_text_stay_text(tokenizer):
    text = "a <|eos|> b <|end_of_turn|>"
    assert not set(tokenizer.encode(text)) & set(range(len(SPECIAL_TOKENS)))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_array(text).tolist() == tokenizer.encode(text)


def test_batches_and_arrays_give_the_same_ids(tokenizer):
    texts = [CODE[start : start + 7000] for start in range(0, 70_000, 7000)] + ["", "\u0378 rare", " " * 300_000]
    alone = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts) == alone
    assert [row.tolist() for row in tokenizer.encode_arrays(texts)] == alone
    assert tokenizer.decode_batch(alone) == texts


def test_decode_takes_tensors_and_shows_special_tokens_when_asked(tokenizer):
    ids = [tokenizer.bos_id, *tokenizer.encode("hi"), tokenizer.eos_id]
    assert tokenizer.decode(torch.tensor(ids)) == tokenizer.decode(np.array(ids)) == "hi"
    assert tokenizer.decode(ids, skip_special=False) == "<|bos|>hi<|eos|>"
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"


@pytest.mark.parametrize("bad", [-1, 1024, 10**9])
def test_decode_refuses_ids_outside_the_vocabulary(tokenizer, bad):
    with pytest.raises(DataError, match=f"token id {bad} is outside the vocabulary of 1024"):
        tokenizer.decode([5, bad])


def test_encode_refuses_lone_surrogates(tokenizer):
    with pytest.raises(DataError, match=r"lone surrogate U\+D800 at character 2"):
        tokenizer.encode("ab\ud800")
    with pytest.raises(DataError, match="text 2 of 2"):
        tokenizer.encode_batch(["ok", "\udfff"])


def test_training_is_deterministic_and_the_fingerprint_tells_vocabularies_apart(tokenizer, tmp_path):
    again = Tokenizer.train([CODE, ENGLISH], vocab_size=1024)
    other = Tokenizer.train([CODE, ENGLISH], vocab_size=1023)
    tokenizer.save(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint == Tokenizer.load(tmp_path).fingerprint
    assert other.fingerprint != tokenizer.fingerprint


def test_training_refuses_what_cannot_work():
    with pytest.raises(ConfigError, match="vocab_size: expected at least 267, .* got 100"):
        Tokenizer.train(["abc"], vocab_size=100)
    with pytest.raises(DataError, match="no text to train on"):
        Tokenizer.train([], vocab_size=300)
    with pytest.raises(DataError, match="lone surrogate"):
        Tokenizer.train(["\ud800"], vocab_size=300)


def test_small_corpora_give_the_tokens_they_have():
    small = Tokenizer.train(["ab ab ab"], vocab_size=4096)
    assert 267 < small.vocab_size < 300
    assert small.decode(small.encode("xyz ab é")) == "xyz ab é"


def test_bytes_per_token(tokenizer):
    assert tokenizer.bytes_per_token([CODE]) == len(CODE.encode()) / len(tokenizer.encode(CODE))
    assert tokenizer.bytes_per_token([CODE]) > 2.5
    ids = [tokenizer.bos_id, *tokenizer.encode(CODE + "é日"), tokenizer.eos_id]
    assert tokenizer.token_bytes[ids].sum() == len((CODE + "é日").encode())


def test_load_says_what_is_missing(tokenizer, tmp_path):
    with pytest.raises(ModelError, match=r"has no tokenizer.json"):
        Tokenizer.load(tmp_path / "nowhere")
    tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<none>"}))
    with pytest.raises(ModelError, match="eos_token '<none>'"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer_config.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="is not a tokenizer"):
        Tokenizer.load(tmp_path)


def test_random_slices_of_code_give_equal_ids(tokenizer):
    rng = random.Random(0)
    for _ in range(300):
        start = rng.randrange(len(CODE))
        text = CODE[start : start + rng.randrange(400)]
        assert tokenizer.encode(text) == slow_ids(tokenizer, text)
