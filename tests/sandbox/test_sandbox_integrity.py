"""No wrong program earns a pass, whatever it does to the processes, the wire or the values."""

import pytest
from sandbox_host import FAST

from trivium.sandbox import Case, Sandbox

# Each of these would pass where program and tests share an interpreter, or believe what the program says.
FORGERIES = {
    "equal to everything": """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = object.__hash__
def f(x): return Any()""",
    "an integer equal to everything": """
class Any(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def f(x): return Any(0)""",
    "a list equal to everything": """
class Any(list):
    def __eq__(self, other): return True
def f(x): return Any()""",
    "true in every way": """
class Any:
    def __bool__(self): return True
    def __contains__(self, item): return True
    def __len__(self): return 3
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __eq__ = __ne__ = __lt__
    __hash__ = object.__hash__
def f(x): return Any()""",
    "exit with success": "import os\ndef f(x): os._exit(0)",
    "exit on load": "import os\nos._exit(0)",
    "system exit": "import sys\ndef f(x): sys.exit(0)",
    "patched assertion": "import builtins\nclass E(Exception): pass\nbuiltins.AssertionError = E\ndef f(x): raise E",
    "patched builtins": """
import builtins
for name in ('abs', 'len', 'sorted', 'isinstance', 'all', 'any', 'print', 'compile', 'exec'):
    setattr(builtins, name, lambda *a, **k: True)
def f(x): return True""",
    "stops the tests' loop": "def f(x): raise StopIteration",
    "fails as a test does": "def f(x): raise AssertionError",
    "stack inspection": """
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for scope in (frame.f_locals, frame.f_globals):
            for value in list(scope.values()):
                if isinstance(value, str) and 'assert' + ' f(' in value: return 42
        frame = frame.f_back
    return None""",
    "search of the heap": """
import gc
def f(x):
    for o in gc.get_objects():
        if isinstance(o, (list, dict)) and 'assert' + ' f(' in repr(o): return 42
    return None""",
    "search of the memory": """
import ctypes, os
libc = ctypes.CDLL(None)
read, write = os.pipe()
shifted = bytes((i + 1) % 256 for i in range(256))  # so that what is sought is not itself in memory
def f(x):
    for place in (f, [], 'text', b'bytes' * 9):
        start = id(place) & ~0xfff
        for address in range(start - (1 << 19), start + (1 << 19), 4096):
            if libc.write(write, ctypes.c_void_p(address), 4096) == 4096:  # -1 where nothing is mapped
                if b'bttfsu!g)2*!>>!53' in os.read(read, 4096).translate(shifted): return 42
    return None""",
    "forged frames on all descriptors": """
import json, os, struct
rows = [["passed", 0.0, "", ""]] * 3 + [["done", 3.0, "", ""]]
lines = b"".join(json.dumps(row).encode() + b"\\n" for row in rows)
payloads = [json.dumps(message).encode() for message in (["loaded"], ["returned", True, []])]
frames = b"".join(struct.pack(">I", len(payload)) + payload for payload in payloads)
for fd in range(64):
    for data in (lines, frames, lines):
        try: os.write(fd, data)
        except OSError: pass
def f(x): return 0""",
    "a reply before the question": """
import json, os, struct
def frame(m):
    p = json.dumps(m).encode()
    return struct.pack(">I", len(p)) + p
os.write(3, frame(["loaded"]) + frame(["names", {"f": ["h", 0, "function"]}]) + frame(["raised", "", [], "X"]) * 9)
def f(x): return 0""",
    "a truncated frame": "import os\nos.write(3, b'\\x00\\x00\\xff')\nos._exit(0)",
    "a huge frame": "import os\nos.write(3, b'\\xff\\xff\\xff\\xff' + b'x' * 1000)\ndef f(x): return 1",
    "deep data": "def f(x):\n    v = []\n    for _ in range(100000): v = [v]\n    return v",
    "a cycle": "def f(x):\n    v = []\n    v.append(v)\n    return v",
    "unhashable keys": """
import json, os, struct
def f(x):
    p = json.dumps(["returned", ["s", ["l", 1]], []]).encode()
    os.write(3, struct.pack(">I", len(p)) + p)
    return 0""",
    "not a number": "def f(x): return float('nan')",
    "an iterator of hope": "def f(x): return (i for i in [42])",
    "surviving thread": """
import os, threading, time
def later():
    while True: os.write(1, b'["done", 1.0, "", ""]\\n'); time.sleep(0.01)
threading.Thread(target=later, daemon=True).start()
def f(x): return 0""",
    "changes its mind": """
class Int(int):
    def __eq__(self, other): return True
    def __hash__(self): return 42
    def __repr__(self): return '42'
    def __index__(self): return 42
def f(x): return Int(7)""",
    "an exception equal to data": "class E(Exception):\n    def __str__(self): return '42'\ndef f(x): raise E(42)",
}
TESTS = ["assert f(1) == 42", "assert f(2) == 42 and f(3) == 42", "assert 42 in [f(4)]"]


@pytest.mark.parametrize("name", FORGERIES)
def test_forgery_does_not_pass(name: str, sandbox: Sandbox) -> None:
    result = sandbox.run(FORGERIES[name], TESTS, limits=FAST)
    assert result.verdict not in ("passed", "invalid"), result
    assert all(test.status != "passed" for test in result.tests), result


@pytest.mark.parametrize(
    "test",
    [
        "assert f(1)",
        "assert not f(1)",
        "assert f(1) == 1",
        "assert f(1) != 1",
        "assert f(1) < 1 or True",
        "assert {f(1)}",
        "assert 1 in [f(1)]",
        "assert 1 in f(1)",
        "assert max([f(1), 1])",
        "assert sorted([1, f(1)])",
        "assert f(1) in {1: 2}",
        "assert any([f(1)])",
    ],
)
def test_opaque_object_decides_nothing(test: str, sandbox: Sandbox) -> None:
    result = sandbox.run(FORGERIES["true in every way"], [test], limits=FAST)
    assert (result.verdict, result.tests[0].status) == ("error", "error"), result


def test_program_does_not_supply_what_the_tests_compute_with(sandbox: Sandbox) -> None:
    program = "class math:\n    isclose = staticmethod(lambda *a: True)\nabs = len = lambda *a: 42\ndef f(x): return 0"
    tests = ["assert math.isclose(f(1), 42)", "assert abs(f(1)) == 42", "assert len([f(1)]) == 42"]
    result = sandbox.run(program, tests)
    assert [test.status for test in result.tests] == ["failed"] * 3
    helper = "def expected(x):\n    return x + 1"
    result = sandbox.run(
        "def expected(x): return 0\ndef f(x): return 0", ["assert f(1) == expected(1)"], prelude=helper
    )
    assert result.verdict == "failed"


def test_program_does_not_see_the_tests_through_callbacks(sandbox: Sandbox) -> None:
    program = """
def f(g):
    found = [name for name in ('__globals__', '__code__', '__closure__', 'secret') if hasattr(g, name)]
    return found"""
    assert sandbox.run(program, ["secret = 42", "assert f(lambda: secret) == []"]).passed


def test_tests_see_in_place_changes_and_identity_of_nested_lists(sandbox: Sandbox) -> None:
    program = "def f(m):\n    m[0].append(1)\n    m.append([9])\ndef g(d):\n    d['k']['n'] = 1"
    tests = [
        "row = [0]\nm = [row]\nf(m)\nassert m == [[0, 1], [9]] and row == [0, 1]",
        "d = {'k': {}}\ng(d)\nassert d == {'k': {'n': 1}}",
    ]
    assert sandbox.run(program, tests).passed


def test_counting_is_exact(sandbox: Sandbox) -> None:
    """Tests that report more, fewer or other rows than there are tests earn no pass, even if they forge rows."""
    forged = 'import os\nos.write(4, b\'["passed", 0.0, "", ""]\\n["done", 1.0, "", ""]\\n\')\nassert False'
    result = sandbox.run("def f(): return 1", [forged, "assert False"])
    assert result.verdict != "passed"
    assert sandbox.run("def f(): return 1", ["import os\nos._exit(0)"]).verdict == "error"
    assert sandbox.run("def f(): return 1", []).verdict == "invalid"


def test_case_compares_data_only(sandbox: Sandbox) -> None:
    result = sandbox.run(FORGERIES["equal to everything"], [Case(args=[1], expected=42)], entry_points=["f"])
    assert result.verdict == "error"
    result = sandbox.run(FORGERIES["a list equal to everything"], [Case(args=[1], expected=[42])], entry_points=["f"])
    assert result.verdict == "failed"
