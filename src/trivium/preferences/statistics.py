"""What the store holds in numbers: counts, what is left out and why, contradictions, length bias."""

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import asdict
from typing import Any

from trivium.preferences.agreement import bootstrap, cohen_kappa, krippendorff_alpha, raw_agreement
from trivium.preferences.judgement import prompt_text
from trivium.preferences.store import PreferenceStore
from trivium.records import Preference


def contradictions(store: PreferenceStore, split: str | None = None, source: str | None = None) -> int:
    """How many pairs of answers are judged both ways by the judgements in force."""
    return count_contradictions(store.pairs(split, source))


def count_contradictions(pairs: Iterable[Preference]) -> int:
    """How many pairs of answers occur with either one preferred; ties contradict nothing."""
    directions = {(pair.prompt, pair.chosen, pair.rejected) for pair in pairs if not pair.tie}
    return sum((prompt, rejected, chosen) in directions for prompt, chosen, rejected in directions) // 2


def shared_labels(store: PreferenceStore) -> list[dict[str, Hashable]]:
    """What each annotator said of each set of answers to a prompt that more than one of them judged.

    A label is the tier of each answer, in the order of their texts: the same few labels occur in all comparisons of as
    many answers, as coefficients beyond chance need it.
    """
    units: dict[Hashable, dict[str, Hashable]] = {}
    for stored in store.judgements():
        judgement = stored.judgement
        if not judgement.ranking:
            continue
        told = sorted(zip([sample.text for sample in judgement.completions], judgement.tiers, strict=True), key=str)
        answers = (prompt_text(judgement.prompt), *(text for text, _ in told))
        units.setdefault(answers, {})[judgement.annotator] = tuple(tier for _, tier in told)
    return [labels for labels in units.values() if len(labels) > 1]


def agreement_stats(store: PreferenceStore, seed: int = 0) -> dict[str, Any]:
    """Raw agreement, Krippendorff's alpha, and with two annotators Cohen's kappa; 95% intervals over comparisons.

    `n` is the number of comparisons that several judged, `few` says that it is below 20.
    """
    labels = shared_labels(store)
    units = [list(each.values()) for each in labels]
    found = {
        "raw": bootstrap(units, raw_agreement, seed=seed),
        "krippendorff_alpha": bootstrap(units, krippendorff_alpha, seed=seed),
    }
    annotators = sorted({name for each in labels for name in each})
    stats: dict[str, Any] = {name: asdict(each) | {"few": each.few} for name, each in found.items()}
    if len(annotators) == 2:
        pairs = [(each[annotators[0]], each[annotators[1]]) for each in labels]
        first, second = zip(*pairs, strict=True)
        kappa = bootstrap(pairs, lambda units: cohen_kappa(*zip(*units, strict=True)) if units else None, seed=seed)
        stats["cohen_kappa"] = asdict(kappa) | {"few": kappa.few}
    return stats


def preference_stats(store: PreferenceStore) -> dict[str, Any]:
    """Numbers for `trivium prefs stats` and reports, ready for JSON.

    Returns:
        `counts` of rows; `judgements` by split, source, annotator and round; `pairs` given and left out;
        `contradictions`; `agreement` between annotators with intervals; `passed` (share of tested completions);
        `longer_wins` (share of pairs of unequal length whose longer answer is preferred, with n).
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
    return {
        "counts": store.counts(),
        "judgements": {name: dict(sorted(counter.items())) for name, counter in by.items()},
        "pairs": {name: given[name] for name in ("pairs", "ties", "equal", "empty", "ids_only")},
        "contradictions": count_contradictions(pairs),
        "agreement": agreement_stats(store),
        "passed": {"share": sum(tested) / len(tested) if tested else None, "n": len(tested)},
        "longer_wins": {"share": longer / len(unequal) if unequal else None, "n": len(unequal)},
    }
