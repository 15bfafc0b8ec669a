"""Values survive the way between processes; malformed trees are refused, whatever they are."""

import contextlib
import json
import math
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.sandbox.jail import codec
from trivium.sandbox.jail.wire import WireError, to_json

hashable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
values = st.recursive(
    hashable | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hashable, inner, max_size=3) | st.tuples(inner),
    max_leaves=10,
)
trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(list("ltsfdCOiabcrTqDenFwhvmk")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


def cross(value: object) -> object:
    return codec.decode(json.loads(to_json(codec.encode(value, codec.data_only))), codec.no_references)


@settings(max_examples=50, deadline=None)
@given(values)
def test_data_survives(value: object) -> None:
    assert cross(value) == value


@pytest.mark.parametrize(
    "value",
    [
        2**9999,
        -(2**63),
        "\udc80",
        range(3, 10**30, 7),
        slice(1, None, -1),
        Counter("abca"),
        OrderedDict([(2, 1), (1, 2)]),
        defaultdict(list, {1: [2]}),
        defaultdict(None, {1: 2}),
        deque([1, 2], maxlen=2),
        Decimal("1.10"),
        Fraction(-1, 3),
        date(2020, 2, 29),
        time(1, 2, 3, 4),
        datetime(2020, 1, 2, 3, 4, 5, 6),
        timedelta(days=-1, microseconds=5),
        int,
        bytearray(b"\x00\xff"),
        -0.0,
        math.inf,
    ],
)
def test_kinds_survive(value: object) -> None:
    again = cross(value)
    assert again == value and type(again) is type(value) and repr(again) == repr(value)


@settings(max_examples=100, deadline=None)
@given(trees)
def test_malformed_tree_is_refused_or_decoded(tree: object) -> None:
    """Nothing but WireError comes out of a tree from an untrusted sender."""
    with contextlib.suppress(WireError):
        codec.decode(json.loads(json.dumps(tree)), codec.no_references)


def test_depth_is_bounded() -> None:
    value: list = []
    for _ in range(200):
        value = [value]
    with pytest.raises(WireError, match="deeper"):
        codec.encode(value, codec.data_only)
    tree: list = ["l"]
    for _ in range(200):
        tree = ["l", tree]
    with pytest.raises(WireError):
        codec.decode(tree, codec.no_references)


def test_subclass_gives_its_plain_value_by_the_builtins_methods() -> None:
    class Liar(list):
        def __iter__(self):
            return iter([9])

    class Text(str):
        def __str__(self):
            return "other"

    class Level(IntEnum):
        LOW = 1

    assert codec.plain_value(Liar([1])) == [1] and type(codec.plain_value(Liar([1]))) is list
    assert codec.plain_value(Text("a")) == "a" and type(codec.plain_value(Text("a"))) is str
    assert codec.plain_value(Level.LOW) == 1 and type(codec.plain_value(Level.LOW)) is int
    assert codec.plain_value(object()) is None


def test_merge_keeps_objects() -> None:
    inner, other = [1], {"k": [2]}
    old = [inner, other]
    assert codec.merge(old, [[1, 5], {"k": [3], "n": 1}, 7]) is old
    assert old == [[1, 5], {"k": [3], "n": 1}, 7] and old[0] is inner and old[1] is other
    assert codec.merge([1], (2,)) == (2,)
