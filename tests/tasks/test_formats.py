import gzip
import json

import pytest

from trivium.base.errors import ConfigError, DataError
from trivium.tasks.extract import program
from trivium.tasks.formats import load_tasks, write_samples, write_tasks
from trivium.tasks.ladder import generate_tasks

HUMANEVAL = {
    "task_id": "Own/0",
    "prompt": 'import math\n\n\ndef half(x):\n    return x / 2\n\n\ndef quarter(x):\n    """A quarter of x."""\n',
    "entry_point": "quarter",
    "canonical_solution": "    return half(half(x))\n",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(8) == half(4) == 2\n",
}
MBPP = {
    "task_id": 601,
    "text": 'Write a function to double a number, "quoted".',
    "code": "def is_even(x):\r\n\treturn x % 2 == 0\r\ndef double(x):\r\n\treturn 2 * x",
    "test_list": ["assert double(2) == 4", "assert double(-1) == -2"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
SANITIZED = {
    "task_id": 520,
    "source_file": "a.ipynb",
    "prompt": "Write a function to get the root.",
    "code": "def root(x):\n    return x ** 0.5",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(root(4), 2)"],
}
OWN = {"id": "a", "prompt": "def f(x):\n", "entry_point": "f", "tests": ["assert f(1) == 2"], "family": "mine"}


def save(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def runs(task):
    namespace = {}
    exec(program(task, task.solution) + "\n" + "\n".join(task.tests), namespace)


def test_humaneval_keeps_prompt_and_checks_by_one_call(tmp_path):
    (task,) = load_tasks(save(tmp_path / "a.jsonl", HUMANEVAL))
    assert (task.id, task.family, task.split) == ("Own/0", "humaneval", "test")
    assert task.prompt == HUMANEVAL["prompt"] and task.solution == HUMANEVAL["canonical_solution"]
    assert len(task.tests) == 1 and task.tests[0].endswith("\n\ncheck(quarter)")
    assert task.setup == "import math\n\n\ndef half(x):\n    return x / 2"
    runs(task)


def test_mbpp_shows_the_question_and_one_test(tmp_path):
    full, sanitized = load_tasks(save(tmp_path / "mbpp.jsonl", MBPP, SANITIZED))
    assert full.prompt == '"""\nWrite a function to double a number, "quoted".\nassert double(2) == 4\n"""\n'
    assert (full.id, full.entry_point, full.split) == ("mbpp/601", "double", "train")
    assert "\r" not in full.solution and full.tests == ("assert double(2) == 4", "assert double(-1) == -2")
    assert (sanitized.entry_point, sanitized.split) == ("root", "validation")
    assert sanitized.tests == ("import math\nassert math.isclose(root(4), 2)",)
    runs(full)
    runs(sanitized)


def test_mbpp_setup_that_needs_the_solution_runs_after_it(tmp_path):
    row = {
        **MBPP,
        "code": "class Node:\r\n\tpass\r\ndef height(node):\r\n\treturn node.height",
        "test_setup_code": "root = Node()\r\nroot.height = 3",
        "test_list": ["assert height(root) == 3"],
    }
    (task,) = load_tasks(save(tmp_path / "mbpp.jsonl", row))
    assert task.setup == "" and task.entry_point == "height"
    assert task.tests == ("root = Node()\nroot.height = 3\nassert height(root) == 3",)
    runs(task)


def test_mbpp_question_with_quotes_and_backslashes_stays_a_docstring(tmp_path):
    row = {**MBPP, "text": 'Find """ and \\d.', "test_list": ['assert double(len("\\n")) == 2']}
    (task,) = load_tasks(save(tmp_path / "mbpp.jsonl", row))
    runs(task)
    namespace = {}
    exec(task.prompt, namespace)
    assert namespace["__doc__"].strip() == 'Find """ and \\d.\nassert double(len("\\n")) == 2'


def test_own_form_round_trips(tmp_path):
    tasks = generate_tasks(5, seed=0, split="heldout")
    assert write_tasks(tmp_path / "tasks.jsonl.gz", tasks) == 5
    assert load_tasks(tmp_path / "tasks.jsonl.gz") == tasks
    (task,) = load_tasks(save(tmp_path / "own.jsonl", OWN))
    assert (task.id, task.family, task.split, task.tests) == ("a", "mine", "train", ("assert f(1) == 2",))


def test_arrays_compression_and_mixed_formats(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([HUMANEVAL, MBPP, OWN]))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in (HUMANEVAL, MBPP, OWN)))
    tasks = load_tasks(tmp_path / "a.json")
    assert [task.family for task in tasks] == ["humaneval", "mbpp", "mine"]
    assert load_tasks(tmp_path / "b.jsonl.gz") == tasks


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "is a list, expected an object with fields"),
        ({"task_id": 1, "completion": "x"}, "has the fields task_id, completion, which is no task"),
        ({**HUMANEVAL, "prompt": 3}, "field prompt: is a number, expected text"),
        ({**HUMANEVAL, "entry_point": "a b"}, "field entry_point: 'a b' is no function name"),
        ({**HUMANEVAL, "test": "def chek(candidate):\n    pass"}, "field test: does not define check"),
        ({**HUMANEVAL, "test": "def check(candidate:"}, "field test: is not Python"),
        ({key: MBPP[key] for key in ("task_id", "code", "test_list")}, "field prompt: is missing"),
        ({**MBPP, "test_list": "assert double(2) == 4"}, "field test_list: is text, expected a list of texts"),
        ({**MBPP, "test_list": []}, "field test_list: is empty"),
        ({**MBPP, "test_list": ["assert 1"]}, "field test_list: calls no function"),
        ({**MBPP, "code": "def ("}, "field code: is not Python"),
        ({**OWN, "test": 1}, "field test: is unknown; known are id"),
        ({**OWN, "id": "first"}, "the id 'first' was used at"),
        ({**OWN, "prompt": " "}, "field prompt: is empty"),
        ({**OWN, "tests": ["assert f(1) =="]}, "field tests: is not Python"),
    ],
)
def test_bad_record_names_file_line_field_and_reason(tmp_path, row, reason):
    path = save(tmp_path / "tasks.jsonl", {**OWN, "id": "first"}, row)
    with pytest.raises(DataError) as error:
        load_tasks(path)
    message = str(error.value)
    assert message.startswith(f"{path}:2: ") and reason in message and "\n" not in message
    skipped: list[str] = []
    assert [task.id for task in load_tasks(path, on_error="skip", skipped=skipped)] == ["first"]
    assert len(skipped) == 1 and skipped[0].startswith(f"{path}:2: ")


def test_broken_json_missing_file_empty_file_and_unknown_format(tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps(OWN) + '\n{"id": \n')
    with pytest.raises(DataError, match=r"broken\.jsonl:2: is not JSON"):
        load_tasks(broken)
    with pytest.raises(DataError, match="does not exist"):
        load_tasks(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl holds no task"):
        load_tasks(tmp_path / "empty.jsonl")
    with pytest.raises(ConfigError, match="'apps', expected one of humaneval, mbpp, trivium"):
        load_tasks(broken, format="apps")
    with pytest.raises(DataError, match="field tests: is missing"):
        load_tasks(save(tmp_path / "mbpp.jsonl", MBPP), format="trivium")


def test_samples_are_humaneval_lines(tmp_path):
    path = tmp_path / "samples.jsonl"
    assert write_samples(path, [("Own/0", "    return x / 4\n"), ("Own/0", "    pass\n")]) == 2
    lines = path.read_text().splitlines()
    assert json.loads(lines[0]) == {"task_id": "Own/0", "completion": "    return x / 4\n"} and len(lines) == 2
