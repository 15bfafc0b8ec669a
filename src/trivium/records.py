"""The text nouns that stages pass to one another. Formats on disk are described in docs/formats.md."""

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """Base of all records: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Document(Record):
    """One file or text of a corpus."""

    text: str
    source: str = ""
    """Name of the corpus source it came from."""
    language: str = ""
    """`python`, `english`, ...: by suffix or as given."""
    license: str = ""
    path: str = ""
    """Where it was read, for messages and manifests."""


class Message(Record):
    """One turn of a chat."""

    role: str
    content: str


class Example(Record):
    """A supervised pair: only the response carries loss."""

    prompt: str
    response: str
    id: str = ""
    source: str = ""


class Task(Record):
    """A coding task checked by execution. The program is `setup`, `prompt` + completion, then `tests`."""

    id: str
    prompt: str
    """What the model sees: signature and docstring, or a question."""
    entry_point: str
    """Name of the function that the tests call."""
    tests: tuple[str, ...]
    """Statements (asserts), each one test."""
    setup: str = ""
    """Trusted code that tests rely on."""
    solution: str = ""
    """Reference completion: what follows the prompt."""
    family: str = ""
    """Rung of the built-in ladder, or the benchmark's name."""
    composition: str = ""
    """What is composed, without constants and wording; train and held-out tasks share none."""
    split: str = "train"


class Completion(Record):
    """One sampled answer to a prompt."""

    text: str
    ids: tuple[int, ...] = ()
    finish: str = "stop"
    """`stop` (EOS was sampled), `length` (cap reached) or `error`."""
    passed: bool | None = None
    """Verdict of the task's tests, None where they were not run."""


class Preference(Record):
    """A judgement between two completions of one prompt."""

    prompt: str
    chosen: str
    rejected: str
    id: str = ""
    tie: bool = False
    margin: float | None = Field(default=None, ge=0)
    agreement: float | None = None
    """Share of annotators that agree with the judgement."""
    annotator: str = ""
    source: str = ""
    """Who judged: `execution`, `simulated`, `human`, a file's own source name, ..."""
    chosen_passed: bool | None = None
    rejected_passed: bool | None = None
    """Outcome labels where tests were run."""
