"""Mutants: one change each, and tests that are worth something refuse nearly all."""

import pytest

from trivium.records import Task
from trivium.sandbox import Sandbox
from trivium.tasks.check import check_completions
from trivium.tasks.ladder import generate_tasks
from trivium.tasks.mutants import mutants


def task(solution: str, prompt: str = "def f(a, b):\n") -> Task:
    return Task(id="t", prompt=prompt, entry_point="f", tests=("assert True",), solution=solution)


@pytest.mark.parametrize(
    ("solution", "expected"),
    [
        ("    return a + b\n", ["return a - b", "return None"]),
        ("    return a < b and b > 1\n", ["a < b or b > 1", "a <= b and", "b >= 1", "b > 2", "return None"]),
        ("    return 5 if a else b\n", ["5 if not a else b", "6 if a else b", "return None"]),
        ("    a += 1\n    return a is not b\n", ["a -= 1", "a += 2", "a is b", "return None"]),
        ("    return True\n", ["return False", "return None"]),
        ("    return\n", []),
        ("    return 'x'.join(a)\n", ["return None"]),
    ],
)
def test_each_place_is_changed_once(solution: str, expected: list[str]) -> None:
    found = mutants(task(solution))
    assert len(found) == len(expected) == len(set(found))
    for change in expected:
        assert sum(change in mutant for mutant in found) == 1, change


def test_there_are_none_without_a_solution_or_a_function() -> None:
    assert mutants(task("")) == [] == mutants(task("x = 1\n", prompt="Write f.\n"))
    assert mutants(task("    return (\n")) == []


def test_the_ladders_tests_refuse_mutants_and_weak_tests_do_not() -> None:
    tasks = generate_tasks(12, seed=1)
    owners = [task for task in tasks for _ in mutants(task)]
    programs = [mutant for task in tasks for mutant in mutants(task)]
    weak = [task.model_copy(update={"tests": ("assert True",)}) for task in owners]
    with Sandbox(workers=2, minimum="limited") as sandbox:
        strong_share, weak_share = (
            sum(outcome.passed is True for outcome in check_completions(each, programs, sandbox)) / len(programs)
            for each in (owners, weak)
        )
    assert len(programs) > 40 and strong_share < 0.15 and weak_share > 0.95
