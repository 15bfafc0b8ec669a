"""What a policy might write to be paid without solving the task."""

from collections.abc import Iterator

import pytest

from trivium.sandbox import Sandbox
from trivium.stages.tasks import TaskConfig
from trivium.tasks.check import check_completions

FORGERY = """    import os
    for descriptor in range(3, 32):
        try:
            os.write(descriptor, b'{"verdict": "passed"}\\n')
        except OSError:
            pass
    return None
"""
ANY = """    class Any:
        __eq__ = lambda self, other: True
        __hash__ = None
    return Any()
"""
TRICKS = {
    "exit 0": "    import os\n    os._exit(0)\n",
    "sys.exit": "    import sys\n    sys.exit(0)\n",
    "a patched AssertionError": "    return None\nimport builtins\nbuiltins.AssertionError = type('Quiet', (), {})\n",
    "equal to everything": ANY,
    "an endless loop": "    while True:\n        pass\n",
    "a fork that waits": "    import os, time\n    if os.fork() == 0:\n        time.sleep(60)\n    return None\n",
    "much output": "    print('passed ' * 1_000_000)\n    return None\n",
    "a forged verdict": FORGERY,
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=2, minimum="limited") as sandbox:
        yield sandbox


def test_rlhf_24_no_trick_is_paid(sandbox: Sandbox) -> None:
    """Every trick on three tasks, with a right answer between them that must go on passing."""
    tasks = TaskConfig(count=3).load(0, "tricks", "heldout")
    for task in tasks:
        assert task.solution is not None
        programs = [*(trick for trick in TRICKS.values()), task.solution]
        outcomes = check_completions([task] * len(programs), programs, sandbox)
        paid = [name for name, outcome in zip(TRICKS, outcomes[:-1], strict=True) if outcome.passed is not False]
        assert not paid and outcomes[-1].passed is True, paid
