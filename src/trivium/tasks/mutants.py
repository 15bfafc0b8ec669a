"""Wrong programs near a right one: how much of what is wrong do a task's tests let pass?"""

import ast
import copy
from collections.abc import Iterator

from trivium.records import Task
from trivium.tasks.extract import open_function

_OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt,
    ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


def mutants(task: Task) -> list[str]:
    """Completions that differ from the reference solution in one place, each as a whole new definition.

    The standard mutation operators (DeMillo et al. 1978; Offutt 1996): an operator for its counterpart, a constant by
    one, a condition negated, a returned value for None. A mutant may by chance do the same as the solution.

    Returns:
        Distinct completions, in the order of the places; none where the task has no solution inside a function.
    """
    if not task.solution or open_function(task.prompt) is None:
        return []
    try:
        tree = ast.parse(task.prompt + task.solution)
    except SyntaxError:
        return []
    original, found = ast.unparse(tree), {}
    for mutant in _mutated(tree):
        source = ast.unparse(ast.fix_missing_locations(mutant))
        if source != original:
            found[f"    pass\n\n\n{source}\n"] = None
    return list(found)


def _mutated(tree: ast.Module) -> Iterator[ast.Module]:
    places = list(ast.walk(tree))
    for at, node in enumerate(places):
        for change in range(_changes(node)):
            mutant = copy.deepcopy(tree)
            _change(list(ast.walk(mutant))[at], change)
            yield mutant


def _changes(node: ast.AST) -> int:
    """How many mutants a place has."""
    match node:
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign():
            return type(node.op) in _OPERATORS
        case ast.Compare():
            return len(node.ops)
        case ast.Constant():
            return 1 if type(node.value) in (int, bool) else 0
        case ast.If() | ast.IfExp() | ast.While():
            return 1
        case ast.Return():
            return node.value is not None
        case _:
            return 0


def _change(node: ast.AST, change: int) -> None:
    match node:
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign():
            node.op = _OPERATORS[type(node.op)]()  # type: ignore[assignment]
        case ast.Compare():
            node.ops[change] = _OPERATORS[type(node.ops[change])]()  # type: ignore[call-overload]
        case ast.Constant():
            node.value = not node.value if isinstance(node.value, bool) else int(str(node.value)) + 1
        case ast.If() | ast.IfExp() | ast.While():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Return():
            node.value = ast.Constant(None)
