"""Whatever arrives on a descriptor from program or checker: no crash of the host, no pass that was not earned."""

import contextlib
import json
import random
import socket
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sandbox_host import FAST

from trivium.sandbox import Job, Limits, Sandbox
from trivium.sandbox.jail import wire
from trivium.sandbox.jail.link import Handle, Link, ProgramGone
from trivium.sandbox.verdict import Outcome, compose

SHORT = Limits(wall_seconds=0.2, cpu_seconds=0.2)
"""For programs and checkers that may wait for each other for ever."""
FEW = settings(max_examples=150, deadline=None)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
tags = st.sampled_from([*"ltsfdOCibcrTqaDenFwhmvk"])
trees = st.recursive(
    st.none() | st.integers(-3, 3) | st.text(max_size=3) | st.just(["h", 0, "function"]),
    lambda inner: st.tuples(tags, inner) | st.tuples(tags, inner, inner) | st.tuples(tags, st.integers(), inner, inner),
    max_leaves=6,
)
exceptions = st.sampled_from(
    ["ValueError", "KeyError", "AssertionError", "StopIteration", "SystemExit", "KeyboardInterrupt", "Exception"]
    + ["UnicodeDecodeError", "BaseException", "ExceptionGroup", "GeneratorExit", "type", "print", "X"]
)
messages = st.one_of(
    anything,
    st.tuples(st.just("returned"), trees, st.lists(st.tuples(st.integers(-2, 3), trees), max_size=2) | anything),
    st.tuples(st.just("raised"), exceptions, st.lists(trees, max_size=3), exceptions),
    st.tuples(st.just("names"), st.dictionaries(st.sampled_from(["f", "g"]), trees) | anything),
    st.tuples(st.just("call"), st.integers(-2, 2) | anything, trees, trees),
    st.sampled_from([["loaded"], ["ready"], ["stopped"], ["returned"], []]),
)


def frame(message: Any) -> bytes:
    payload = json.dumps(message).encode()
    return struct.pack(">I", len(payload)) + payload


streams = st.one_of(
    st.binary(max_size=60),
    st.lists(messages.map(frame), max_size=6).map(b"".join),
    st.tuples(st.lists(messages.map(frame), max_size=3).map(b"".join), st.binary(max_size=20)).map(b"".join),
)


# ---------------------------------------------------------------- what the host reads from the checker

rows = st.tuples(
    st.sampled_from(["passed", "passed", "passed", "failed", "error", "done", "other"]) | anything,
    st.sampled_from([0.0, 1, 2, 3.0, "2", float("inf"), None]) | anything,
    st.sampled_from(["", "exit", "memory", "load", "opaque"]) | anything,
    st.text(max_size=3) | anything,
)
reports = st.one_of(
    st.binary(max_size=80),
    st.lists((rows | anything).map(lambda row: json.dumps(row).encode() + b"\n"), max_size=5).map(b"".join),
    st.integers(0, 3).flatmap(
        lambda n: st.tuples(
            st.just(b'["passed", 0.1, "", ""]\n' * n),
            (rows | st.just(("done", float(n), "", ""))).map(lambda row: json.dumps(row).encode() + b"\n"),
        ).map(b"".join)
    ),
)


def earned(frames: bytes, expected: int) -> bool:
    """Exactly so many passed rows and their number, each line in the one form that the checker writes."""
    lines = [json.loads(line) for line in frames.split(b"\n")[: expected + 1]]
    return all(line[0] == "passed" for line in lines[:expected]) and lines[expected][0] == "done"


@FEW
@given(
    reports,
    st.integers(0, 3),
    st.sampled_from(["", "", "", "wall", "cpu", "threads"]),
    st.sampled_from([None, 0, 9, 31, 256]),
    st.sampled_from([0, 0, 0, None, 9, 256, 18176]),
)
def test_any_report_gives_a_verdict_and_only_an_exact_one_a_pass(
    frames: bytes, expected: int, cause: str, program: int | None, checker: int | None
) -> None:
    account = {"cause": cause, "program": program, "checker": checker, "wall": 0.1, "cpu": 0.1, "rss": 1}
    result = compose(Outcome(account, frames), expected, Limits(), "jailed")
    assert len(result.tests) <= expected
    if result.passed:
        assert expected >= 1 and not cause and checker == 0 and earned(frames, expected)


# ---------------------------------------------------------------- what the checker reads from the program


def answering(data: bytes, use: Callable[[Link], Any]) -> Any:
    """The outcome of `use` with a program that says `data` and then nothing more."""
    near, far = socket.socketpair()
    with near, far:
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)
        return use(Link(near.fileno()))


@FEW
@given(streams)
def test_any_stream_is_frames_or_an_end(data: bytes) -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(data)
        far.close()
        with contextlib.suppress(EOFError, wire.WireError):
            while True:
                wire.receive(near.fileno())


@FEW
@given(streams)
def test_any_answer_is_data_a_handle_or_an_ordinary_exception(data: bytes) -> None:
    """No answer stops the checker, passes for its own assertions, or ends its loops."""

    def use(link: Link) -> None:
        function = Handle(link, 0, "function")
        actions: list[Callable[[], Any]] = [
            lambda: link.names(["f", "g"]),
            lambda: function([1], key=[2]),
            lambda: function(lambda: [1]),
            lambda: function.attribute,
            lambda: str(function),
        ]
        for action in actions:
            try:
                found = action()
            except ProgramGone:
                return
            except Exception as error:
                assert not isinstance(error, AssertionError | StopIteration | StopAsyncIteration), error
            else:
                assert isinstance(found, Handle) or type(found).__module__ in KNOWN, type(found)

    answering(data, use)


KNOWN = {"builtins", "collections", "datetime", "decimal", "fractions"}


# ---------------------------------------------------------------- the whole way


def test_random_bytes_on_any_descriptor_earn_no_pass(sandbox: Sandbox) -> None:
    """Programs that write well-formed and ill-formed frames at every moment; the answer they seek is not to guess."""
    rng = random.Random(0)
    pieces = [
        frame(["loaded"]),
        frame(["ready"]),
        frame(["names", {"f": ["h", 0, "function"]}]),
        frame(["returned", True, []]),
        frame(["returned", ["h", 0, "X"], []]),
        frame(["returned", ["m", 0, "Match"], []]),
        frame(["returned", ["v", 0, "int", 42], []]),
        frame(["raised", "AssertionError", [], "AssertionError"]),
        frame(["raised", "SystemExit", [0], "SystemExit"]),
        frame(["call", 0, ["t"], ["d"]]),
        frame(["stopped"]),
        b'["passed", 0.0, "", ""]\n["done", 1.0, "", ""]\n',
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\5hello",
    ]
    jobs, answers = [], []
    for _ in range(40):
        early, late = (b"".join(rng.choices(pieces, k=rng.randrange(4))) for _ in range(2))
        place = rng.choice([1, 3, 3, 3, 4])
        cut = rng.randrange(len(late) + 1)
        answers.append(f"{rng.getrandbits(64):x}")
        program = (
            f"import os\ndef say(data):\n    try: os.write({place}, data)\n    except OSError: pass\n"
            f"say({early!r})\ndef f(x):\n    say({late[:cut]!r})\n    return x"
        )
        test = f"assert f(1) == '{answers[-1]}'"
        jobs.append(Job(program, [test, test], entry_points=["f"], limits=SHORT))
    for job, result in zip(jobs, sandbox.run_many(jobs), strict=True):
        assert result.verdict not in ("passed", "invalid"), (job.program, result)
        assert all(test.status != "passed" for test in result.tests), (job.program, result)


def test_random_bytes_from_tests_never_break_the_host(sandbox: Sandbox) -> None:
    """Tests hold the checker's descriptor; what they write there must not disturb other programs or the count."""
    rng = random.Random(1)
    jobs = []
    for _ in range(30):
        rubbish = bytes(rng.choices(b'[]{}",0\n\xff\\x"passed""done"', k=rng.randrange(1, 40)))
        jobs.append(Job("f = 1", [f"import os\nos.write(4, {rubbish!r})\nassert False", "pass"], limits=FAST))
    verdicts = {result.verdict for result in sandbox.run_many(jobs)}
    assert verdicts <= {"error", "failed"}
    assert sandbox.run("f = 1", ["assert f == 1"]).passed
