"""What makes working Python untidy, counted on its syntax tree."""

import ast
import builtins
from collections.abc import Iterator

_LEAVES_BLOCK = (ast.Return, ast.Raise, ast.Break, ast.Continue)
_BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_"))


def code_defects(source: str) -> tuple[str, ...]:
    """The kinds of untidiness in a Python program, one entry per occurrence, sorted.

    Kinds: `bare_except`, `constant_test` (`if True`), `equals_constant` (`== None`), `idle_statement` (a `pass` or
    constant that does nothing), `repeated_statement`, `self_assignment`, `shadowed_builtin`, `top_level_call`,
    `unreachable`, `unused_import`, `unused_local`; `unparsed` when the source is no Python. Prompts count too, so
    compare programs of one prompt only.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ("unparsed",)
    found = [defect for node in ast.walk(tree) for defect in _node_defects(node)]
    found.extend("top_level_call" for node in tree.body if isinstance(node, ast.Expr) and _is_call(node.value))
    loaded = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    found.extend("unused_import" for name in _imported(tree) if name not in loaded)
    return tuple(sorted(found))


def _node_defects(node: ast.AST) -> Iterator[str]:
    for block in ("body", "orelse", "finalbody"):
        statements = getattr(node, block, None)
        if isinstance(statements, list) and statements and isinstance(statements[0], ast.stmt):
            yield from _block_defects(statements)
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from _unused_locals(node)
        case ast.ExceptHandler(type=None):
            yield "bare_except"
        case ast.If(test=ast.Constant()):
            yield "constant_test"
        case ast.Compare(ops=operators, comparators=values):
            for operator, value in zip(operators, values, strict=True):
                if isinstance(operator, ast.Eq | ast.NotEq) and _is_singleton(value):
                    yield "equals_constant"
        case ast.Name(id=name, ctx=ast.Store()) if name in _BUILTINS:
            yield "shadowed_builtin"
        case ast.Assign(targets=[target], value=value) if _same(target, value):
            yield "self_assignment"


def _block_defects(statements: list[ast.stmt]) -> Iterator[str]:
    for index, statement in enumerate(statements):
        docstring = index == 0 and isinstance(statement, ast.Expr) and _is_text(statement.value)
        if index and isinstance(statements[index - 1], _LEAVES_BLOCK):
            yield "unreachable"
        elif index and _same(statement, statements[index - 1]):
            yield "repeated_statement"
        elif not docstring and len(statements) > 1 and _is_idle(statement):
            yield "idle_statement"


def _unused_locals(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    used = {node.id for node in names if not isinstance(node.ctx, ast.Store)}
    outer = {name for node in ast.walk(function) if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}
    # A loop over range(n) has to name its counter, so only plain assignments count.
    assigned = {
        target.id
        for node in _own_nodes(function)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    yield from ("unused_local" for name in assigned - used - outer if not name.startswith("_"))


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a function's own scope: those of functions and classes inside it are theirs."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield node
            yield from _own_nodes(node)


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield (alias.asname or alias.name).split(".")[0]


def _is_idle(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _is_singleton(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and (value.value is None or isinstance(value.value, bool))


def _is_call(value: ast.expr) -> bool:
    return isinstance(value, ast.Call)


def _same(one: ast.AST, other: ast.AST) -> bool:
    return ast.unparse(one) == ast.unparse(other)
