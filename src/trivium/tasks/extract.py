"""Which part of a model's raw answer is the completion, and the program that it makes."""

import ast
import re

from trivium.records import Task

_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_DEF = re.compile(r"^(?:async )?def (\w+)", re.MULTILINE)
_AFTER_PROGRAM = ('"""', "```", "assert ", "print(", "if __name__")
"""Lines with which a base model goes on to something else after a whole program."""


def extract_completion(task_prompt: str, text: str) -> str:
    """The completion within `text`: what, put after the prompt, makes the program.

    After a prompt that ends inside a function, the body: up to the first line that is not indented and does not
    belong to an open bracket or string. A chat answer's fenced code block counts instead of the prose around it; where
    it gives the whole function again, that definition replaces the prompt's.

    After any other prompt, the first fenced block, or the text up to where a new example begins.
    """
    text = text.replace("\r\n", "\n")
    function = open_function(task_prompt)
    if function is None:
        fenced = _FENCE.search(text)
        return fenced.group(1) if fenced else _whole_program(text)
    if not task_prompt.endswith("\n"):
        return _body(task_prompt, text, started=True)
    if _first_line(text)[:1] in (" ", "\t"):
        return _body(task_prompt, text, started=False)
    for code in (*_FENCE.findall(text), text):
        if any(name == function for name in _DEF.findall(code)):
            return f"    pass\n\n\n{code.strip()}\n"
    fenced = _FENCE.search(text)
    if fenced is None:
        return ""
    code = fenced.group(1)
    if _first_line(code)[:1] not in (" ", "\t"):
        code = "".join(f"    {line}" if line.strip() else line for line in code.splitlines(keepends=True))
    return _body(task_prompt, code, started=False)


def open_function(prompt: str) -> str | None:
    """Name of the function within which the prompt ends, None where it does not end inside one."""
    try:
        tree = ast.parse(prompt.rstrip() + "\n    pass\n")
    except (SyntaxError, ValueError):
        return None
    last = tree.body[-1] if tree.body else None
    return last.name if isinstance(last, ast.FunctionDef | ast.AsyncFunctionDef) else None


def program(task: Task, completion: str) -> str:
    """The program to run: set-up, prompt, completion. A prompt in plain words is no part of it."""
    head = f"{task.setup.rstrip()}\n\n" if task.setup.strip() else ""
    return head + (task.prompt if _is_code(task.prompt) else "") + completion


def _is_code(prompt: str) -> bool:
    if open_function(prompt) is not None:
        return True
    try:
        body = ast.parse(prompt).body
    except (SyntaxError, ValueError):
        return False
    # One plain word is Python too, but a name alone is no part of a program.
    return all(not isinstance(node, ast.Expr) or isinstance(node.value, ast.Constant) for node in body)


def _body(prompt: str, text: str, started: bool) -> str:
    """`text` up to the first line outside the function; `started` where its first line continues the prompt's last."""
    lines = text.splitlines(keepends=True)
    ends = [
        number
        for number, line in enumerate(lines)
        if line.strip() and line[0] not in " \t" and not (started and number == 0)
    ]
    for number in ends:
        body = "".join(lines[:number])
        if parses(prompt + body):
            return body.rstrip() + "\n" if body.strip() else ""
    return "".join(lines[: ends[0]] if ends else lines)


def _whole_program(text: str) -> str:
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if number and line.startswith(_AFTER_PROGRAM) and "".join(lines[:number]).strip():
            return "".join(lines[:number])
    return text


def parses(source: str) -> bool:
    """Whether a text is Python by its form; nothing of it runs."""
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")
