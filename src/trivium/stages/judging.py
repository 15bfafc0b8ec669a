"""Sampling completions of tasks and running their tests: what collection, hooks and evaluation share."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trivium.base.ranks import shared
from trivium.base.seeding import derive_seed
from trivium.generation import Sample, generate
from trivium.model import Decoder
from trivium.records import Task
from trivium.sandbox import Sandbox
from trivium.tasks.check import Outcome, check_completions
from trivium.tasks.extract import extract_completion
from trivium.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answer:
    """One sampled answer to a task."""

    task: Task
    sample: Sample
    text: str
    """As decoded."""
    outcome: Outcome | None = None


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """[bos] and the prompt's ids: what the model sees before it answers."""
    return ([] if tokenizer.bos_id is None else [tokenizer.bos_id]) + tokenizer.encode(prompt)


def encode_answer(tokenizer: Tokenizer, text: str, ids: Sequence[int] = ()) -> list[int]:
    """An answer's ids: as they were sampled, or of imported text with the end token."""
    return list(ids) if ids else [*tokenizer.encode(text), tokenizer.eos_id]


def answer_tasks(
    model: Decoder,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    *,
    samples: int,
    seed: int,
    purpose: str,
    max_new_tokens: int,
    temperature: float = 1.0,
    batch_size: int = 256,
) -> list[Answer]:
    """`samples` answers a task, contiguous by task; each a function of (seed, purpose, task, sample)."""
    prompts = [encode_prompt(tokenizer, task.prompt) for task in tasks]
    drawn = generate(
        model,
        [prompt for prompt in prompts for _ in range(samples)],
        seeds=[derive_seed(seed, purpose, task.id, index) for task in tasks for index in range(samples)],
        max_new_tokens=max_new_tokens,
        stop_ids=[tokenizer.eos_id],
        temperature=temperature,
        batch_size=batch_size,
    )
    owners = [task for task in tasks for _ in range(samples)]
    texts = tokenizer.decode_batch([sample.ids for sample in drawn])
    return [Answer(*each) for each in zip(owners, drawn, texts, strict=True)]


def judge_answers(answers: Sequence[Answer], sandbox: Sandbox) -> list[Answer]:
    """The same answers with their tests' outcomes."""
    tasks = [answer.task for answer in answers]
    programs = [extract_completion(answer.task.prompt, answer.text) for answer in answers]
    outcomes = check_completions(tasks, programs, sandbox)
    return [
        Answer(answer.task, answer.sample, answer.text, outcome)
        for answer, outcome in zip(answers, outcomes, strict=True)
    ]


def answer_and_judge(
    model: Decoder, tokenizer: Tokenizer, tasks: Sequence[Task], sandbox: Sandbox, *, samples: int, **settings: Any
) -> list[Answer]:
    """`judge_answers` of `answer_tasks`, every rank for its share of the tasks; all ranks get all answers.

    Args:
        settings: the rest of what `answer_tasks` takes.
    """

    def work(mine: list[int]) -> list[list[dict[str, Any]]]:
        own = [tasks[index] for index in mine]
        answers = judge_answers(answer_tasks(model, tokenizer, own, samples=samples, **settings), sandbox)
        plain = [
            asdict(answer.sample) | {"text": answer.text, "outcome": asdict(answer.outcome) if answer.outcome else None}
            for answer in answers
        ]
        return [plain[at : at + samples] for at in range(0, len(plain), samples)]

    def judged(task: Task, plain: dict[str, Any]) -> Answer:
        text, outcome = plain.pop("text"), plain.pop("outcome")
        return Answer(task, Sample(**plain), text, Outcome(**outcome) if outcome else None)

    groups = shared(len(tasks), work)
    return [judged(task, plain) for task, group in zip(tasks, groups, strict=True) for plain in group]


def pass_share(answers: Sequence[Answer]) -> float | None:
    """Share of answers that pass, among those whose tests could be run."""
    passed = [answer.outcome.passed for answer in answers if answer.outcome and answer.outcome.passed is not None]
    return sum(passed) / len(passed) if passed else None
