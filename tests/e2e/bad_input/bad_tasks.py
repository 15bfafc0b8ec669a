"""Files of tasks that cannot be checked."""

from typing import Any

from bench import TASK, Case, add, case, fifo, folder, lines, put, remove

RUN = "run mine.toml --name fresh"
HUMANEVAL = {
    "task_id": "h/1",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "canonical_solution": "    return x\n",
    "test": "def check(candidate):\n    assert candidate(1) == 1\n",
}
MBPP = {"task_id": 11, "text": "Return x.", "code": "def f(x):\n    return x\n", "test_list": ["assert f(1) == 1"]}


def bad(title: str, told: str, *records: object) -> Case:
    """Bad records behind good ones."""
    return case(title, told, RUN, add("tasks.jsonl", *records))


def but(record: dict[str, Any], **values: Any) -> dict[str, Any]:
    """The record with other values; `...` leaves one out."""
    changed = {**record, "id": "x", **values} if record is TASK else {**record, **values}
    return {key: value for key, value in changed.items() if value is not ...}


CASES = [
    case("a file that is not there", "tasks.jsonl does not exist. Check the path.", RUN, remove("tasks.jsonl")),
    case("a folder", "tasks.jsonl is a folder, expected a file. Name a file in it.", RUN, folder("tasks.jsonl")),
    case(
        "a pipe",
        "tasks.jsonl is a pipe or a device, which cannot be read twice. Write its content to a file first.",
        RUN,
        fifo("tasks.jsonl"),
    ),
    case("an empty file", "tasks.jsonl holds no task. Name a file of tasks.", RUN, put("tasks.jsonl", "")),
    bad(
        "a line that is no JSON",
        'tasks.jsonl:3: is not JSON: …. Correct the record, or leave bad ones out with on_error = "skip".',
        "def f(x):",
    ),
    bad(
        "a list",
        "tasks.jsonl:3: is a list, expected an object with fields. Correct the record, or leave bad ones "
        'out with on_error = "skip".',
        [],
    ),
    bad(
        "fields of something else",
        "tasks.jsonl:3: has the fields question, which is no task: HumanEval has `test`, MBPP "
        "`test_list`, Trivium's own form `tests`. Correct the record, or leave bad ones out with "
        'on_error = "skip".',
        {"question": "a"},
    ),
    bad(
        "an empty record",
        "tasks.jsonl:3: has the fields none, which is no task: HumanEval has `test`, MBPP `test_list`, "
        'Trivium\'s own form `tests`. Correct the record, or leave bad ones out with on_error = "skip".',
        {},
    ),
    bad(
        "no id",
        'tasks.jsonl:3: field id: is missing. Correct the record, or leave bad ones out with on_error = "skip".',
        but(TASK, id=...),
    ),
    bad(
        "an id that is a list",
        "tasks.jsonl:3: field id: is a list, expected text. Correct the record, or leave bad ones out "
        'with on_error = "skip".',
        but(TASK, id=[1]),
    ),
    bad(
        "an id used twice",
        "tasks.jsonl:3: the id 'half' was used at tasks.jsonl:1; ids must differ. Correct the record, or "
        'leave bad ones out with on_error = "skip".',
        but(TASK, id="half"),
    ),
    bad(
        "no prompt",
        'tasks.jsonl:3: field prompt: is missing. Correct the record, or leave bad ones out with on_error = "skip".',
        but(TASK, prompt=...),
    ),
    bad(
        "an empty prompt",
        'tasks.jsonl:3: field prompt: is empty. Correct the record, or leave bad ones out with on_error = "skip".',
        but(TASK, prompt=""),
    ),
    bad(
        "a prompt that is a number",
        "tasks.jsonl:3: field prompt: is a number, expected text. Correct the record, or leave bad ones "
        'out with on_error = "skip".',
        but(TASK, prompt=3),
    ),
    bad(
        "no entry point",
        "tasks.jsonl:3: field entry_point: is missing. Correct the record, or leave bad ones out with "
        'on_error = "skip".',
        but(TASK, entry_point=...),
    ),
    bad(
        "an entry point that is no name",
        "tasks.jsonl:3: field entry_point: 'half(x)' is no function name. Correct the record, or leave "
        'bad ones out with on_error = "skip".',
        but(TASK, entry_point="half(x)"),
    ),
    bad(
        "an entry point that is a keyword",
        "tasks.jsonl:3: field entry_point: 'class' is no function name. Correct the record, or leave bad "
        'ones out with on_error = "skip".',
        but(TASK, entry_point="class"),
    ),
    bad(
        "no tests",
        "tasks.jsonl:3: field tests: is empty, expected at least one assert. Correct the record, or "
        'leave bad ones out with on_error = "skip".',
        but(TASK, tests=[]),
    ),
    bad(
        "an empty test",
        "tasks.jsonl:3: field tests: '' tests nothing, expected an assert. Correct the record, or leave "
        'bad ones out with on_error = "skip".',
        but(TASK, tests=[""]),
    ),
    bad(
        "a test that is only a comment",
        "tasks.jsonl:3: field tests: '# nothing' tests nothing, expected an assert. Correct the record, "
        'or leave bad ones out with on_error = "skip".',
        but(TASK, tests=["# nothing"]),
    ),
    bad(
        "tests that are text",
        "tasks.jsonl:3: field tests: is text, expected a list of texts. Correct the record, or leave bad "
        'ones out with on_error = "skip".',
        but(TASK, tests="assert half(4) == 2"),
    ),
    bad(
        "a test that is a number",
        "tasks.jsonl:3: field tests: holds a number, expected texts. Correct the record, or leave bad "
        'ones out with on_error = "skip".',
        but(TASK, tests=[1]),
    ),
    bad(
        "a test that is no Python",
        "tasks.jsonl:3: field tests: is not Python (…). Correct the record, or leave bad ones out with "
        'on_error = "skip".',
        but(TASK, tests=["assert half(4) = 2"]),
    ),
    bad(
        "a test with a NUL byte",
        "tasks.jsonl:3: field tests: is not Python (…). Correct the record, or leave bad ones out with "
        'on_error = "skip".',
        but(TASK, tests=["assert half(4) == '\0'"]),
    ),
    bad(
        "a test nested without end",
        "tasks.jsonl:3: field tests: is not Python (…). Correct the record, or leave bad ones out with "
        'on_error = "skip".',
        but(TASK, tests=["assert " + "(" * 5000 + ")" * 5000]),
    ),
    bad(
        "a set-up that is no Python",
        "tasks.jsonl:3: field setup: is not Python (…). Correct the record, or leave bad ones out with "
        'on_error = "skip".',
        but(TASK, setup="import"),
    ),
    bad(
        "a solution that is a number",
        "tasks.jsonl:3: field solution: is a number, expected text. Correct the record, or leave bad "
        'ones out with on_error = "skip".',
        but(TASK, solution=3),
    ),
    bad(
        "an unknown field",
        "tasks.jsonl:3: field difficulty: is unknown; known are id, prompt, entry_point, tests, setup, "
        "solution, family, composition, split. Correct the record, or leave bad ones out with on_error = "
        '"skip".',
        but(TASK, difficulty=3),
    ),
    bad(
        "half a surrogate pair",
        "tasks.jsonl:3: prompt: holds half a surrogate pair (\\ud800 to \\udfff), which is no text. "
        'Correct the record, or leave bad ones out with on_error = "skip".',
        '{"id": "x", "prompt": "\\ud800", "entry_point": "f", "tests": ["assert 1"]}',
    ),
    bad(
        "a solution that fails its own tests",
        "tasks.jsonl: the solution of task 'x' does not pass its tests (…). Correct the task, or use it "
        'all the same with on_error = "skip".',
        but(TASK, solution="    return x\n"),
    ),
    bad(
        "a solution that is no Python",
        "tasks.jsonl: the solution of task 'x' does not pass its tests (…). Correct the task, or use it "
        'all the same with on_error = "skip".',
        but(TASK, solution="    return return\n"),
    ),
    bad(
        "HumanEval without check",
        "tasks.jsonl:3: field test: does not define check(candidate). Correct the record, or leave bad "
        'ones out with on_error = "skip".',
        but(HUMANEVAL, test="assert f(1) == 1"),
    ),
    bad(
        "HumanEval without a prompt",
        'tasks.jsonl:3: field prompt: is missing. Correct the record, or leave bad ones out with on_error = "skip".',
        but(HUMANEVAL, prompt=...),
    ),
    bad(
        "HumanEval without an entry point",
        "tasks.jsonl:3: field entry_point: is missing. Correct the record, or leave bad ones out with "
        'on_error = "skip".',
        but(HUMANEVAL, entry_point=...),
    ),
    bad(
        "HumanEval with a test that is null",
        "tasks.jsonl:3: field test: is null, expected text. Correct the record, or leave bad ones out "
        'with on_error = "skip".',
        but(HUMANEVAL, test=None),
    ),
    bad(
        "HumanEval's solution that fails its own tests",
        "tasks.jsonl: the solution of task 'h/1' does not pass its tests (…). Correct the task, or use it "
        'all the same with on_error = "skip".',
        but(HUMANEVAL, canonical_solution="    return -x\n"),
    ),
    bad(
        "MBPP without tests",
        "tasks.jsonl:3: field test_list: is empty, expected at least one assert. Correct the record, or "
        'leave bad ones out with on_error = "skip".',
        but(MBPP, test_list=[]),
    ),
    bad(
        "MBPP that calls nothing",
        "tasks.jsonl:3: field test_list: calls no function. Correct the record, or leave bad ones out "
        'with on_error = "skip".',
        but(MBPP, test_list=["assert 1 == 1"]),
    ),
    bad(
        "MBPP without text",
        'tasks.jsonl:3: field prompt: is missing. Correct the record, or leave bad ones out with on_error = "skip".',
        but(MBPP, text=...),
    ),
    bad(
        "MBPP with code that is no Python",
        'tasks.jsonl:3: field code: is not Python. Correct the record, or leave bad ones out with on_error = "skip".',
        but(MBPP, code="def f(x) return x"),
    ),
    bad(
        "MBPP with tests that are text",
        "tasks.jsonl:3: field test_list: is text, expected a list of texts. Correct the record, or leave "
        'bad ones out with on_error = "skip".',
        but(MBPP, test_list="assert f(1) == 1"),
    ),
    case(
        "a prompt longer than the context",
        "tasks.jsonl: the prompt of task 'x' has 1812 tokens, but the model's context is 256. Leave it "
        "out, or raise model.max_seq_len.",
        "rl mine.toml --force",
        add("tasks.jsonl", but(TASK, prompt="x = 1\n" * 300 + "def half(x):\n")),
    ),
    case(
        "every prompt too long to evaluate",
        "no task is left to evaluate: the prompts of all 1 exceed 248 tokens. Lower "
        "evaluate.max_new_tokens, raise model.max_seq_len, or give shorter tasks.",
        "evaluate mine.toml --force",
        put("tasks.jsonl", lines(but(TASK, prompt="x = 1\n" * 300 + "def half(x):\n"))),
    ),
    case(
        "a bad record for a stage alone",
        "tasks.jsonl:3: has the fields id, which is no task: HumanEval has `test`, MBPP `test_list`, "
        'Trivium\'s own form `tests`. Correct the record, or leave bad ones out with on_error = "skip".',
        "rl mine.toml --force",
        add("tasks.jsonl", {"id": "x"}),
    ),
    case(
        "a bad record for evaluation alone",
        "tasks.jsonl:3: has the fields id, which is no task: HumanEval has `test`, MBPP `test_list`, "
        'Trivium\'s own form `tests`. Correct the record, or leave bad ones out with on_error = "skip".',
        "evaluate mine.toml --force",
        add("tasks.jsonl", {"id": "x"}),
    ),
    case(
        "a file of something else for collection",
        "answers.jsonl:1: has the fields prompt, response, which is no task: HumanEval has `test`, MBPP "
        "`test_list`, Trivium's own form `tests`. Correct the record, or leave bad ones out with "
        'on_error = "skip".',
        "run mine.toml --name fresh --collect.path '' --collect.tasks.path answers.jsonl",
    ),
]
