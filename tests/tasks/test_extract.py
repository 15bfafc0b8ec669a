import pytest

from trivium.records import Task
from trivium.tasks.extract import extract_completion, open_function, program
from trivium.tasks.ladder import generate_tasks

PROMPT = 'def solve(xs):\n    """Return the sum of xs."""\n'
BODY = "    return sum(xs)\n"


@pytest.mark.parametrize(
    ("text", "completion"),
    [
        (BODY, BODY),
        ("    return sum(xs)", "    return sum(xs)"),
        (BODY + "\n\ndef other(x):\n    return x\n", BODY),
        (BODY + "# end\nprint(solve([1]))\n", BODY),
        ("\n" + BODY + "\nclass A:\n    pass\n", "\n" + BODY),
        ("    ys = [\n1,\n]\n    return sum(xs)\nx = 1\n", "    ys = [\n1,\n]\n    return sum(xs)\n"),
        ('    s = """\na\n"""\n    return s\nx = 1\n', '    s = """\na\n"""\n    return s\n'),
        ("    return (\nx = 1\n", "    return (\n"),
        ("\treturn sum(xs)\r\nx = 1", "\treturn sum(xs)\n"),
        ("", ""),
        ("I do not know.", ""),
        ("def other():\n    pass\n", ""),
    ],
)
def test_body_ends_where_the_function_does(text, completion):
    assert extract_completion(PROMPT, text) == completion


def test_prompt_that_breaks_off_within_a_line_is_continued():
    assert extract_completion("def solve(xs):\n    return", " sum(xs)\nx = 1\n") == " sum(xs)\n"
    assert extract_completion("def solve(xs):\n    ", "return 1\nx = 1\n") == "return 1\n"


@pytest.mark.parametrize(
    "answer",
    [
        "Sure:\n```python\nreturn sum(xs)\n```\nThis adds them.",
        "```\n    return sum(xs)\n```",
        "Here it is.\n\n```python\ndef solve(xs):\n    return sum(xs)\n```\nand ```text```",
        "```python\nimport math\n\ndef add(a):\n    return sum(a)\n\ndef solve(numbers):\n    return add(numbers)\n```",
        "First a trial:\n```python\nsum([1])\n```\nThen:\n```python\ndef solve(v):\n    return sum(v)\n```",
        "def solve(v):\n    return sum(v)\n",
        "```python\nreturn sum(xs)",
    ],
)
def test_chat_answers_give_a_program_that_solves_the_task(answer):
    namespace = {}
    exec(PROMPT + extract_completion(PROMPT, answer), namespace)
    assert namespace["solve"]([1, 2, 3]) == 6


def test_other_prompts_take_the_fenced_block_or_the_text_up_to_the_next_example():
    question = "Write a function solve that adds a list."
    assert extract_completion(question, "Like so:\n```python\ndef solve(xs): ...\n```\nDone") == "def solve(xs): ...\n"
    docstring = '"""\nAdd a list.\nassert solve([1]) == 1\n"""\n'
    code = "def solve(xs):\n    return sum(xs)\n"
    assert extract_completion(docstring, code + '\n"""\nAdd another.\n"""\ndef f(): pass\n') == code + "\n"
    assert extract_completion(docstring, code + "assert solve([1]) == 1\n") == code
    assert extract_completion(docstring, code) == code


def test_reference_solutions_are_their_own_extraction():
    for task in generate_tasks(200, seed=5):
        assert extract_completion(task.prompt, task.solution) == task.solution


def test_open_function_names_the_function_a_prompt_ends_in():
    assert open_function(PROMPT) == "solve"
    assert open_function("import re\n\nasync def f():\n") == "f"
    assert open_function("def f():\n    return 1\n\nx = 1\n") is None
    assert open_function("Write a program.") is None


def test_program_leaves_out_a_prompt_in_plain_words():
    def task(prompt, setup=""):
        return Task(id="a", prompt=prompt, entry_point="solve", tests=("assert solve()",), setup=setup)

    assert program(task(PROMPT), BODY) == PROMPT + BODY
    assert program(task("Write solve.", "import math"), "x = 1\n") == "import math\n\nx = 1\n"
    assert program(task("Sort"), "x = 1\n") == "x = 1\n"
    assert program(task('"""\nSort.\n"""\n'), "x = 1\n") == '"""\nSort.\n"""\nx = 1\n'
