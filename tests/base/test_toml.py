"""What is written as TOML reads back equal."""

import tomllib

from trivium.base.toml import dump_toml


def test_round_trip() -> None:
    table = {
        "seed": 0,
        "model": {"d_model": 64, "layers": [1, 2], "rope": {"theta": 1e4, "tiny": 1e-30, "inf": float("inf")}},
        "flag": True,
        "text": 'quote " back \\ newline \n tab \t del \x7f bell \x07 ünï',
        "strange key": {"a.b": [{"x": 1, "y z": "s"}, []], "": 0},
        "empty": {},
    }
    assert tomllib.loads(dump_toml(table)) == table


def test_unset_values_are_comments() -> None:
    text = dump_toml({"a": None, "b": {"c": None, "d": [{"e": None, "f": 1}]}})
    assert "# a is not set" in text and "# c is not set" in text
    assert tomllib.loads(text) == {"b": {"d": [{"f": 1}]}}
