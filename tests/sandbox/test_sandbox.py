"""The public interface: verdicts, per-test results, kinds of tests, limits, and what good programs may do."""

import threading
import time

import pytest
from sandbox_host import FAST

from trivium.base.errors import ConfigError, DataError
from trivium.sandbox import Case, Job, Limits, Sandbox, SandboxError

ADD = "def add(a, b):\n    return a + b\n"


def test_passed_with_measurements(sandbox: Sandbox) -> None:
    result = sandbox.run(ADD + "print('loading')", ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"])
    assert result.passed and result.verdict == "passed" and result.reason == ""
    assert [test.status for test in result.tests] == ["passed", "passed"]
    assert result.stdout == "loading\n" and result.stderr == "" and not result.truncated
    assert 0 < result.cpu_seconds < 5 and 0 < result.wall_seconds < 10 and result.max_rss_bytes > 1 << 20
    assert result.level == sandbox.level and result.integrity == "separate"


@pytest.mark.parametrize(
    ("program", "test", "verdict", "reason", "message"),
    [
        (ADD, "assert add(1, 2) == 4, 'sum'", "failed", "assertion", "sum"),
        ("def add(a, b): raise KeyError('k')", "assert add(1, 2) == 3", "error", "raised", "KeyError: 'k'"),
        ("def add(a, b): return missing", "assert add(1, 2) == 3", "error", "raised", "NameError"),
        ("class E(Exception): pass\ndef add(a, b): raise E('x')", "add(1, 2)", "error", "raised", "ProgramError: E: x"),
        ("class E(ValueError): pass\ndef add(a, b): raise E('x')", "add(1, 2)", "error", "raised", "ValueError: x"),
        ("def add(a, b):", "assert add(1, 2) == 3", "error", "load", "IndentationError"),
        ("1 / 0", "assert True", "error", "load", "ZeroDivisionError"),
        ("x = 1", "assert add(1, 2) == 3", "error", "raised", "NameError"),
        (ADD, "assert add(1, 2) = 3", "error", "bad_test", "SyntaxError"),
        ("def add(a, b): return object()", "assert add(1, 2) == 3", "error", "opaque", "OpaqueError"),
        ("def add(a, b): return [0] * 10**9", "assert add(1, 2)", "memory", "memory", "MemoryError"),
        ("import os\ndef add(a, b): os._exit(3)", "assert add(1, 2)", "killed", "exit", "gone"),
        ("import os\ndef add(a, b): os.abort()", "assert add(1, 2)", "killed", "signal", "gone"),
        ("def add(a, b):\n    while True: pass", "assert add(1, 2)", "timeout", "cpu", None),
        ("import time\ndef add(a, b): time.sleep(9)", "assert add(1, 2)", "timeout", "wall", None),
    ],
)
def test_verdicts(program: str, test: str, verdict: str, reason: str, message: str | None, sandbox: Sandbox) -> None:
    result = sandbox.run(program, [test], limits=FAST)
    assert (result.verdict, result.reason) == (verdict, reason), result
    if message is not None:
        assert message in result.tests[0].message


def test_each_test_has_its_result_also_before_a_timeout(sandbox: Sandbox) -> None:
    program = "def f(x):\n    while x == 2: pass\n    if x == 3: raise ValueError\n    return x"
    tests = ["assert f(0) == 0", "assert f(1) == 0", "f(3)", "f(2)", "f(0)"]
    result = sandbox.run(program, tests, limits=FAST)
    assert result.verdict == "timeout"
    assert [test.status for test in result.tests] == ["passed", "failed", "error"]
    assert sandbox.run(program, tests[:3]).verdict == "error"  # a raised error outranks a failed assertion
    assert sandbox.run(program, tests[:2]).verdict == "failed"


def test_output_is_truncated_and_valid_text(sandbox: Sandbox) -> None:
    program = "import sys, os\nos.write(1, b'\\xff\\xfe' * 99)\nsys.stderr.write('e' * 10_000_000)"
    result = sandbox.run(program, ["pass"], limits=Limits(output_bytes=1000))
    assert result.passed and result.truncated
    assert result.stdout == "\ufffd" * 198 and result.stderr == "e" * 1000


def test_messages_are_bounded(sandbox: Sandbox) -> None:
    result = sandbox.run("def f(): raise ValueError('x' * 100000)", ["f()"])
    assert len(result.tests[0].message) == 200


@pytest.mark.parametrize(
    "test",
    [
        "def check(add):\n    assert add(1, 2) == 3\ncheck(add)",
        "assert [add for add in (1, 2)] == [1, 2] and add(1, 2) == 3",
        "assert (lambda add: add(3, 4))(add) == 7",
        "def check():\n    return add(1, 2)\nassert check() == 3",
        "class Holder:\n    value = add(1, 2)\nassert Holder.value == 3",
    ],
)
def test_a_local_name_does_not_hide_the_program_s(sandbox: Sandbox, test: str) -> None:
    assert sandbox.run(ADD, [test]).passed
    assert not sandbox.run("def add(a, b):\n    return 0\n", [test]).passed


def test_prelude_and_entry_points(sandbox: Sandbox) -> None:
    prelude = "import math\ndef area(r):\n    return math.pi * r * r\ndef f(r):\n    raise NotImplementedError"
    program = "import math\ndef f(r): return math.pi * r ** 2\ndef hidden(): return 1"
    assert sandbox.run(program, ["assert f(2) == area(2)"], prelude=prelude, entry_points=["f"]).passed
    result = sandbox.run(program, ["assert hidden() == 1"], entry_points=["f"])
    assert (result.verdict, result.tests[0].message) == ("error", "NameError: name 'hidden' is not defined")
    uses_program = "root = Node(1)\nroot.next = Node(2)"  # set-up code that builds the program's own objects
    program = "class Node:\n    def __init__(self, v): self.v, self.next = v, None\ndef total(n): return n.v + n.next.v"
    assert sandbox.run(program, ["assert total(root) == 3", "assert root.next.v == 2"], prelude=uses_program).passed


GOOD = {
    "threads": (
        "import threading\ndef f():\n    out = []\n"
        "    ts = [threading.Thread(target=out.append, args=(i,)) for i in range(8)]\n"
        "    [t.start() for t in ts]\n    [t.join() for t in ts]\n    return sorted(out)",
        "assert f() == list(range(8))",
    ),
    "asyncio": (
        "import asyncio\nasync def g(): await asyncio.sleep(0.01); return 3\ndef f(): return asyncio.run(g())",
        "assert f() == 3",
    ),
    "sqlite": (
        "import sqlite3\ndef f(): return sqlite3.connect(':memory:').execute('select 1 + 1').fetchone()",
        "assert f() == (2,)",
    ),
    "generators": ("def f(n):\n    for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2] and sum(f(4)) == 6"),
    "infinite generators": (
        "def f():\n    n = 0\n    while True:\n        yield n\n        n += 1",
        "import itertools\nassert list(itertools.islice(f(), 3)) == [0, 1, 2]",
    ),
    "classes": (
        "class P:\n    def __init__(self, x): self.x = x\n    def __add__(self, o): return P(self.x + o.x)\n"
        "    def __repr__(self): return f'P({self.x})'\n    def __len__(self): return self.x\n"
        "    def __getitem__(self, i): return i * 2",
        "p = P(1) + P(2)\nassert p.x == 3 and repr(p) == 'P(3)' and len(p) == 3 and p[4] == 8\np.x = 7\n"
        "assert p.x == 7",
    ),
    "callbacks": ("def f(g, xs): return [g(x) for x in xs]", "assert f(lambda x: x * 2, [1, 2]) == [2, 4]"),
    "nested callbacks": ("def f(n, g): return g(n)", "assert f(3, lambda n: f(n - 1, lambda m: m * 10)) == 20"),
    "raising callbacks": (
        "def f(g):\n    try: g()\n    except ValueError as e: return str(e)",
        "def bad(): raise ValueError('no')\nassert f(bad) == 'no'",
    ),
    "exceptions": (
        "def f(x):\n    if x < 0: raise ValueError('negative')\n    return x",
        "try: f(-1)\nexcept ValueError as e: assert str(e) == 'negative'\nelse: assert False",
    ),
    "named tuples": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)",
        "assert f() == (1, 2) and f().x == 1 and isinstance(f(), tuple) and (1, 2) in [f()]",
    ),
    "collections": (
        "from collections import *\n"
        "def f(): return Counter('aab'), defaultdict(list, a=[1]), OrderedDict(b=2), deque([1], 3)",
        "c, d, o, q = f()\n"
        "assert c == {'a': 2, 'b': 1} and d == {'a': [1]} and d['new'] == [] and o == {'b': 2} and list(q) == [1]",
    ),
    "numbers": (
        "from decimal import Decimal\nfrom fractions import Fraction\n"
        "def f(): return 2 ** 9999, 1j, Decimal('0.1'), Fraction(1, 3), float('inf')",
        "from decimal import Decimal\nfrom fractions import Fraction\n"
        "assert f() == (2 ** 9999, 1j, Decimal('0.1'), Fraction(1, 3), float('inf'))",
    ),
    "types": ("def f(xs, t): return [x for x in xs if isinstance(x, t)]", "assert f([1, 'a'], int) == [1]"),
    "matches": (
        "import re\ndef f(s): return re.match('a+', s)",
        "assert f('aab') and not f('b') and f('aab').group() == 'aa'",
    ),
    "dataclasses": (
        "from dataclasses import dataclass\n@dataclass\nclass D:\n    x: int\n    y: str = 'a'\ndef f(): return D(1)",
        "assert f().x == 1 and f().y == 'a' and repr(f()) == \"D(x=1, y='a')\"",
    ),
    "random": ("import random\nrandom.seed(1)\ndef f(): return random.randint(0, 10 ** 9)", "assert f() == 144272509"),
    "context managers": (
        "class C:\n    def __enter__(self): return 5\n    def __exit__(self, *e): return None\ndef f(): return C()",
        "with f() as x: assert x == 5",
    ),
    "module state": ("n = 0\ndef f():\n    global n\n    n += 1\n    return n", "assert [f(), f(), f()] == [1, 2, 3]"),
    "main guard": ("def f(): return 1\nif __name__ == '__main__': raise SystemExit(1)", "assert f() == 1"),
    "constants": ("PRIMES = [2, 3, 5]", "assert PRIMES == [2, 3, 5]"),
    "keyword arguments": (
        "def f(a, /, b, *, c=3): return a, b, c",
        "assert f(1, b=2) == (1, 2, 3) and f(1, 2, c=4) == (1, 2, 4)",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_program_passes(name: str, sandbox: Sandbox) -> None:
    program, test = GOOD[name]
    result = sandbox.run(program, [test])
    assert result.passed, result


@pytest.mark.skipif("not __import__('sys').platform.startswith('linux')")
def test_scratch_directory_at_level_jailed(sandbox: Sandbox) -> None:
    if sandbox.level != "jailed":
        pytest.skip(f"no scratch directory at level {sandbox.level}")
    program = (
        "import tempfile\ndef f():\n    with tempfile.NamedTemporaryFile('w+') as t:\n"
        "        t.write('x')\n        t.seek(0)\n        return t.read()"
    )
    assert sandbox.run(program, ["assert f() == 'x'"]).passed


def test_cases_with_tolerance(sandbox: Sandbox) -> None:
    program = "def f(x, scale=1): return {'v': [x / 3 * scale]}"
    cases = [
        Case(args=[1], expected={"v": [0.3333]}, tolerance=1e-3),
        Case(args=[1], expected={"v": [0.3333]}),
        Case(args=[3], kwargs={"scale": 2}, expected={"v": [2.0]}),
    ]
    result = sandbox.run(program, cases, entry_points=["f"])
    assert [test.status for test in result.tests] == ["passed", "failed", "passed"]
    assert "expected {'v': [0.3333]}" in result.tests[1].message


def test_scripts(sandbox: Sandbox) -> None:
    program = "import sys\nn = int(input())\nprint(sum(map(int, sys.stdin.read().split())) / n)\nif n > 1: sys.exit()"
    cases = [Case(stdin="2\n1 2\n", stdout="1.5"), Case(stdin="1\n5\n", stdout="5.0001\n", tolerance=1e-3)]
    assert sandbox.run(program, cases).passed
    result = sandbox.run(program, [*cases, Case(stdin="1\n5", stdout="6")])
    assert result.verdict == "failed" and [test.status for test in result.tests] == ["passed", "passed", "failed"]
    assert sandbox.run("print(open(0).read()[::-1])", [Case(stdin="abc", stdout="cba")]).passed
    assert sandbox.run("print(len(input()))", [Case(stdin="x" * 1_000_000, stdout="1000000")]).passed
    assert sandbox.run("print(1)\nraise ValueError", [Case(stdin="", stdout="1")]).verdict == "error"
    assert sandbox.run("import sys\nprint(1)\nsys.exit(1)", [Case(stdin="", stdout="1")]).verdict == "error"
    assert sandbox.run("import os\nprint(1, flush=True)\nos._exit(0)", [Case(stdin="", stdout="1")]).verdict == "killed"


def test_run_many_keeps_order_and_reports_progress(sandbox: Sandbox) -> None:
    done: list[int] = []
    jobs = (Job(f"def f(): return {i}", [f"assert f() == {i} and {i} != 5"]) for i in range(20))
    results = sandbox.run_many(jobs, progress=done.append)
    assert [result.verdict for result in results] == ["failed" if i == 5 else "passed" for i in range(20)]
    assert done == list(range(1, 21))
    assert sandbox.run_many([]) == []


def test_failing_source_of_jobs_is_raised_and_the_sandbox_lives_on(sandbox: Sandbox) -> None:
    def jobs():
        yield Job(ADD, ["assert add(1, 1) == 2"])
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        sandbox.run_many(jobs())
    assert sandbox.run(ADD, ["assert add(1, 1) == 2"]).passed


def test_many_threads_may_share_it(sandbox: Sandbox) -> None:
    verdicts: list[str] = []
    work = lambda: verdicts.append(sandbox.run(ADD, ["assert add(1, 1) == 2"]).verdict)  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == ["passed"] * 8


def test_outcomes_do_not_depend_on_chance(sandbox: Sandbox) -> None:
    program = "import random\ndef f(): return random.random(), hash('a'), list({'a', 'b', 'c', 'd'})"
    results = sandbox.run_many([Job(program, ["assert f() == 0, str(f())"])] * 6)
    assert len({result.tests[0].message for result in results}) == 1


def test_stopping_is_prompt(sandbox: Sandbox) -> None:
    start = time.monotonic()
    result = sandbox.run("import time\ntime.sleep(30)", ["pass"], limits=Limits(wall_seconds=0.3))
    assert result.verdict == "timeout" and result.wall_seconds >= 0.3 and time.monotonic() - start < 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"tests": "assert True"},
        {"tests": ["pass"], "entry_points": "f"},
        {"tests": [Case(args=[1], expected=1)]},
        {"tests": [Case(stdin=""), "pass"]},
    ],
)
def test_ill_formed_job_is_refused(arguments: dict) -> None:
    with pytest.raises(DataError):
        Job("", **arguments)


def test_case_that_is_no_data_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(DataError, match="plain data"):
        sandbox.run("def f(x): return x", [Case(args=[object()])], entry_points=["f"])


def test_closed_sandbox_refuses() -> None:
    with Sandbox(workers=1) as closed:
        assert closed.why
    with pytest.raises(SandboxError, match="closed"):
        closed.run(ADD, ["pass"])
    closed.close()


@pytest.mark.parametrize(
    "limits", [{"wall_seconds": 0}, {"memory_bytes": 1000}, {"threads": 0}, {"cpu_seconds": float("nan")}]
)
def test_limits_under_which_nothing_starts_are_refused(limits: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(limits))):
        Limits(**limits)


@pytest.mark.parametrize("arguments", [{"workers": 0}, {"minimum": "none"}])
def test_wrong_settings_are_refused(arguments: dict) -> None:
    with pytest.raises(SandboxError):
        Sandbox(**arguments)
