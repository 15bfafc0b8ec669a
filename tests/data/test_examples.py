import gzip
import json
from collections import Counter

import pytest
import torch

from trivium.base.errors import DataError
from trivium.data import ChatExample, Drops, ExampleLoader, encode_examples, load_examples
from trivium.records import Example
from trivium.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["def add(a, b):\n    return a + b\n" * 9], vocab_size=300)


def write(path, *records):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return path


def test_every_form_is_read(tmp_path):
    file = write(
        tmp_path / "sft.jsonl",
        {"prompt": "def f():\n", "response": "    return 1", "id": 7},
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Greet.", "input": "", "response": "Hi."},
        {"question": "1+1?", "answer": "2"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"prompt": "x", "completion": "y"},
    )
    examples = load_examples(file)
    assert [(e.prompt, e.response) for e in examples] == [
        ("def f():\n", "    return 1"),
        ("Add.\n\n1 2", "3"),
        ("Greet.", "Hi."),
        ("1+1?", "2"),
        ("a", "b"),
        ("x", "y"),
    ]
    assert [isinstance(e, ChatExample) for e in examples] == [False, True, True, True, True, False]
    assert examples[0].id == "7" and examples[1].id.endswith("sft.jsonl:2")


def test_arrays_and_compressed_files_are_read(tmp_path):
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d"}]
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    assert [e.response for e in load_examples(tmp_path / "a.json.gz")] == ["b", "d"]
    rows[1] = {"prompt": "c"}
    (tmp_path / "b.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"b\.json, record 2: has no field 'response' \(fields: 'prompt'\)"):
        load_examples(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ('{"prompt": "x"', "is not JSON"),
        ([1], "is a list, expected an object"),
        ({"text": "x"}, "has the fields 'text', expected"),
        ({"prompt": "x", "response": None}, "has null in field 'response', expected text"),
        ({"prompt": "x", "response": " "}, "has an empty field 'response'"),
        ({"instruction": "x", "output": 3}, "has a number in field 'output'"),
        ({"instruction": "x", "input": 3, "output": "y"}, "has a number in field 'input'"),
        ({"messages": "hi"}, "has a text in field 'messages'"),
        ({"messages": [{"role": "user", "content": "x"}]}, "has no assistant turn"),
        ({"messages": [{"role": "bot", "content": "x"}]}, r"has the role 'bot' in messages\[0\]"),
        ({"messages": [{"role": "user"}]}, r"has no field 'content' .* of messages\[0\]"),
        ({"messages": ["x"]}, r"has a text in messages\[0\]"),
    ],
)
def test_bad_records_name_line_field_and_reason(tmp_path, record, reason):
    file = write(tmp_path / "sft.jsonl", {"prompt": "a", "response": "b"}, record)
    with pytest.raises(DataError, match=rf"sft\.jsonl:2: .*{reason}") as caught:
        load_examples(file)
    assert "\n" not in str(caught.value)
    drops = Drops("skip")
    assert len(load_examples(file, "skip", drops)) == 1
    assert drops.counts["bad"] == 1


def test_files_without_examples_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_examples(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no usable example. Expected"):
        load_examples(write(tmp_path / "a.jsonl", ""))
    with pytest.raises(DataError, match=r"The first of 1 left out: .*b\.jsonl:1"):
        load_examples(write(tmp_path / "b.jsonl", "{"), "skip")


def test_loss_is_on_response_and_end_only(tokenizer):
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (pair,) = encode_examples([Example(prompt="def f():\n", response="    return 1")], tokenizer)
    ids, loss_mask = pair
    assert ids[0] == tokenizer.bos_id
    learned = [index for index, has_loss in zip(ids, loss_mask, strict=True) if has_loss]
    assert tokenizer.decode(learned, skip_special=False) == "    return 1<|eos|>"
    assert ids[: -len(learned)] == [tokenizer.bos_id, *tokenizer.encode("def f():\n")]
    from trivium.data.examples import parse_example

    ((ids, loss_mask),) = encode_examples([parse_example(chat, "x", "")], tokenizer)
    learned = [index for index, has_loss in zip(ids, loss_mask, strict=True) if has_loss]
    assert tokenizer.decode(learned, skip_special=False) == "a<|end_of_turn|><|eos|>"


def examples(count: int) -> list[Example]:
    return [Example(prompt=f"n{number} ", response="x" * (number % 9 + 1), id=str(number)) for number in range(count)]


def pieces(batch) -> list[tuple[int, ...]]:
    found = []
    for ids, positions in zip(batch.ids.tolist(), batch.positions.tolist(), strict=True):
        for token, position in zip(ids, positions, strict=True):
            if position == 0:
                found.append([])
            if position >= 0:
                found[-1].append(token)
    return [tuple(piece) for piece in found]


def test_each_epoch_holds_every_example_once_in_another_order(tokenizer):
    loader = ExampleLoader(examples(50), tokenizer, seq_len=40, batch_size=1, seed=3)
    expected = Counter(tuple(ids) for ids, _ in loader.pairs)
    epochs = []
    for epoch in range(3):
        steps = range(epoch * loader.rows, (epoch + 1) * loader.rows)
        epochs.append([piece for step in steps for piece in pieces(loader.batch(step))])
        assert Counter(epochs[-1]) == expected
    assert epochs[0] != epochs[1] != epochs[2]
    assert Counter(piece for batch in loader.all() for piece in pieces(batch)) == expected


def test_batches_of_examples_are_a_pure_function_of_the_step(tokenizer):
    loader = ExampleLoader(examples(50), tokenizer, seq_len=40, batch_size=3, seed=3)
    forward = [loader.batch(step).ids for step in range(30)]
    for step in range(30):  # and their examples are named, in order
        named = [int(name) for name in loader.contents(step)]
        assert [tuple(loader.pairs[index][0]) for index in named] == pieces(loader.batch(step))
    again = ExampleLoader(examples(50), tokenizer, seq_len=40, batch_size=3, seed=3)
    assert all(torch.equal(again.batch(step).ids, forward[step]) for step in (29, 2, 17))
    parts = [
        ExampleLoader(examples(50), tokenizer, seq_len=40, batch_size=4, seed=3, rank=rank, world_size=2).batch(5).ids
        for rank in (0, 1)
    ]
    whole = ExampleLoader(examples(50), tokenizer, seq_len=40, batch_size=4, seed=3).batch(5).ids
    assert torch.equal(torch.cat(parts), whole)


def test_too_long_examples_stop_or_are_counted(tokenizer):
    rows = [*examples(3), Example(prompt="long", response="y1 " * 50, id="sft.jsonl:9")]
    with pytest.raises(DataError, match=r"^sft\.jsonl:9 has \d+ tokens, but a row holds seq_len = 40"):
        ExampleLoader(rows, tokenizer, seq_len=40)
    drops = Drops("skip")
    assert len(ExampleLoader(rows, tokenizer, seq_len=40, drops=drops).pairs) == 3
    assert drops.rows[0]["where"] == "sft.jsonl:9" and drops.counts["too long"] == 1
    with pytest.raises(DataError, match="no example to train on"):
        ExampleLoader(rows[3:], tokenizer, seq_len=40, drops=Drops("skip"))
