"""Inputs for the ladder's tests, leaning towards values where its constants matter."""

from random import Random
from typing import Any

_WORD_LIST = """
apple ant area eagle ease echo ink iris idea nest note noon open oven onion river red rose sun snow stone tree tea train
table orange green blue cat dog bird house garden letter water at in on is an elephant umbrella morning evening summer
winter light book map kite lemon moon music paper queen radio yellow zebra nation insect error street
"""
WORDS: tuple[str, ...] = tuple(_WORD_LIST.split())
TEXTS = tuple(word if index % 3 else word.title() for index, word in enumerate(WORDS))
_BY_LETTER = {letter: [word for word in WORDS if letter in word] for letter in "abcdefghijklmnopqrstuvwxyz"}


def draw_input(rng: Random, parameters: tuple[str, ...], constants: list[Any]) -> tuple[Any, ...]:
    """Arguments for one test; the parameter's name says what it is."""
    return tuple(_DRAW[name](rng, constants) for name in parameters)


def _integer(rng: Random, constants: list[Any]) -> int:
    near = [constant + rng.randint(-2, 2) for constant in constants if isinstance(constant, int)]
    if near and rng.random() < 0.3:
        return rng.choice(near)
    return rng.randint(-20, 40)


def _numbers(rng: Random, constants: list[Any]) -> list[int]:
    pool = list(range(-9, 13))
    for constant in constants:
        if isinstance(constant, int) and constant > 0:
            pool += (constant - 1, constant, constant, constant + 1, 2 * constant, 3 * constant, -constant)
    return rng.choices(pool, k=rng.choice((1, 4, 5, 6, 7, 8)))


def _text(rng: Random, constants: list[Any]) -> str:
    words = rng.choices(TEXTS, k=rng.randint(1, 4))
    for constant in constants:
        if isinstance(constant, str):
            words.append(rng.choice(_BY_LETTER[constant]))
    return " ".join(words)


def _words(rng: Random, constants: list[Any]) -> list[str]:
    words: list[str] = rng.choices(WORDS, k=rng.randint(2, 5))
    for constant in constants:
        if isinstance(constant, str):
            words += rng.choices(_BY_LETTER[constant], k=2)
    rng.shuffle(words)
    return words


_DRAW = {"n": _integer, "a": _integer, "b": _integer, "s": _text, "xs": _numbers, "words": _words}
