"""What the store holds in numbers: counts, what is left out and why, contradictions, length bias."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict
from itertools import chain, combinations
from typing import Any

from trivium.preferences.agreement import (
    Coefficient,
    Label,
    Strength,
    bootstrap,
    cohen_kappa,
    davidson_strengths,
    fleiss_kappa,
    krippendorff_alpha,
    raw_agreement,
)
from trivium.preferences.judgement import CHECK_SOURCE, PLAY_SOURCE, Judgement, prompt_text
from trivium.preferences.people import pseudonyms, shown_name
from trivium.preferences.store import PreferenceStore
from trivium.records import Preference


def contradictions(store: PreferenceStore, split: str | None = None, source: str | None = None) -> int:
    """How many pairs of answers are judged both ways by the judgements in force."""
    return count_contradictions(store.pairs(split, source))


def count_contradictions(pairs: Iterable[Preference]) -> int:
    """How many pairs of answers occur with either one preferred; ties contradict nothing."""
    directions = {(pair.prompt, pair.chosen, pair.rejected) for pair in pairs if not pair.tie}
    return sum((prompt, rejected, chosen) in directions for prompt, chosen, rejected in directions) // 2


def shared_labels(store: PreferenceStore, source: str | None = None) -> list[dict[str, Hashable]]:
    """What each annotator said of each set of answers to a prompt that more than one of them judged.

    A label is the tier of each answer, in the order of their texts: the same few labels occur in all comparisons of as
    many answers, as coefficients beyond chance need it. With `source`, only its judgements count.
    """
    units: dict[Hashable, dict[str, Hashable]] = {}
    for stored in store.judgements(source=source):
        if stored.judgement.ranking:
            answers, label = _answers_and_label(stored.judgement)
            units.setdefault(answers, {})[stored.judgement.annotator] = label
    return [labels for labels in units.values() if len(labels) > 1]


def agreement_shares(store: PreferenceStore) -> dict[str, float]:
    """Judgement, by its name in the store, to the share of annotators of its source that rank these answers as it does.

    Judgements of what only one annotator of the source judged are not named: nothing is known of their agreement.
    """
    units: dict[Hashable, dict[str, Hashable]] = {}
    said: list[tuple[str, Hashable, Hashable]] = []
    for stored in store.judgements():
        answers, label = _answers_and_label(stored.judgement)
        unit = (stored.judgement.source, answers)
        units.setdefault(unit, {})[stored.judgement.annotator] = label
        said.append((stored.key, unit, label))
    labels = {unit: list(each.values()) for unit, each in units.items()}
    return {key: labels[unit].count(label) / len(labels[unit]) for key, unit, label in said if len(labels[unit]) > 1}


def _answers_and_label(judgement: Judgement) -> tuple[Hashable, Hashable]:
    """Prompt with its answers in the order of their texts, and the tiers of these."""
    told = sorted(zip([sample.text for sample in judgement.completions], judgement.tiers, strict=True), key=str)
    return (prompt_text(judgement.prompt), *(text for text, _ in told)), tuple(tier for _, tier in told)


def agreement_coefficients(labels: Sequence[dict[str, Hashable]], seed: int = 0) -> dict[str, Coefficient]:
    """Agreement on comparisons that several judged, with 95% intervals over comparisons.

    Args:
        labels: per comparison, what each annotator said; see `shared_labels`.
        seed: of the bootstrap.
    Returns:
        `raw` and `krippendorff_alpha` (nominal); `fleiss_kappa` over the comparisons with the usual number of
        annotators, where it can be told; `cohen_kappa` where there are just two annotators.
    """
    units: list[list[Label]] = [list(each.values()) for each in labels]
    draws = max(100, min(1000, 200_000 // max(len(units), 1)))  # a page waits for them
    found = {
        "raw": bootstrap(units, raw_agreement, seed=seed, draws=draws),
        "krippendorff_alpha": bootstrap(units, krippendorff_alpha, seed=seed, draws=draws),
    }
    if units:
        usual = Counter(map(len, units)).most_common(1)[0][0]
        even = [unit for unit in units if len(unit) == usual]
        found["fleiss_kappa"] = bootstrap(even, fleiss_kappa, seed=seed, draws=draws)
    annotators = sorted({name for each in labels for name in each})
    if len(annotators) == 2:
        pairs = [[each[name] for name in annotators] for each in labels]
        found["cohen_kappa"] = bootstrap(pairs, _cohen, seed=seed, draws=draws)
    return found


def _cohen(pairs: Sequence[Sequence[Label]]) -> float | None:
    return cohen_kappa([first for first, _ in pairs], [second for _, second in pairs])


def criteria_coefficients(store: PreferenceStore, source: str, seed: int = 0) -> dict[str, Coefficient]:
    """Per criterion, Krippendorff's alpha of its steps (ordinal), where several answered it of one comparison.

    Steps count from A to B as shown; they are turned so that those of one comparison point the same way.
    """
    units: dict[str, dict[tuple[str, str], list[Label]]] = {}
    for stored in store.judgements(source=source):
        judgement = stored.judgement
        order = judgement.details.get("order", ())
        if len(order) == 2:
            for name, step in judgement.details.get("criteria", {}).items():
                turned = step if order[0] == 0 else -step
                units.setdefault(name, {}).setdefault((stored.prompt_id, judgement.id), []).append(turned)
    return {
        name: bootstrap(list(each.values()), lambda rows: krippendorff_alpha(rows, "ordinal"), seed=seed, draws=200)
        for name, each in sorted(units.items())
        if any(len(unit) > 1 for unit in each.values())
    }


def model_strengths(store: PreferenceStore, sources: Sequence[str]) -> dict[str, Strength]:
    """Strengths of the models whose answers met, in logits about their mean (Davidson 1970), with 95% intervals.

    Models are told apart by the fingerprint of their weights and named by its first twelve characters, behind the name
    under which the playground knew them. Every pair that a ranking speaks about counts once, both bad as a tie; answers
    of one model, and of unknown ones, say nothing about models.

    Args:
        sources: whose judgements count.
    """
    wins: Counter[tuple[str, str]] = Counter()
    ties: Counter[tuple[str, str]] = Counter()
    known: dict[str, str] = {}
    for source in sources:
        for stored in store.judgements(source=source):
            said = stored.judgement
            prints = [sample.model.removeprefix(f"{PLAY_SOURCE}:") for sample in said.completions]
            known |= dict(zip(prints, said.details.get("play", {}).get("models", ()), strict=False))
            for (one, first), (two, second) in combinations(zip(prints, said.tiers, strict=True), 2):
                if one and two and one != two and first is not None and second is not None:
                    (ties if first == second else wins)[(two, one) if second < first else (one, two)] += 1
    names = {each: f"{known.get(each, '')} {each[:12]}".strip() for each in {*chain(*wins, *ties)}}
    won, tied = ({(names[one], names[two]): n for (one, two), n in each.items()} for each in (wins, ties))
    return davidson_strengths(won, tied)


def agreement_stats(store: PreferenceStore, seed: int = 0) -> dict[str, Any]:
    """`agreement_coefficients` of everybody in the store, ready for JSON.

    `n` is the number of comparisons that several judged, `few` says that it is below 20.
    """
    found = agreement_coefficients(shared_labels(store), seed)
    return {name: asdict(each) | {"few": each.few} for name, each in found.items()}


def preference_stats(store: PreferenceStore, *, agreement: bool = True) -> dict[str, Any]:
    """Numbers for `trivium prefs stats` and reports, ready for JSON.

    Args:
        agreement: False leaves the agreement out, whose intervals take a second or so.
    Returns:
        `counts` of rows; `judgements` by split, source, annotator and round; `pairs` given and left out;
        `contradictions`; `agreement` between annotators with intervals; `passed` (share of tested completions);
        `longer_wins` (share of pairs of unequal length whose longer answer is preferred, with n); `strengths` of
        models whose answers met.
    """
    by: dict[str, Counter[str]] = {name: Counter() for name in ("split", "source", "annotator", "round")}
    for stored in store.judgements():
        for name, counter in by.items():
            counter[str(getattr(stored.judgement, name))] += 1
    given: Counter[str] = Counter()
    pairs = list(store.pairs(counts=given))
    unequal = [pair for pair in pairs if not pair.tie and len(pair.chosen) != len(pair.rejected)]
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in unequal)
    tested = [stored.sample.passed for stored in store.completions() if stored.sample.passed is not None]
    strengths = model_strengths(store, sorted(by["source"].keys() - {CHECK_SOURCE}))
    return {
        "counts": store.counts(),
        "judgements": {name: dict(sorted(counter.items())) for name, counter in by.items()},
        "pairs": {name: given[name] for name in ("pairs", "ties", "equal", "empty", "ids_only")},
        "contradictions": count_contradictions(pairs),
        **({"agreement": agreement_stats(store)} if agreement else {}),
        "passed": {"share": sum(tested) / len(tested) if tested else None, "n": len(tested)},
        "longer_wins": {"share": longer / len(unequal) if unequal else None, "n": len(unequal)},
        "strengths": {name: asdict(each) for name, each in strengths.items()},
    }


def label_sources(store: PreferenceStore, through_round: int) -> dict[str, dict[str, Any]]:
    """Who gave the labels that a reward model of a round learns from, ready for JSON.

    Returns:
        Per source `judgements`, how many of them are `heldout`, and `annotators`: name, or pseudonym where it is a
        person, to judgements.
    """
    alias = pseudonyms(store)
    found: dict[str, dict[str, Any]] = {}
    for round in range(through_round + 1):
        for stored in store.training_judgements(round=round):
            said = stored.judgement
            part = found.setdefault(said.source, {"judgements": 0, "heldout": 0, "annotators": Counter()})
            part["judgements"] += 1
            part["heldout"] += said.split == "heldout"
            part["annotators"][shown_name(said, alias)] += 1
    return {
        source: part | {"annotators": dict(sorted(part["annotators"].items()))}
        for source, part in sorted(found.items())
    }
