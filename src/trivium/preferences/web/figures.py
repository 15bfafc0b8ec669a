"""Counts of the people who label, for the statistics page."""

from dataclasses import dataclass
from statistics import median

from scipy.stats import binomtest

from trivium.preferences.comparisons import load_comparison
from trivium.preferences.judgement import CHECK_SOURCE
from trivium.preferences.progress import progress
from trivium.preferences.store import PreferenceStore
from trivium.preferences.votes import HUMAN

QUICK_SECONDS = 2.0


@dataclass(frozen=True)
class Share:
    """A share with what it is of."""

    hits: int
    n: int

    @property
    def value(self) -> float | None:
        return self.hits / self.n if self.n else None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Wilson's 95% interval."""
        if not self.n:
            return None
        found = binomtest(self.hits, self.n).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    @property
    def leans(self) -> bool:
        """Whether a half lies outside the interval: for a side that chance decides, a bias."""
        return self.bounds is not None and not self.bounds[0] <= 0.5 <= self.bounds[1]


@dataclass(frozen=True)
class PersonFigures:
    """One person's counts; shares are given with their n."""

    name: str
    judged: int
    skipped: int
    seconds: float | None
    """Median attention a judgement."""
    agreement: Share
    """Comparisons ranked as another person did."""
    quick: Share
    """Judgements under two seconds."""
    left: Share
    """Left answers among those preferred in pairs."""
    longer: Share
    """Longer answers among those preferred in pairs of unequal length."""
    passing: Share
    """Passing answers among those preferred where just one passes."""
    repeats: Share
    """Repeats answered as the first time."""
    gold: Share
    """Gold comparisons answered as known."""


def person_figures(store: PreferenceStore, name: str) -> PersonFigures:
    """The counts of one person, checks included."""
    times: list[float] = []
    left, longer, passing = [], [], []
    first: dict[str, tuple[tuple[int, ...], ...]] = {}
    checks = []
    judged = 0
    for source in (HUMAN, CHECK_SOURCE):
        for stored in store.judgements(source=source, annotator=name):
            judgement, details = stored.judgement, stored.judgement.details
            judged += 1
            if "seconds" in details:
                times.append(details["seconds"])
            if source == HUMAN:
                first[judgement.id] = judgement.ranking
            else:
                checks.append((details.get("purpose"), judgement))
            if len(judgement.completions) == 2 and len(judgement.ranking) == 2:
                best, worst = (judgement.completions[tier[0]] for tier in judgement.ranking)
                left.append(details.get("order", [0])[0] == judgement.ranking[0][0])
                if len(best.text) != len(worst.text):
                    longer.append(len(best.text) > len(worst.text))
                if best.passed is not None and worst.passed is not None and best.passed != worst.passed:
                    passing.append(best.passed)
    repeats = [first[each.id] == each.ranking for purpose, each in checks if purpose == "repeat" and each.id in first]
    gold = [load_comparison(store, each.id).gold == each.ranking for purpose, each in checks if purpose == "gold"]
    stand = progress(store, name)
    return PersonFigures(
        name=name,
        judged=judged,
        skipped=stand.skipped,
        seconds=median(times) if times else None,
        agreement=Share(stand.agreed, stand.shared),
        quick=_share([time < QUICK_SECONDS for time in times]),
        left=_share(left),
        longer=_share(longer),
        passing=_share(passing),
        repeats=_share(repeats),
        gold=_share(gold),
    )


def _share(hits: list[bool]) -> Share:
    return Share(sum(hits), len(hits))
