import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.base.errors import DataError
from trivium.data.packing import batch_of_rows, cut_row, join_documents, pack_examples, plan_rows

documents = st.lists(st.lists(st.integers(3, 99), min_size=1, max_size=30), min_size=1, max_size=12)
lengths = st.lists(st.integers(1, 16), max_size=60)


def test_a_row_by_hand():
    stream = join_documents([[1, 10, 11, 2], [1, 20, 2], [1, 30, 31, 32, 2]])
    ids, positions = cut_row(stream, 2, 8)
    assert ids.tolist() == [11, 2, 1, 20, 2, 1, 30, 31]
    assert positions.tolist() == [0, 1, 0, 1, 2, 0, 1, 2]
    batch = batch_of_rows([(ids, positions)])
    assert batch.loss_mask.tolist() == [[False, True, False, True, True, False, True, True]]


def test_after_the_last_document_the_first_follows():
    stream = join_documents([[1, 10, 2], [1, 20, 2]])
    ids, positions = cut_row(stream, 4, 11)
    assert ids.tolist() == [20, 2, 1, 10, 2, 1, 20, 2, 1, 10, 2]
    assert positions.tolist() == [0, 1, 0, 1, 2, 0, 1, 2, 0, 1, 2]


@settings(max_examples=50, deadline=None)
@given(documents, st.integers(2, 12))
def test_rows_in_order_lose_no_token(texts, seq_len):
    stream = join_documents(texts)
    size = len(stream.tokens)
    rows = [cut_row(stream, first, min(seq_len, size - first)) for first in range(0, size, seq_len)]
    assert np.concatenate([ids for ids, _ in rows]).tolist() == [token for text in texts for token in text]
    # A position is 0 exactly where a document or a row begins; otherwise it counts on.
    positions = np.concatenate([positions for _, positions in rows])
    begins = {*stream.starts[:-1].tolist(), *range(0, size, seq_len)}
    for index, position in enumerate(positions):
        assert position == (0 if index in begins else positions[index - 1] + 1)


@settings(max_examples=50, deadline=None)
@given(lengths)
def test_a_plan_holds_every_example_once_and_no_row_overflows(sizes):
    plan = plan_rows(sizes, 16)
    assert sorted(index for row in plan for index in row) == list(range(len(sizes)))
    assert all(sum(sizes[index] for index in row) <= 16 for row in plan)
    # Best fit: no row's examples would fit into another row.
    totals = [sum(sizes[index] for index in row) for row in plan]
    assert sum(total <= 8 for total in totals) <= 1


@settings(max_examples=50, deadline=None)
@given(lengths, st.randoms(use_true_random=False))
def test_the_number_of_rows_does_not_depend_on_the_order(sizes, random):
    shuffled = random.sample(sizes, len(sizes))
    assert len(plan_rows(sizes, 16)) == len(plan_rows(shuffled, 16))


def test_packed_examples_by_hand():
    pairs = [([1, 5, 6, 2], [False, False, True, True]), ([1, 7, 2], [True, True, True]), ([1, 8], [False, True])]
    batch = pack_examples(pairs, seq_len=8, pad_id=9)
    assert batch.ids.tolist() == [[1, 5, 6, 2, 1, 7, 2, 9], [1, 8, 9, 9, 9, 9, 9, 9]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, -1], [0, 1, -1, -1, -1, -1, -1, -1]]
    # The first token of an example is nobody's target, even where its mask says so.
    assert batch.loss_mask[0].tolist() == [False, False, True, True, False, True, True, False]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(3, 99), min_size=1, max_size=16), min_size=1, max_size=30))
def test_packed_examples_lose_no_token(examples):
    batch = pack_examples([(ids, [True] * len(ids)) for ids in examples], seq_len=16)
    found = []
    for ids, positions in zip(batch.ids.tolist(), batch.positions.tolist(), strict=True):
        for token, position in zip(ids, positions, strict=True):
            if position == 0:
                found.append([])
            if position >= 0:
                found[-1].append(token)
    assert sorted(found) == sorted(examples)
    assert torch.equal(batch.loss_mask, batch.positions > 0)


def test_a_too_long_example_is_named():
    pairs = [([1, 2], [False, True]), ([1] * 9, [True] * 9), ([1] * 10, [True] * 10)]
    with pytest.raises(DataError, match=r"^sft.jsonl:2 has 9 tokens and 1 more, but a row holds seq_len = 8\."):
        pack_examples(pairs, seq_len=8, names=["sft.jsonl:1", "sft.jsonl:2", "sft.jsonl:3"])
