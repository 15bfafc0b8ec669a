"""What the store holds in numbers: counts, what is left out and why, contradictions, length bias."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from trivium.preferences.store import PreferenceStore
from trivium.records import Preference


def contradictions(store: PreferenceStore, split: str | None = None, source: str | None = None) -> int:
    """How many pairs of answers are judged both ways by the judgements in force."""
    return count_contradictions(store.pairs(split, source))


def count_contradictions(pairs: Iterable[Preference]) -> int:
    """How many pairs of answers occur with either one preferred; ties contradict nothing."""
    directions = {(pair.prompt, pair.chosen, pair.rejected) for pair in pairs if not pair.tie}
    return sum((prompt, rejected, chosen) in directions for prompt, chosen, rejected in directions) // 2


def preference_stats(store: PreferenceStore) -> dict[str, Any]:
    """Numbers for `trivium prefs stats` and reports, ready for JSON.

    Returns:
        `counts` of rows; `judgements` by split, source, annotator and round; `pairs` given and left out;
        `contradictions`; `passed` (share of tested completions); `longer_wins` (share of pairs of unequal length
        whose longer answer is preferred, with n).
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
        "passed": {"share": sum(tested) / len(tested) if tested else None, "n": len(tested)},
        "longer_wins": {"share": longer / len(unequal) if unequal else None, "n": len(unequal)},
    }
