import ast
from collections import Counter

import pytest

from trivium.base.errors import ConfigError
from trivium.base.seeding import python_rng
from trivium.records import Task
from trivium.tasks.blueprints import FAMILIES, blueprints
from trivium.tasks.ladder import WEIGHTS, _discriminating, compositions, examples, generate_tasks

TASKS = generate_tasks(600, seed=1) + generate_tasks(200, seed=1, split="heldout")


def passes(program: str, task: Task) -> bool:
    namespace: dict[str, object] = {}
    try:
        exec(program + "\n".join(task.tests), namespace)
    except Exception:
        return False
    return True


def test_every_reference_solution_passes():
    wrong = [task.composition for task in TASKS if not passes(task.prompt + task.solution, task)]
    assert wrong == []


def test_tests_reject_nothing_the_input_and_any_constant():
    for task in TASKS:
        assert 5 <= len(task.tests) <= 8
        parameters = task.prompt[len("def solve(") : task.prompt.index(")")].split(", ")
        for body in ("pass", "return None", *(f"return {name}" for name in parameters)):
            assert not passes(f"{task.prompt}    {body}\n", task), (task, body)
        answers = Counter(test.split(" == ", 1)[1] for test in task.tests)
        assert len(answers) > 1, task
        constant = answers.most_common(1)[0][0]
        assert not passes(f"{task.prompt}    return {constant}\n", task)


class Mutations(ast.NodeTransformer):
    """Changes the n-th number in a body by one."""

    def __init__(self, target: int, by: int):
        self.target, self.by, self.seen = target, by, 0

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if type(node.value) is int and node.value > 2:  # smaller ones belong to operations such as x % 2 == 0
            self.seen += 1
            if self.seen - 1 == self.target:
                return ast.Constant(node.value + self.by)
        return node


def test_tests_reject_a_constant_that_is_off_by_one():
    changed = 0
    for task in TASKS:
        for target in range(2):
            for by in (-1, 1):
                change = Mutations(target, by)
                tree = change.visit(ast.parse(task.prompt + task.solution))
                if change.seen <= target or "** 3" in task.solution:
                    continue
                changed += 1
                assert not passes(ast.unparse(ast.fix_missing_locations(tree)) + "\n", task), (task, target, by)
    assert changed > 500


class WithoutFilters(ast.NodeTransformer):
    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        return ast.comprehension(node.target, node.iter, [], node.is_async)


def test_tests_reject_a_dropped_filter_and_a_dropped_map():
    filtered = mapped = 0
    for task in TASKS:
        tree = ast.parse(task.prompt + task.solution)
        for node in ast.walk(tree):
            if not isinstance(node, ast.GeneratorExp | ast.ListComp) or "for c in" in task.solution:
                continue
            source, item = ast.unparse(node), ast.unparse(node.generators[0].target)
            if node.generators[0].ifs:
                filtered += 1
                plain = ast.unparse(WithoutFilters().visit(ast.parse(source)))
                assert not passes(ast.unparse(tree).replace(source, plain) + "\n", task), task
            if ast.unparse(node.elt) != item:
                mapped += 1
                plain = source.replace(f"{ast.unparse(node.elt)} for", f"{item} for", 1)
                assert not passes(ast.unparse(tree).replace(source, plain) + "\n", task), task
    assert filtered > 150 and mapped > 150


def test_no_operation_is_pointless():
    """Every composition of every family has constants and inputs that show each of its operations."""
    for family in FAMILIES:
        for blueprint in blueprints(family):
            for index in range(2):
                constants, cases = _discriminating(python_rng(index, blueprint.composition), blueprint)
                assert len(constants) == len(blueprint.operations) and 5 <= len(cases) <= 8


def test_heldout_compositions_are_new_but_made_of_known_operations():
    train, heldout = compositions("train"), compositions("heldout")
    assert len(train) == len(set(train)) and not set(train) & set(heldout)
    assert 0.1 < len(heldout) / (len(train) + len(heldout)) < 0.2
    for family in FAMILIES:
        known = {name for text in compositions("train", [family]) for name in text.split(":")[1].split("/")}
        held = compositions("heldout", [family])
        assert held, family
        for composition in held:
            operations = composition.split(":")[1].split("/")
            assert len(operations) > 1 and known.issuperset(operations)
            assert f"{family}:{'/'.join(reversed(operations))}" not in train


def test_generated_splits_share_neither_composition_nor_solution():
    train = generate_tasks(2000, seed=3)
    heldout = generate_tasks(400, seed=3, split="heldout")
    assert not {task.composition for task in train} & {task.composition for task in heldout}
    assert not {task.prompt for task in train} & {task.prompt for task in heldout}
    assert not {task.solution for task in train} & {task.solution for task in heldout}
    assert {task.split for task in train} == {"train"} and {task.split for task in heldout} == {"heldout"}


def test_tasks_depend_on_seed_split_and_index_alone():
    assert generate_tasks(50, seed=7) == generate_tasks(80, seed=7)[:50]
    assert generate_tasks(20, seed=7) != generate_tasks(20, seed=8)
    assert len({task.id for task in TASKS}) == len(TASKS)
    first = generate_tasks(1, seed=7)[0]
    assert first.id == "ladder/train/7/0" and first.entry_point == "solve"


def test_prompts_repeat_only_when_a_family_runs_out():
    assert len({task.prompt for task in generate_tasks(1500, seed=2)}) == 1500
    guards = generate_tasks(100, seed=2, split="heldout", families=["guard"])
    assert len(guards) == 100 > len({task.prompt for task in guards})


def test_families_are_drawn_by_weight_and_by_name():
    counts = Counter(task.family for task in generate_tasks(1500, seed=4))
    assert set(counts) == set(FAMILIES) == set(WEIGHTS)
    for family, weight in WEIGHTS.items():
        assert counts[family] / 1500 == pytest.approx(weight / sum(WEIGHTS.values()), abs=0.05)
    only = generate_tasks(60, seed=4, families=["dict", "text"])
    assert {task.family for task in only} == {"dict", "text"}


def test_prompts_and_solutions_are_short_plain_text():
    for task in TASKS:
        text = task.prompt + task.solution
        assert text.isascii() and "$" not in text and "{x" not in task.prompt
        assert len(task.prompt) < 150 and len(task.solution) < 160 and text.endswith("\n")
        assert task.prompt.startswith("def solve(") and task.prompt.endswith('."""\n')
    loops = sum("for x in xs:" in task.solution for task in TASKS)
    assert 0.02 < loops / len(TASKS) < 0.2


def test_examples_are_prompt_and_solution():
    task = TASKS[0]
    example = examples([task])[0]
    assert (example.prompt, example.response) == (task.prompt, task.solution)
    assert (example.id, example.source) == (task.id, "ladder")


def test_wrong_names_are_told():
    with pytest.raises(ConfigError, match="'lists', which the ladder does not have. Known: arithmetic, text, list"):
        generate_tasks(1, seed=0, families=["lists"])
    with pytest.raises(ConfigError, match="split is 'test'"):
        generate_tasks(1, seed=0, split="test")  # pyright: ignore[reportArgumentType]
