import pytest

from trivium.base.errors import SandboxError
from trivium.records import Task
from trivium.sandbox import Sandbox
from trivium.tasks.check import Outcome, check_completions
from trivium.tasks.ladder import generate_tasks


@pytest.fixture(scope="module")
def sandbox():
    try:
        with Sandbox(workers=1) as sandbox:
            yield sandbox
    except SandboxError as error:
        pytest.skip(f"completions cannot be run here: {error}")


def task(**fields):
    return Task(
        **{"id": "a", "prompt": "def f(x):\n", "entry_point": "f", "tests": ("assert f(1) == 2", "assert f(2) == 3")}
        | fields
    )


def test_outcomes_come_in_order_and_count_tests(sandbox):
    completions = ["    return x + 1\n", "    return 2\n", "    return x +\n", "    raise KeyError(x)\n"]
    outcomes = check_completions([task()] * 4, completions, sandbox)
    assert outcomes[0] == Outcome(True, "passed", "", 2, 2)
    assert (outcomes[1].passed, outcomes[1].verdict, outcomes[1].tests_passed) == (False, "failed", 1)
    assert (outcomes[2].passed, outcomes[2].verdict, outcomes[2].reason) == (False, "error", "load")
    assert (outcomes[3].passed, outcomes[3].reason, outcomes[3].message) == (False, "raised", "KeyError: 1")


def test_equal_programs_run_once(sandbox):
    done: list[int] = []
    twins = [task(), task(id="b", family="other"), task(tests=("assert f(1) == 1",))]
    outcomes = check_completions(twins, ["    return x + 1\n"] * 3, sandbox, progress=done.append)
    assert [outcome.passed for outcome in outcomes] == [True, True, False]
    assert done == [1, 2]


def test_set_up_serves_program_and_tests(sandbox):
    helped = task(setup="STEP = 1", tests=("assert f(1) == 1 + STEP",))
    assert check_completions([helped], ["    return x + STEP\n"], sandbox)[0].passed is True


def test_what_says_nothing_about_the_completion_is_undecided(sandbox):
    broken = task(tests=("assert f(1) ==",))
    outcome = check_completions([broken], ["    return 2\n"], sandbox)[0]
    assert (outcome.passed, outcome.reason) == (None, "bad_test")
    assert check_completions([], [], sandbox) == []
    with pytest.raises(ValueError, match="1 tasks and 0 completions"):
        check_completions([broken], [], sandbox)


def test_ladder_solutions_pass_and_simple_wrong_answers_fail(sandbox):
    tasks = generate_tasks(25, seed=6, split="heldout")
    solved = check_completions(tasks, [task.solution for task in tasks], sandbox)
    assert solved == [Outcome(True, "passed", "", len(task.tests), len(task.tests)) for task in tasks]
    empty = check_completions(tasks, ["    return None\n"] * 25, sandbox)
    assert not any(outcome.passed for outcome in empty)
