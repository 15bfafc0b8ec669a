"""The truth beside the reward: tests that are run to measure, of which the policy learns nothing."""

from collections.abc import Sequence
from typing import Any

from trivium.base.ranks import shared
from trivium.base.seeding import python_rng
from trivium.generation import Sample
from trivium.records import Task
from trivium.rewards import RewardPart
from trivium.rewards.execution import ExecutionPart, visible_part
from trivium.rl.rollout import Rollout
from trivium.sandbox import Sandbox
from trivium.tasks.check import check_completions
from trivium.tasks.extract import extract_completion
from trivium.tasks.mutants import mutants
from trivium.tokenizer import Tokenizer

MUTATED_TASKS = 64
MUTANTS_A_TASK = 8


class Gold:
    """Runs all tests of some answers.

    Args:
        rewards: what is maximised; where it holds the tests, their verdicts are used again.
        responses: of each rollout, how many are tested.
    """

    def __init__(self, rewards: Sequence[RewardPart], responses: int, tokenizer: Tokenizer, sandbox: Sandbox):
        self.tokenizer, self.sandbox, self.responses = tokenizer, sandbox, responses
        self.execution = next((part for part in rewards if isinstance(part, ExecutionPart)), None)

    def verdicts(self, tasks: Sequence[Task], responses: Sequence[Sequence[int]]) -> list[bool | None]:
        """Whether each response passes all tests of its task; None where they could not be run."""
        texts = self.tokenizer.decode_batch(responses)
        programs = [extract_completion(task.prompt, text) for task, text in zip(tasks, texts, strict=True)]
        return [outcome.passed for outcome in check_completions(tasks, programs, self.sandbox)]

    def of_rollout(self, rollout: Rollout, tasks: Sequence[Task]) -> dict[str, float]:
        """`gold/mean` and `gold/n`; with hidden tests also `hack/rate` and `hack/n`.

        `hack/rate` is the share that fails a hidden test among the tested answers that pass the visible ones.
        """
        rewarded = None if self.execution is None else rollout.parts[self.execution.label]
        if rewarded is not None and self.execution is not None and not self.execution.hidden:
            known = (rewarded[~rewarded.isnan()] == 1.0).tolist()  # 1 is a pass, whatever the grading
            return {"gold/mean": sum(known) / len(known), "gold/n": len(known)} if known else {}
        rows = _spread(len(rollout.responses), self.responses)

        def run(mine: list[int]) -> list[bool | None]:
            chosen = [rows[at] for at in mine]
            owners = [tasks[rollout.prompt_of[row]] for row in chosen]
            return self.verdicts(owners, [rollout.responses[row] for row in chosen])

        passed = {
            row: verdict for row, verdict in zip(rows, shared(len(rows), run), strict=True) if verdict is not None
        }
        figures = {"gold/mean": sum(passed.values()) / len(passed), "gold/n": len(passed)} if passed else {}
        if rewarded is not None:
            paid = [row for row in passed if rewarded[row] == 1.0]
            figures["hack/n"] = len(paid)
            if paid:
                figures["hack/rate"] = sum(not passed[row] for row in paid) / len(paid)
        return figures

    def of_samples(self, tasks: Sequence[Task], samples: Sequence[Sample]) -> dict[str, float]:
        """`heldout/gold` and `heldout/gold_n`: the share of samples that pass, of how many. One process measures."""
        found = self.verdicts(tasks, [sample.ids for sample in samples])
        known = [verdict for verdict in found if verdict is not None]
        return {"heldout/gold": sum(known) / len(known), "heldout/gold_n": len(known)} if known else {}

    def of_mutants(self, tasks: Sequence[Task], seed: int) -> dict[str, Any]:
        """What the tests of some tasks let pass among wrong programs near their solutions: an upper bound.

        Returns:
            `n` mutants of `tasks` tasks, `paid` that pass the tests which the reward sees, `passed` that pass all.
            A mutant may do the same as the solution, so neither is expected to be 0. Empty without solutions.
        """
        hidden = self.execution.hidden if self.execution is not None else 0.0
        owners, programs = [], []
        for task in tasks[:MUTATED_TASKS]:
            made = mutants(task)
            chosen = python_rng(seed, "mutants", task.id).sample(made, min(len(made), MUTANTS_A_TASK))
            owners += [task] * len(chosen)
            programs += chosen
        if not programs:
            return {}
        visible = [visible_part(task, hidden) for task in owners]
        paid = [outcome.passed is True for outcome in check_completions(visible, programs, self.sandbox)]
        passed = [outcome.passed is True for outcome in check_completions(owners, programs, self.sandbox)]
        return {
            "n": len(programs),
            "tasks": len({task.id for task in owners}),
            "paid": sum(paid),
            "passed": sum(passed),
        }


def _spread(count: int, wanted: int) -> list[int]:
    """So many indices below `count`, evenly."""
    wanted = min(wanted, count)
    return [index * count // wanted for index in range(wanted)] if wanted else []
