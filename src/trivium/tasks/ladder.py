"""The built-in ladder: an unlimited supply of small Python tasks with tests, split by composition."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from random import Random
from typing import Any, Literal

from trivium.base.errors import ConfigError
from trivium.base.seeding import python_rng
from trivium.records import Example, Task
from trivium.tasks.blueprints import FAMILIES, Blueprint, blueprints
from trivium.tasks.inputs import draw_input
from trivium.tasks.operations import CONSTANTS

Split = Literal["train", "heldout"]
Constant = int | str | None

WEIGHTS = {
    "arithmetic": 2,
    "text": 2,
    "list": 2,
    "filter_map": 2,
    "pipeline": 4,
    "words": 2,
    "guard": 1,
    "dict": 1,
}
"""How often each family is drawn, relative to the others."""

HELDOUT_PERCENT = 15
PLAIN_SHARE = 0.15
"""Share of solutions written step by step instead of as one expression."""
MAX_TESTS = 8
_REPEATS = 20
_WRONG = object()


def generate_tasks(n: int, seed: int, split: Split = "train", families: Sequence[str] | None = None) -> list[Task]:
    """The first `n` tasks of a split: a function of (seed, split, families), whatever `n`.

    A prompt comes twice only when the drawn families have run out of new ones.

    Args:
        n: number of tasks.
        seed: any integer.
        split: `train` or `heldout`; no composition occurs in both.
        families: names in FAMILIES; None draws from all by WEIGHTS.
    Raises:
        ConfigError: an unknown family, or families without held-out compositions.
    """
    names, weights = _drawn(split, families)
    tasks: list[Task] = []
    seen: set[str] = set()
    index = repeats = 0
    while len(tasks) < n:
        rng = python_rng(seed, "ladder", split, index)
        family = rng.choices(names, weights)[0]
        task = _task(rng, rng.choice(_members(family)[split]), f"ladder/{split}/{seed}/{index}", split)
        index += 1
        if task.prompt in seen and repeats < _REPEATS:
            repeats += 1
            continue
        repeats = 0
        seen.add(task.prompt)
        tasks.append(task)
    return tasks


def compositions(split: Split, families: Iterable[str] | None = None) -> list[str]:
    """Names of a split's compositions, such as `pipeline:even/square/sum`."""
    return [blueprint.composition for family in families or FAMILIES for blueprint in _members(family)[split]]


def examples(tasks: Iterable[Task]) -> list[Example]:
    """The tasks with their reference solutions, as supervised pairs."""
    return [Example(prompt=task.prompt, response=task.solution, id=task.id, source="ladder") for task in tasks]


def _drawn(split: str, families: Sequence[str] | None) -> tuple[list[str], list[int]]:
    if split not in ("train", "heldout"):
        raise ConfigError(f"split is {split!r}, expected 'train' or 'heldout'.")
    for family in families or ():
        if family not in FAMILIES:
            raise ConfigError(
                f"families names {family!r}, which the ladder does not have. Known: {', '.join(FAMILIES)}."
            )
    names = [family for family in families or FAMILIES if _members(family)[split]]
    if not names:
        raise ConfigError(f"families {list(families or ())} give no {split} task. Name at least one family.")
    return names, [WEIGHTS[family] for family in names]


@cache
def _members(family: str) -> dict[str, list[Blueprint]]:
    """A family's compositions by split.

    The hash is over the operations regardless of order, so that two orders of the same steps are never in different
    splits. A single operation is always trained, and a held-out composition has operations seen in training only.
    """
    members: dict[str, list[Blueprint]] = {"train": [], "heldout": []}
    for blueprint in blueprints(family):
        key = f"{family}:{'/'.join(sorted(blueprint.operations))}"
        bucket = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") % 100
        heldout = len(blueprint.operations) > 1 and bucket < HELDOUT_PERCENT
        members["heldout" if heldout else "train"].append(blueprint)
    trained = {name for blueprint in members["train"] for name in blueprint.operations}
    unseen = [blueprint for blueprint in members["heldout"] if not trained.issuperset(blueprint.operations)]
    members["train"] += unseen
    members["heldout"] = [blueprint for blueprint in members["heldout"] if blueprint not in unseen]
    return members


def _task(rng: Random, blueprint: Blueprint, task_id: str, split: str) -> Task:
    constants, cases = _discriminating(rng, blueprint)
    doc = rng.choice(rng.choice(blueprint.docs))
    body = blueprint.plain_body if rng.random() < PLAIN_SHARE else blueprint.body
    for slot, constant in enumerate(constants):
        doc = doc.replace(f"${slot}", str(constant))
        body = body.replace(f"${slot}", str(constant))
    return Task(
        id=task_id,
        prompt=f'def solve({", ".join(blueprint.parameters)}):\n    """{doc}"""\n',
        entry_point="solve",
        tests=tuple(f"assert solve({', '.join(map(repr, args))}) == {expected}" for args, expected in cases),
        solution=body,
        family=blueprint.family,
        composition=blueprint.composition,
        split=split,
    )


def _discriminating(rng: Random, blueprint: Blueprint) -> tuple[list[Constant], list[tuple[tuple[Any, ...], str]]]:
    """Constants, and tests (arguments, repr of the answer) that every simple wrong answer fails.

    Some constants make an operation invisible (modulo 3, then divided by 5), so constants are drawn anew
    when no tests are found.
    """
    for _ in range(50):
        constants = [rng.choice(CONSTANTS[kind]) if kind else None for kind in blueprint.constants]
        cases = _cases(rng, blueprint, constants)
        if cases is not None:
            return constants, cases
    raise AssertionError(f"{blueprint.composition}: no constants and inputs show every operation")


def _cases(rng: Random, blueprint: Blueprint, constants: list[Constant]) -> list[tuple[tuple[Any, ...], str]] | None:
    reference = _compiled(blueprint.body, blueprint.parameters)
    wrong = _wrong_answers(blueprint, constants)
    wanted = rng.randint(5, 7)
    cases: list[tuple[tuple[Any, ...], str]] = []
    answers: set[str] = set()
    for attempt in range(40):
        args = draw_input(rng, blueprint.parameters, constants)
        expected = _answer(reference, args, constants)
        if expected is _WRONG:
            continue
        text = repr(expected)
        caught = [index for index, (f, values) in enumerate(wrong) if _answer(f, args, values) != expected]
        # A new answer is worth more than one seen before, and the last places are for inputs that catch something.
        missing = wrong or (len(answers) == 1 and text in answers)
        if not caught and ((missing and len(cases) >= wanted - 2) or (text in answers and attempt < 15)):
            continue
        cases.append((args, text))
        answers.add(text)
        wrong = [pair for index, pair in enumerate(wrong) if index not in caught]
        if not wrong and len(answers) > 1 and len(cases) >= wanted:
            return cases
        if len(cases) == MAX_TESTS:
            return None
    return None


def _wrong_answers(blueprint: Blueprint, constants: list[Constant]) -> list[tuple[Callable[..., Any], list[Constant]]]:
    """Programs that the tests must refuse, each with its constants."""
    parameters = blueprint.parameters
    wrong = [(_compiled(body, parameters), constants) for body in blueprint.dropped]
    wrong += [(_compiled(f"    return {name}\n", parameters), constants) for name in parameters]
    reference = _compiled(blueprint.body, parameters)
    for slot, kind in enumerate(blueprint.constants):
        for other in _neighbours(kind, constants[slot]):
            wrong.append((reference, [*constants[:slot], other, *constants[slot + 1 :]]))
    return wrong


def _neighbours(kind: str, constant: Constant) -> list[Constant]:
    if isinstance(constant, int) and kind != "default":
        return [constant - 1, constant + 1]
    values = CONSTANTS[kind] if kind else ()
    return [value for value in values if value != constant][:2]


def _answer(function: Callable[..., Any], args: tuple[Any, ...], constants: list[Constant]) -> Any:
    try:
        return function(constants, *args)
    except (ValueError, IndexError, ZeroDivisionError):
        return _WRONG


@cache
def _compiled(body: str, parameters: tuple[str, ...]) -> Callable[..., Any]:
    """The function of a body from this package's own tables, with the constants as its first argument."""
    code = body
    for slot in range(3):
        code = code.replace(f'"${slot}"', f"k[{slot}]").replace(f"${slot}", f"k[{slot}]")
    namespace: dict[str, Any] = {}
    exec(f"def solve(k, {', '.join(parameters)}):\n{code}", namespace)
    return namespace["solve"]
