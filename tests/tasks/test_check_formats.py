"""Checks as HumanEval and MBPP write them run unchanged: reference solutions pass, empty bodies do not."""

import json
from pathlib import Path

import pytest

from trivium.records import Task
from trivium.sandbox import Sandbox
from trivium.tasks.check import check_completions
from trivium.tasks.formats import load_tasks


def humaneval(name: str, prompt: str, solution: str, test: str) -> dict[str, str]:
    return {
        "task_id": f"own/{name}",
        "prompt": prompt,
        "canonical_solution": solution,
        "test": f"\n\nMETADATA = {{'author': 'us'}}\n\n\ndef check(candidate):\n{test}",
        "entry_point": name,
    }


HUMANEVAL = [
    humaneval(
        "half_of",
        'def half_of(number: float) -> float:\n    """Half of the number."""\n',
        "    return number / 2\n",
        "    assert candidate(3.0) == 1.5\n    assert abs(candidate(1.1) - 0.55) < 1e-6\n    assert True, 'never'\n",
    ),
    humaneval(
        "near_any",
        "from typing import List\n\n\ndef near_any(numbers: List[float], limit: float) -> bool:\n"
        '    """Whether two of them are nearer than the limit."""\n',
        "    ordered = sorted(numbers)\n    return any(b - a < limit for a, b in zip(ordered, ordered[1:]))\n",
        "    assert candidate([1.0, 2.0, 2.1], 0.3) == True\n    assert candidate([1.0, 2.0], 0.3) == False\n"
        "    assert candidate([], 1.0) is False\n",
    ),
    humaneval(
        "find_root",
        "import math\n\n\ndef value(xs: list, x: float):\n"
        '    """The polynomial\'s value."""\n    return sum([c * math.pow(x, i) for i, c in enumerate(xs)])\n\n\n'
        'def find_root(xs: list):\n    """A root of a polynomial of odd degree."""\n',
        "    low, high = -1.0, 1.0\n    while value(xs, low) * value(xs, high) > 0:\n"
        "        low *= 2\n        high *= 2\n"
        "    for _ in range(200):\n        middle = (low + high) / 2\n"
        "        if value(xs, low) * value(xs, middle) > 0:\n            low = middle\n        else:\n"
        "            high = middle\n    return low\n",
        "    import math\n    import random\n    import copy\n    rng = random.Random(7)\n    for _ in range(20):\n"
        "        xs = [rng.randint(-5, 5), rng.choice([-2, -1, 1, 2])]\n"
        "        root = candidate(copy.deepcopy(xs))\n        assert math.fabs(value(xs, root)) < 1e-4\n",
    ),
    humaneval(
        "sort_ends",
        'def sort_ends(l: list):\n    """Swap first and last if they are in the wrong order."""\n',
        "    l = list(l)\n    if l and l[0] > l[-1]:\n        l[0], l[-1] = l[-1], l[0]\n    return l\n",
        "    assert tuple(candidate([3, 2, 1])) == tuple(sort_ends([1, 2, 3]))\n"
        "    assert candidate([]) == [] and candidate([2, 1]) == [1, 2]\n",
    ),
    humaneval(
        "shift_back",
        "def shift(s: str):\n    return ''.join([chr((ord(c) - 92) % 26 + 97) for c in s])\n\n\n"
        'def shift_back(s: str):\n    """Undo shift."""\n',
        "    return ''.join([chr((ord(c) - 102) % 26 + 97) for c in s])\n",
        "    from random import choice, randint\n    import string\n    for _ in range(20):\n"
        "        word = ''.join(choice(string.ascii_lowercase) for _ in range(randint(5, 10)))\n"
        "        assert candidate(shift(word)) == word\n",
    ),
    humaneval(
        "digest",
        'def digest(text):\n    """Its MD5 in hexadecimal, None for the empty text."""\n',
        "    import hashlib\n    return hashlib.md5(text.encode('ascii')).hexdigest() if text else None\n",
        "    assert candidate('a') == '0cc175b9c0f1b6a831c399e269772661'\n    assert candidate('') == None\n",
    ),
    humaneval(
        "refuse",
        'def refuse(number):\n    """Raise ValueError for a negative number; else 1, a tuple and a set."""\n',
        "    if number < 0:\n        raise ValueError('negative')\n    return 1, (number,), {number}\n",
        "    try:\n        candidate(-1)\n    except ValueError as error:\n        assert 'negative' in str(error)\n"
        "    else:\n        assert False\n    assert candidate(2) == (1, (2,), {2})\n"
        "    assert sorted(candidate(3)[2]) == [3] and isinstance(candidate(3), tuple)\n",
    ),
    humaneval(
        "change",
        'def change(rows, key):\n    """Empty the rows in place; return the key of each in capital letters."""\n',
        "    keys = [row.pop(key).upper() for row in rows]\n    rows.clear()\n    return keys\n",
        "    rows = [{'k': 'ä'}, {'k': 'b'}]\n    assert candidate(rows, key='k') == ['Ä', 'B'], 'message'\n"
        "    assert rows == []\n",
    ),
]


def mbpp(code: str, tests: list[str], setup: str = "") -> dict[str, object]:
    fields = {"text": "Write a function.", "challenge_test_list": [], "test_setup_code": setup, "test_list": tests}
    return {**fields, "code": code.replace("\n", "\r\n")}


MBPP = [
    mbpp(  # its set-up builds on the answer's own class, so it must run after the answer
        "class Link:\n  def __init__(self, x):\n    self.x = x\n    self.next = None\n"
        "def depth(link):\n  return 0 if link is None else 1 + depth(link.next)",
        ["assert depth(root) == 3", "assert depth(root.next) == 2", "assert depth(None) == 0"],
        setup="root = Link(1)\r\nroot.next = Link(2)\r\nroot.next.next = Link(3)\r\n",
    ),
    mbpp(
        "def shared(a, b):\n  return tuple(set(a) & set(b))",
        ["assert set(shared((3, 4, 5), (5, 7, 4))) == set((4, 5))", "assert sorted(shared((1,), (1,))) == [1]"],
    ),
    mbpp(
        "from collections import defaultdict\ndef groups(xs):\n  d = defaultdict(list)\n  for k, v in xs:\n"
        "    d[k].append(v)\n  return d",
        ["assert groups([('a', 1), ('b', 2), ('a', 3)]) == {'a': [1, 3], 'b': [2]}"],
    ),
    mbpp(
        "def only(xs, kind):\n  return [x for x in xs if isinstance(x, kind)]",
        ["assert only([1, 'a', 2.0], int) == [1]", "assert only([1, 'a'], str) == ['a']"],
    ),
    mbpp(
        "import cmath\ndef turn(x, y):\n  return cmath.phase(complex(x, y))",
        ["assert math.isclose(turn(0, 1), 1.5707963267948966, rel_tol=0.001)", "assert turn(1, 0) == 0.0"],
        setup="import math\r\n",
    ),
    mbpp(
        "import re\ndef matches(s):\n  return 'Found!' if re.search('ab*', s) else 'Not'",
        ["assert matches('ac') == ('Found!')", "assert (matches('dc') == 'Not') == True"],
    ),
    mbpp(
        "from collections import Counter\nimport heapq\ndef top(xs, n):\n"
        "  return heapq.nlargest(n, Counter(xs).items(), key=lambda p: p[1])",
        ["assert top('aaabbc', 2) == [('a', 3), ('b', 2)]"],
    ),
    mbpp(
        "def lists(xs):\n  return [list(group) for group in xs], map(len, xs)",
        ["assert lists([(1, 2)])[0] == [[1, 2]]", "assert list(lists([(1, 2), ()])[1]) == [2, 0]"],
    ),
    mbpp(
        "def make(n):\n  def add(x):\n    return x + n\n  return add",
        ["assert make(2)(3) == 5", "assert list(map(make(1), [1, 2])) == [2, 3]"],
    ),
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    folder: Path = tmp_path_factory.mktemp("tasks")
    numbered = [{**row, "task_id": 600 + number} for number, row in enumerate(MBPP)]
    for name, rows in (("humaneval", HUMANEVAL), ("mbpp", numbered)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [task for name in ("humaneval", "mbpp") for task in load_tasks(folder / f"{name}.jsonl")]


def test_reference_solutions_pass_unchanged(tasks: list[Task]) -> None:
    with Sandbox(workers=2) as sandbox:
        outcomes = check_completions(tasks, [task.solution for task in tasks], sandbox)
    wrong = [(task.id, outcome) for task, outcome in zip(tasks, outcomes, strict=True) if not outcome.passed]
    assert len(outcomes) == len(HUMANEVAL) + len(MBPP) and not wrong


def test_no_empty_body_passes(tasks: list[Task]) -> None:
    functions = [task for task in tasks if task.family == "humaneval"]
    others = [task for task in tasks if task.family == "mbpp"]
    empty = ["    return None\n"] * len(functions)
    empty += [f"def {task.entry_point}(*args):\n    return None\n" for task in others]
    with Sandbox(workers=2) as sandbox:
        outcomes = check_completions([*functions, *others], empty, sandbox)
    assert [outcome.passed for outcome in outcomes] == [False] * len(tasks)
