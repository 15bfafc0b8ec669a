"""What a person says about a comparison, how that becomes a judgement, and what the labelling page is set to."""

from typing import Any, Literal

from pydantic import Field, model_validator

from trivium.base.seeding import python_rng
from trivium.preferences.judgement import CHECK_SOURCE, Judgement, Prompt, Sample
from trivium.records import Record

LETTERS = "ABCDEFGHI"
"""Names of the sides, in the order shown."""
HUMAN = "human"
"""Source of people's judgements."""
Purpose = Literal["first", "repeat", "gold"]


class Criterion(Record):
    """One question beside the main one, answered in five steps from A to B."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")
    label: str = Field(min_length=1, max_length=60)
    required: bool = False


class LabelSettings(Record):
    """What an owner decides about the labelling page; each change is a new version."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of sides, order, overlap and repeats."""
    completions: int = Field(default=2, ge=2, le=9)
    """Answers a comparison; more than two are ranked."""
    much_better: bool = True
    """Offer `much better`, recorded as margin 2."""
    criteria: tuple[Criterion, ...] = (
        Criterion(name="correct", label="Correct"),
        Criterion(name="follows", label="Follows the prompt"),
        Criterion(name="readable", label="Readable"),
    )
    """Asked about pairs."""
    execution: Literal["never", "before", "on_demand", "after"] = "on_demand"
    """When the outcome of the tests is shown."""
    overlap_share: float = Field(default=0.1, ge=0, le=1)
    """Share of comparisons that several people judge."""
    overlap: int = Field(default=2, ge=2, le=20)
    """How many judge those."""
    repeat_share: float = Field(default=0.1, ge=0, le=0.5)
    """Share of assignments that show a pair again, sides swapped."""
    repeat_after: int = Field(default=10, ge=1)
    """Assignments that lie between a pair and its repeat, at least."""
    gold_share: float = Field(default=0.1, ge=0, le=0.5)
    """Share of assignments that are gold, as long as there is a gold comparison that the person has not seen."""
    lease_minutes: float = Field(default=15, gt=0, le=24 * 60)
    """How long a comparison is kept for the person it was given to."""
    order: Literal["random", "priority"] = "random"
    """`priority` asks first what R is least certain of; that biases the sample."""
    language: Literal["python", "text"] = "python"
    """How answers are highlighted."""
    play: bool = True
    """Offer the playground: people run the run's models, and programs in the sandbox, on this machine."""
    model_names: tuple[str, ...] = ()
    """Names that, found in an answer, mark its judgement as `unblinded`; the models in the store are added."""

    @model_validator(mode="after")
    def _names_are_distinct(self) -> "LabelSettings":
        names = [criterion.name for criterion in self.criteria]
        if len(set(names)) < len(names):
            raise ValueError("two criteria have the same name")
        return self

    def wanted(self, comparison: str) -> int:
        """How many people judge a comparison: a function of the seed and its name."""
        shared = python_rng(self.seed, "overlap", comparison).random() < self.overlap_share
        return self.overlap if shared else 1

    def arrangement(self, comparison: str, size: int, index: int) -> tuple[int, ...]:
        """The order in which the `index`-th person sees the answers.

        A seeded order, turned on by one place from person to person: each answer of a pair is left equally often.
        """
        order = list(range(size))
        python_rng(self.seed, "sides", comparison).shuffle(order)
        turn = index % size
        return tuple(order[turn:] + order[:turn])


class Vote(Record):
    """What a person chose; answers are numbered in the order shown."""

    choice: Literal["A", "B", "tie", "both_bad", "ranking"]
    ranking: tuple[tuple[int, ...], ...] = ()
    """For `ranking`: the answers in tiers, best first."""
    margin: Literal[1, 2] = 1
    """2: much better."""
    criteria: dict[str, int] = Field(default_factory=dict)
    """Name to −2 (A much more so) … 2 (B much more so)."""
    note: str = Field(default="", max_length=2000)
    unsafe: tuple[int, ...] = ()
    """Answers flagged as unsafe."""
    seconds: float | None = Field(default=None, ge=0, le=86400)
    """Time the page had the person's attention."""

    def tiers(self, size: int) -> tuple[tuple[int, ...], ...]:
        """The ranking of the answers shown.

        Raises:
            ValueError: the choice does not fit so many answers.
        """
        if self.choice == "ranking":
            if sorted(index for tier in self.ranking for index in tier) != list(range(size)):
                raise ValueError(f"a ranking names each of the {size} answers once")
            return self.ranking
        if size != 2:
            raise ValueError(f"{self.choice} is a choice between two answers; rank these {size}")
        return {"A": ((0,), (1,)), "B": ((1,), (0,))}.get(self.choice, ((0, 1),))


def check_criteria(vote: Vote, settings: LabelSettings, size: int) -> None:
    """Refuse criteria that are not asked, out of range, or missing though required.

    Raises:
        ValueError: names the criterion.
    """
    asked = {criterion.name: criterion for criterion in settings.criteria} if size == 2 else {}
    for name, step in vote.criteria.items():
        if name not in asked or not -2 <= step <= 2:
            raise ValueError(f"criterion {name!r} with step {step} is not among those asked")
    for name, criterion in asked.items():
        if criterion.required and name not in vote.criteria:
            raise ValueError(f"“{criterion.label}” needs an answer before the vote")
    if any(not 0 <= index < size for index in vote.unsafe):
        raise ValueError("an unsafe flag names no answer shown")


def judgement_of(
    vote: Vote,
    *,
    prompt: Prompt,
    completions: tuple[Sample, ...],
    arrangement: tuple[int, ...],
    comparison: str,
    assignment: str,
    annotator: str,
    purpose: Purpose,
    guidelines: int,
    execution_seen: bool,
    names: tuple[str, ...],
    supersedes: str = "",
) -> Judgement:
    """The judgement that a vote makes of the comparison's completions, in the comparison's own order.

    `details` holds what statistics and audits need: `choice`, `order` (the completions as shown, left to right),
    `criteria`, `unsafe`, `purpose`, `guidelines`, `execution_seen`, `seconds`, `assignment`, `unblinded`.
    """
    ranking = tuple(tuple(sorted(arrangement[shown] for shown in tier)) for tier in vote.tiers(len(completions)))
    details: dict[str, Any] = {
        "choice": vote.choice,
        "order": list(arrangement),
        "purpose": purpose,
        "guidelines": guidelines,
        "execution_seen": execution_seen,
        "assignment": assignment,
    }
    if vote.criteria:
        details["criteria"] = dict(sorted(vote.criteria.items()))
    if vote.unsafe:
        details["unsafe"] = sorted(arrangement[shown] for shown in vote.unsafe)
    if vote.seconds is not None:
        details["seconds"] = round(vote.seconds, 1)
    if any(name.lower() in sample.text.lower() for name in names for sample in completions):
        details["unblinded"] = True
    return Judgement(
        prompt=prompt,
        completions=completions,
        ranking=ranking,
        id=comparison,
        annotator=annotator,
        source=HUMAN if purpose == "first" else CHECK_SOURCE,
        margin=float(vote.margin) if vote.choice in ("A", "B") else None,
        comment=vote.note,
        details=details,
        supersedes=supersedes,
    )


def vote_of(judgement: Judgement) -> Vote:
    """The vote that made a judgement, answers numbered in the order shown: what an edit starts from."""
    details = judgement.details
    shown = {canonical: at for at, canonical in enumerate(details["order"])}
    ranking = tuple(tuple(sorted(shown[index] for index in tier)) for tier in judgement.ranking)
    return Vote(
        choice=details["choice"],
        ranking=ranking if details["choice"] == "ranking" else (),
        margin=2 if judgement.margin == 2 else 1,
        criteria=details.get("criteria", {}),
        note=judgement.comment,
        unsafe=tuple(sorted(shown[index] for index in details.get("unsafe", ()))),
        seconds=details.get("seconds"),
    )
