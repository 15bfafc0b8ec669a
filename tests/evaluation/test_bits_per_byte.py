from math import log

import pytest

from trivium.evaluation.bits_per_byte import TextLoss, bits_per_byte, bits_per_byte_by_source, bits_per_byte_interval


def test_uniform_bytes_cost_eight_bits():
    text = "grüße"
    n_bytes = len(text.encode())
    assert bits_per_byte(n_bytes * log(256), n_bytes) == pytest.approx(8)


def test_does_not_depend_on_how_text_is_cut_into_tokens():
    # Four bytes as four tokens of ln 16 nats or as two of 2·ln 16: the same code length.
    assert bits_per_byte(4 * log(16), 4) == bits_per_byte(2 * 2 * log(16), 4) == pytest.approx(4)


def test_interval_weighs_texts_by_their_bytes():
    found = bits_per_byte_interval([log(2) * 10, log(2) * 90], [10, 30])
    assert found.value == pytest.approx(100 / 40)
    assert found.n == 2


def test_sources_and_all_together():
    losses = [
        TextLoss(log(2) * 10, 10, "code"),
        TextLoss(log(2) * 60, 20, "english"),
        TextLoss(log(2) * 20, 10, "code"),
    ]
    found = bits_per_byte_by_source(losses)
    assert {name: pytest.approx(each.value) for name, each in found.items()} == {
        "code": 1.5,
        "english": 3.0,
        "all": 2.25,
    }
    assert list(found) == ["code", "english", "all"]
    assert found["all"].low < 2.25 < found["all"].high


def test_without_bytes_there_is_no_figure():
    with pytest.raises(ValueError, match="positive number of bytes"):
        bits_per_byte(1.0, 0)
    with pytest.raises(ValueError, match="no list of units"):
        bits_per_byte_by_source([])
    with pytest.raises(ValueError, match="named 'all'"):
        bits_per_byte_by_source([TextLoss(1.0, 1, "all")])
