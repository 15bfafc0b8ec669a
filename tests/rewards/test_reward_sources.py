"""Each source by the numbers it must give."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trivium.base.chat_client import ChatConfig
from trivium.base.errors import ConfigError, StageFailed
from trivium.model import Scorer
from trivium.records import Task
from trivium.rewards import (
    Answers,
    ExecutionPart,
    FormatPart,
    FunctionPart,
    JudgePart,
    LengthPart,
    ModelPart,
    RewardModel,
    RewardPart,
    Tools,
)
from trivium.sandbox import Sandbox
from trivium.tokenizer import Tokenizer

ADD = Task(
    id="add", prompt="def add(a, b):\n", entry_point="add", tests=("assert add(1, 2) == 3", "assert add(2, 2) == 4")
)
ZERO = Task(id="zero", prompt="def zero():\n", entry_point="zero", tests=("assert zero() == 0",))


@pytest.fixture(scope="module")
def tools(make_scorer: Callable[..., Scorer]) -> Iterator[Tools]:
    tokenizer = Tokenizer.train(["def add(a, b):\n    return a + b\n"] * 4, vocab_size=280)
    model = RewardModel(make_scorer(vocab_size=tokenizer.vocab_size), tokenizer, 0.3, 2.5)
    with Sandbox(workers=1, minimum="limited") as sandbox:
        yield Tools(model, sandbox, seed=0)


def answers(tools: Tools, *given: tuple[Task, str]) -> Answers:
    tasks = list(dict.fromkeys(task for task, _ in given))
    tokenizer = tools.model.tokenizer
    return Answers(
        tasks,
        [tokenizer.encode(task.prompt) for task in tasks],
        [[*tokenizer.encode(text), tokenizer.eos_id] for _, text in given],
        [text for _, text in given],
        [tasks.index(task) for task, _ in given],
    )


def scores(part: RewardPart, tools: Tools, *given: tuple[Task, str]) -> list[float | None]:
    return part.open(tools).score(answers(tools, *given))


PROGRAMS = {
    "right": (ADD, "    return a + b\n"),
    "half right": (ADD, "    return 2 * a if a == b else 0\n"),
    "wrong": (ADD, "    return None\n"),
    "raises": (ADD, "    return a + undefined\n"),
    "does not compile": (ADD, "    return (\n"),
    "exits": (ADD, "    import os\n    os._exit(0)\n"),
}


@pytest.mark.parametrize(
    ("grading", "expected"),
    [
        ("binary", [1, 0, 0, 0, 0, 0]),
        ("graded", [1, -0.3, -0.3, -0.6, -1, -0.6]),
        ("share", [1, 0.35, -0.3, -0.6, -1, -0.6]),
    ],
)
def test_execution_grades_what_the_tests_say(tools: Tools, grading: Any, expected: list[float]) -> None:
    part = ExecutionPart(grading=grading)
    assert scores(part, tools, *PROGRAMS.values()) == pytest.approx(expected)


def test_tests_that_cannot_be_run_reward_nothing(tools: Tools) -> None:
    broken = ADD.model_copy(update={"id": "broken", "tests": ("this is no test",)})
    assert scores(ExecutionPart(), tools, (broken, "    return a + b\n"), (ZERO, "    return 0\n")) == [None, 1.0]


def test_the_model_scores_the_exact_ids_with_its_own_statistics(tools: Tools) -> None:
    given = answers(tools, PROGRAMS["right"], PROGRAMS["wrong"])
    expected = (tools.model.raw_scores(given.prompts, given.responses, given.prompt_of) - 0.3) / 2.5
    assert ModelPart().open(tools).score(given) == pytest.approx(expected.tolist())


def test_length_counts_tokens_from_the_target(tools: Tools) -> None:
    given = answers(tools, PROGRAMS["right"], PROGRAMS["wrong"])
    tokens = [len(ids) for ids in given.responses]
    assert LengthPart().open(tools).score(given) == [-float(count) for count in tokens]
    assert LengthPart(target=tokens[0]).open(tools).score(given) == [0.0, -float(abs(tokens[1] - tokens[0]))]


def test_format_is_a_pattern_or_python_that_parses(tools: Tools) -> None:
    texts = [(ADD, "    return a\n"), (ADD, "    return (\n"), (ADD, "    return a; b\n")]
    assert scores(FormatPart(), tools, *texts) == [1, 0, 1]
    assert scores(FormatPart(pattern=r" +return \w+\n"), tools, *texts) == [1, 0, 0]
    deep = [(ADD, f"    return {'(' * 5000}a{')' * 5000}\n")]
    assert scores(FormatPart(), tools, *deep) == [0]
    with pytest.raises(ConfigError, match=r"pattern of 'format', '\(', is no regular expression"):
        FormatPart(pattern="(").check()


def function(folder: Path, body: str) -> FunctionPart:
    (folder / "mine.py").write_text(f"def mine(prompts, completions, **fields):\n    {body}\n")
    return FunctionPart(path=f"{folder / 'mine.py'}:mine")


def test_a_function_gets_what_it_needs_and_its_numbers_count(tools: Tools, tmp_path: Path) -> None:
    body = "return [None if 'None' in c else len(p) + len(i) + len(t['tests']) for p, c, i, t in "
    part = function(tmp_path, body + "zip(prompts, completions, fields['completion_ids'], fields['tasks'])]")
    given = answers(tools, PROGRAMS["right"], PROGRAMS["wrong"], (ZERO, "    return 0\n"))
    ids = given.responses
    expected = [len(ADD.prompt) + len(ids[0]) + 2, None, len(ZERO.prompt) + len(ids[2]) + 1]
    assert part.open(tools).score(given) == expected
    assert part.label == "mine" and part.inputs == {"reward mine": tmp_path / "mine.py"}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("raise KeyError('x')", "raised KeyError: 'x'"),
        ("return [1]", "returned 1 numbers for 2 completions"),
        ("return [1, float('nan')]", "returned nan"),
        ("return 3", "raised TypeError"),
        ("return ['a', 'b']", "raised ValueError"),
    ],
)
def test_a_function_that_is_wrong_is_named(tools: Tools, tmp_path: Path, body: str, problem: str) -> None:
    with pytest.raises(StageFailed, match=rf"the reward function 'mine' {problem}"):
        scores(function(tmp_path, body), tools, PROGRAMS["right"], PROGRAMS["wrong"])


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "it must be file.py:function"),
        ("mine.py", "it must be file.py:function"),
        ("nowhere.py:mine", "there is no file"),
        ("mine.txt:mine", "is no Python file"),
        ("mine.py:other", "holds no function 'other'"),
        ("broken.py:mine", "cannot be loaded: SyntaxError"),
    ],
)
def test_a_function_that_is_not_there_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {"mine.py": "mine = len", "mine.txt": "mine = len", "broken.py": "def"}.items():
        Path(name).write_text(text)
    with pytest.raises(ConfigError, match=problem):
        FunctionPart(path=path).check()
    FunctionPart(path="mine.py:mine").check()


def test_a_judge_grades_and_what_it_does_not_grade_is_left_out(tools: Tools, chat_server: Any) -> None:
    def reply(request: dict[str, Any]) -> str:
        asked = request["messages"][-1]["content"]
        if "None" in asked:
            return "I would rather not."
        return json.dumps({"grade": 7 if "a + b" in asked else 99})

    url, requests = chat_server(reply)
    part = JudgePart(server=ChatConfig(url=url, model="m", tries=1))
    source = part.open(tools)
    given = answers(tools, PROGRAMS["right"], PROGRAMS["wrong"], (ZERO, "    return 0\n"), PROGRAMS["right"])
    assert source.score(given) == [7.0, None, 10.0, 7.0]
    assert len(requests) == 3, "the same question is asked once"
    assert source.score(given.take([0])) == [7.0] and len(requests) == 3
    with pytest.raises(StageFailed, match=r"the judge 'judge' graded none of 1 responses: m gave no grade but"):
        source.score(given.take([1]))


def test_a_judge_without_a_server_is_told(tools: Tools) -> None:
    with pytest.raises(ConfigError, match="rl.rewards: .judge.: the chat server.s model is empty"):
        JudgePart().check()
    part = JudgePart(server=ChatConfig(url="http://127.0.0.1:9/v1", model="m", tries=1))
    with pytest.raises(StageFailed, match="graded none of 1"):
        scores(part, tools, PROGRAMS["right"])


def test_labels_default_to_the_kind() -> None:
    assert (LengthPart().label, LengthPart(name="brevity").label) == ("length", "brevity")
    assert math.isclose(LengthPart(weight=-0.5).weight, -0.5)
