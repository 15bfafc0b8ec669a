"""Training groups for a reward model: one prompt's distinct answers with tiers and outcomes."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trivium.base.errors import DataError
from trivium.base.seeding import python_rng
from trivium.preferences.dialects import parse_record
from trivium.preferences.fields import FieldError
from trivium.preferences.judgement import Judgement, Sample, prompt_text
from trivium.preferences.store import PreferenceStore
from trivium.records import Preference


@dataclass(frozen=True)
class RankedPrompt:
    """Distinct, non-empty answers to one prompt, all of them comparable: each is forwarded once, all pairs count."""

    prompt: str
    completions: tuple[Sample, ...]
    tiers: tuple[int, ...]
    """One per completion: 0 is best, every number up to the largest occurs, equal numbers are ties."""
    source: str = ""
    id: str = ""
    """The prompt's own name; names are equal where the prompts are."""
    margin: float | None = None
    weight: float = 1.0
    """1, or 1/n where n judgements on shared answers do not make one ranking and stay n groups."""

    @property
    def passed(self) -> tuple[bool | None, ...]:
        """Per completion, whether its tests pass; None where they were not run."""
        return tuple(sample.passed for sample in self.completions)

    @property
    def labels(self) -> tuple[bool | None, ...]:
        """Outcomes for a per-token loss: `passed`; where unknown, True in the best tier and False in the worst."""
        worst = max(self.tiers)
        sides = [None if worst == 0 or 0 < tier < worst else tier == 0 for tier in self.tiers]
        return tuple(side if passed is None else passed for side, passed in zip(sides, self.passed, strict=True))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(better, worse) indices of every ordered pair; ties give none."""
        span = range(len(self.tiers))
        return tuple((i, j) for i in span for j in span if self.tiers[i] < self.tiers[j])


def ranked_from_store(
    store: PreferenceStore,
    split: str | None = None,
    source: str | None = None,
    round: int | None = None,
    *,
    max_completions: int | None = None,
    seed: int = 0,
    keep_ties: bool = False,
    counts: Counter[str] | None = None,
) -> list[RankedPrompt]:
    """Training groups of the judgements in force, repeats and gold left out; see `ranked_prompts`."""
    judgements = (stored.judgement for stored in store.training_judgements(split, source, round))
    return ranked_prompts(judgements, max_completions=max_completions, seed=seed, keep_ties=keep_ties, counts=counts)


def ranked_from_records(
    records: Iterable[Mapping[str, Any] | Preference | Judgement],
    *,
    max_completions: int | None = None,
    seed: int = 0,
    keep_ties: bool = False,
    counts: Counter[str] | None = None,
) -> list[RankedPrompt]:
    """Training groups of `{"prompt", "chosen", "rejected"}` records, or any other form that files may have.

    Raises:
        DataError: names the record by its number, from 1, and the field.
    """
    judgements: list[Judgement] = []
    for number, record in enumerate(records, start=1):
        if isinstance(record, Judgement):
            judgements.append(record)
            continue
        try:
            value = record.model_dump() if isinstance(record, Preference) else dict(record)
            judgements.extend(parse_record(value).judgements)
        except FieldError as error:
            raise DataError(f"preference {number}: {error}. Correct or leave out the record.") from None
        except (TypeError, ValueError):
            raise DataError(f"preference {number} is a {type(record).__name__}; give dicts or Preferences.") from None
    return ranked_prompts(judgements, max_completions=max_completions, seed=seed, keep_ties=keep_ties, counts=counts)


def ranked_prompts(
    judgements: Iterable[Judgement],
    *,
    max_completions: int | None = None,
    seed: int = 0,
    keep_ties: bool = False,
    counts: Counter[str] | None = None,
) -> list[RankedPrompt]:
    """Turn judgements into training groups, as few per prompt as the judgements allow.

    Judgements of one prompt and source become one group wherever they agree on a full ranking; answers that were
    never compared, and contradictions, keep their judgements apart; where these share answers, they share one weight.

    Args:
        judgements: any number per prompt, in any order; groups come in the order in which prompts first occur.
        max_completions: keep at most so many answers per group, passing and failing in balance.
        seed: decides which of them.
        keep_ties: keep groups without any ordered pair (for outcome losses).
        counts: told under `empty` and `equal` which answers and under `unordered` which groups were left out.
    """
    counts = Counter() if counts is None else counts
    by_prompt: dict[tuple[Hashable, ...], list[RankedPrompt]] = {}
    for judgement in judgements:
        group = _group(judgement, counts)
        if group is not None:
            by_prompt.setdefault((group.prompt, group.source, group.margin), []).append(group)
    result: list[RankedPrompt] = []
    for groups in by_prompt.values():
        merged = [limit(group, max_completions, seed) for group in merge(groups)]
        kept = [group for group in merged if keep_ties or group.pairs]
        counts["unordered"] += len(merged) - len(kept)
        result.extend(kept)
    return result


def deduplicate(
    group: RankedPrompt, key: Callable[[Sample], Hashable], counts: Counter[str] | None = None
) -> RankedPrompt | None:
    """Keep one of the answers that `key` cannot tell apart, e.g. token ids after truncation.

    Equal answers in different tiers say nothing that can be learned: all of them go. What goes is counted under
    `equal`. None when fewer than two answers remain.
    """
    tiers: dict[Hashable, set[int]] = {}
    keys = [key(sample) for sample in group.completions]
    for name, tier in zip(keys, group.tiers, strict=True):
        tiers.setdefault(name, set()).add(tier)
    kept = [at for at, name in enumerate(keys) if len(tiers[name]) == 1 and keys.index(name) == at]
    if counts is not None:
        counts["equal"] += len(keys) - len(kept)
    return _select(group, kept) if len(kept) > 1 else None


def limit(group: RankedPrompt, max_completions: int | None, seed: int) -> RankedPrompt:
    """At most `max_completions` answers, drawn in turn from the good, the bad and the unlabelled."""
    if max_completions is None or len(group.completions) <= max_completions:
        return group
    rng = python_rng(seed, "limit-completions", group.prompt)
    piles: list[list[int]] = []
    for label in (True, False, None):
        pile = [index for index, each in enumerate(group.labels) if each is label]
        rng.shuffle(pile)
        piles.append(pile)
    chosen: list[int] = []
    while len(chosen) < max_completions:
        for pile in piles:
            if pile and len(chosen) < max_completions:
                chosen.append(pile.pop())
    return _select(group, sorted(chosen))


def merge(groups: Sequence[RankedPrompt]) -> list[RankedPrompt]:
    """Join groups of one prompt, source and margin that together make full rankings; others share one weight."""
    if len(groups) == 1:
        return list(groups)
    result: list[RankedPrompt] = []
    for component in _components(groups):
        joined = _join(component) if len(component) > 1 else component[0]
        if joined is not None:
            result.append(joined)
        else:
            result.extend(replace(group, weight=1 / len(component)) for group in component)
    return result


def _group(judgement: Judgement, counts: Counter[str]) -> RankedPrompt | None:
    ranked = [
        (sample, tier) for sample, tier in zip(judgement.completions, judgement.tiers, strict=True) if tier is not None
    ]
    filled = [(sample, tier) for sample, tier in ranked if not sample.empty]
    counts["empty"] += len(ranked) - len(filled)
    if len(filled) < 2:
        return None
    group = RankedPrompt(
        prompt=prompt_text(judgement.prompt),
        completions=tuple(sample for sample, _ in filled),
        tiers=_dense([tier for _, tier in filled]),
        source=judgement.source,
        id=judgement.id,
        margin=judgement.margin,
    )
    return deduplicate(group, lambda sample: sample.content, counts)


def _components(groups: Sequence[RankedPrompt]) -> list[list[RankedPrompt]]:
    """Groups that share answers, directly or over others, together."""
    parts: list[tuple[set[Hashable], list[RankedPrompt]]] = []
    for group in groups:
        contents: set[Hashable] = {sample.content for sample in group.completions}
        touching = [part for part in parts if part[0] & contents]
        parts = [part for part in parts if not part[0] & contents]
        parts.append((contents.union(*(part[0] for part in touching)), [*sum((p[1] for p in touching), []), group]))
    return [members for _, members in parts]


def _join(groups: Sequence[RankedPrompt]) -> RankedPrompt | None:
    """One group that says what `groups` say, if every pair of answers is compared and nothing contradicts."""
    samples: dict[Hashable, Sample] = {}
    better: dict[tuple[Hashable, Hashable], int] = {}  # sign of tier(first) − tier(second)
    for group in groups:
        for i, sample in enumerate(group.completions):
            if (known := samples.setdefault(sample.content, sample)).passed is None:
                samples[sample.content] = known.model_copy(update={"passed": sample.passed})
            for j, other in enumerate(group.completions):
                difference = group.tiers[i] - group.tiers[j]
                sign = (difference > 0) - (difference < 0)
                if better.setdefault((sample.content, other.content), sign) != sign:
                    return None
    if len(better) != len(samples) ** 2:
        return None
    losses = {name: sum(better[name, other] > 0 for other in samples) for name in samples}
    for (one, other), sign in better.items():
        if (losses[one] > losses[other]) - (losses[one] < losses[other]) != sign:
            return None  # a cycle, or ties that are not transitive
    first = groups[0]
    return replace(first, completions=tuple(samples.values()), tiers=_dense([losses[name] for name in samples]))


def _select(group: RankedPrompt, kept: Sequence[int]) -> RankedPrompt:
    completions = tuple(group.completions[index] for index in kept)
    return replace(group, completions=completions, tiers=_dense([group.tiers[index] for index in kept]))


def _dense(tiers: Sequence[int]) -> tuple[int, ...]:
    """The same order with tiers numbered 0, 1, 2, ..."""
    number = {tier: rank for rank, tier in enumerate(sorted(set(tiers)))}
    return tuple(number[tier] for tier in tiers)
