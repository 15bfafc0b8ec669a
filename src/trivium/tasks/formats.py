"""Task files: HumanEval, MBPP and Trivium's own, told apart by their fields; samples out in HumanEval's form."""

import ast
import builtins
import keyword
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from trivium.base.errors import ConfigError, DataError
from trivium.base.jsonl import read_json_records, write_json_records
from trivium.records import Task

Row = dict[str, Any]


class FieldError(ValueError):
    """A record cannot be a task: says which field and why."""


def load_tasks(
    path: Path | str,
    format: str | None = None,
    *,
    on_error: Literal["stop", "skip"] = "stop",
    skipped: list[str] | None = None,
) -> list[Task]:
    """Read a task file: JSONL (`.gz`, `.zst` too) or a `.json` array.

    Args:
        path: the file.
        format: a name in FORMATS; None tells by each record's fields.
        on_error: `stop` raises at the first bad record, `skip` leaves it out.
        skipped: receives place and reason of each record left out.
    Raises:
        DataError: names file, line, field and reason; also when no task is found.
        ConfigError: an unknown format.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"task format is {format!r}, expected one of {', '.join(FORMATS)}.")
    tasks: list[Task] = []
    places: dict[str, str] = {}
    left_out = skipped if skipped is not None else []
    for record in read_json_records(path):
        try:
            if record.problem:
                raise FieldError(record.problem)
            task = _parse(record.value, format)
            if task.id in places:
                raise FieldError(f"the id {task.id!r} was used at {places[task.id]}; ids must differ")
        except FieldError as error:
            if on_error == "stop":
                raise DataError(
                    f'{record.where}: {error}. Correct the record, or leave bad ones out with on_error = "skip".'
                ) from None
            left_out.append(f"{record.where}: {error}")
            continue
        places[task.id] = record.where
        tasks.append(task)
    if not tasks:
        first = f" The first of {len(left_out)} bad records: {left_out[0]}." if left_out else ""
        raise DataError(f"{path} holds no task.{first} Name a file of tasks.")
    return tasks


def write_tasks(path: Path | str, tasks: Iterable[Task]) -> int:
    """Write tasks in Trivium's own form, defaults left out; `load_tasks` gives them back. Returns their number."""
    required = ("id", "prompt", "entry_point", "tests")
    return write_json_records(
        path,
        (
            {name: value for name, value in task if name in required or value != Task.model_fields[name].default}
            for task in tasks
        ),
    )


def write_samples(path: Path | str, samples: Iterable[tuple[str, str]]) -> int:
    """Write (task id, completion) pairs as HumanEval's `{task_id, completion}` lines. Returns their number."""
    return write_json_records(path, ({"task_id": task_id, "completion": text} for task_id, text in samples))


def _parse(row: Any, format: str | None) -> Task:
    if not isinstance(row, dict):
        raise FieldError(f"is {_kind(row)}, expected an object with fields")
    return FORMATS[format or _detect(row)](row)


def _detect(row: Row) -> str:
    """The format whose own fields the record has."""
    if "tests" in row:
        return "trivium"
    if "test" in row and ("canonical_solution" in row or "entry_point" in row):
        return "humaneval"
    if "test_list" in row:
        return "mbpp"
    raise FieldError(
        f"has the fields {', '.join(map(str, row)) or 'none'}, which is no task: HumanEval has `test`, "
        "MBPP `test_list`, Trivium's own form `tests`"
    )


# ---------------------------------------------------------------- the formats


def _humaneval(row: Row) -> Task:
    """HumanEval: `test` defines `check(candidate)`. Source: Chen et al. 2021 (arXiv:2107.03374)."""
    prompt, entry_point = _text(row, "prompt"), _name(row, "entry_point")
    test = _python(_text(row, "test"), "test")
    if "check" not in {node.name for node in ast.parse(test).body if isinstance(node, ast.FunctionDef)}:
        raise FieldError("field test: does not define check(candidate)")
    return Task(
        id=_id(row, "task_id"),
        prompt=prompt,
        entry_point=entry_point,
        tests=(f"{test.rstrip()}\n\ncheck({entry_point})",),
        setup=_before(prompt, entry_point),
        solution=_text(row, "canonical_solution", default=""),
        family="humaneval",
        split="test",
    )


def _before(prompt: str, entry_point: str) -> str:
    """What the prompt gives beside the function asked for: imports, and helpers that tests may call."""
    try:
        body = ast.parse(prompt + "    pass\n").body
    except SyntaxError:
        return ""
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name == entry_point:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            return "\n".join(prompt.split("\n")[: first - 1]).strip()
    return ""


def _mbpp(row: Row) -> Task:
    """MBPP, full (`text`, `test_setup_code`) and sanitized (`prompt`, `test_imports`): Austin et al. 2021.

    The prompt is a docstring with the question and its first test, which gives the function's name; the other tests
    stay unseen. `challenge_test_list` is no part of the benchmark's score and is left out.
    """
    question = _text(row, "text" if "text" in row else "prompt").strip()
    code = _text(row, "code", default="")
    tests = [_python(test, "test_list").strip() for test in _texts(row, "test_list")]
    if not tests:
        raise FieldError("field test_list: is empty, expected at least one assert")
    # Some set-ups build on the solution's own classes: they belong to the tests, after the code.
    setup = _python(_text(row, "test_setup_code", default="").strip(), "test_setup_code")
    imports = _python("\n".join(_texts(row, "test_imports", default=())).strip(), "test_imports")
    before = "".join(f"{part}\n" for part in (imports, setup) if part)
    number = _id(row, "task_id")
    return Task(
        id=f"mbpp/{number}",
        prompt=f'"""\n{_in_docstring(question)}\n{_in_docstring(tests[0])}\n"""\n',
        entry_point=_called(tests, code),
        tests=tuple(before + test for test in tests),
        solution=f"{code.rstrip()}\n" if code else "",
        family="mbpp",
        split=_mbpp_split(number),
    )


def _in_docstring(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def _called(tests: list[str], code: str) -> str:
    """The function that the tests call: one that the code defines, else the first one called that is no builtin."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        raise FieldError("field code: is not Python") from None
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    calls = [
        node.func.id
        for test in tests
        for node in ast.walk(ast.parse(test))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    ours = [name for name in calls if name in defined] or [name for name in calls if not hasattr(builtins, name)]
    if not ours:
        raise FieldError("field test_list: calls no function")
    return ours[0]


def _mbpp_split(number: str) -> str:
    """The benchmark's own division by task id."""
    if not number.isdigit():
        return "train"
    for last, name in ((10, "prompt"), (510, "test"), (600, "validation")):
        if int(number) <= last:
            return name
    return "train"


def _trivium(row: Row) -> Task:
    """Trivium's own form: the fields of `Task`."""
    tests = tuple(_python(test, "tests") for test in _texts(row, "tests"))
    if not tests:
        raise FieldError("field tests: is empty, expected at least one assert")
    if idle := [test for test in tests if not ast.parse(test).body]:
        raise FieldError(f"field tests: {idle[0]!r} tests nothing, expected an assert")
    optional = {name: _text(row, name, default="") for name in ("solution", "family", "composition")}
    task = Task(
        id=_id(row, "id"),
        prompt=_text(row, "prompt"),
        entry_point=_name(row, "entry_point"),
        tests=tests,
        setup=_python(_text(row, "setup", default=""), "setup"),
        split=_text(row, "split", default="train"),
        **optional,
    )
    unknown = [name for name in row if name not in Task.model_fields]
    if unknown:
        raise FieldError(f"field {unknown[0]}: is unknown; known are {', '.join(Task.model_fields)}")
    return task


FORMATS: dict[str, Callable[[Row], Task]] = {"humaneval": _humaneval, "mbpp": _mbpp, "trivium": _trivium}
"""Readers of one record each; a reader raises FieldError."""


# ---------------------------------------------------------------- fields


def _text(row: Row, name: str, default: str | None = None) -> str:
    """A text field with Unix line ends."""
    value = row.get(name)
    if value is None and default is not None:
        return default
    if name not in row:
        raise FieldError(f"field {name}: is missing")
    if not isinstance(value, str):
        raise FieldError(f"field {name}: is {_kind(value)}, expected text")
    if default is None and not value.strip():
        raise FieldError(f"field {name}: is empty")
    return value.replace("\r\n", "\n")


def _texts(row: Row, name: str, default: Iterable[str] | None = None) -> list[str]:
    value = row.get(name)
    if value is None and default is not None:
        return list(default)
    if name not in row:
        raise FieldError(f"field {name}: is missing")
    if not isinstance(value, list):
        raise FieldError(f"field {name}: is {_kind(value)}, expected a list of texts")
    if other := [item for item in value if not isinstance(item, str)]:
        raise FieldError(f"field {name}: holds {_kind(other[0])}, expected texts")
    return [item.replace("\r\n", "\n") for item in value]


def _name(row: Row, field: str) -> str:
    name = _text(row, field)
    if not name.isidentifier() or keyword.iskeyword(name):
        raise FieldError(f"field {field}: {name!r} is no function name")
    return name


def _id(row: Row, name: str) -> str:
    value = row.get(name)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(row, name)


def _python(source: str, field: str) -> str:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "nested too deeply"
        raise FieldError(f"field {field}: is not Python ({reason})") from None
    return source


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
