"""Judges rank one prompt's completions: by what execution showed, or as a simulated annotator with known faults."""

from collections.abc import Callable, Sequence
from math import log2
from typing import Literal, Protocol

import numpy as np
from pydantic import Field

from trivium.base.config import Config
from trivium.base.seeding import numpy_rng
from trivium.preferences.cleanliness import code_defects
from trivium.preferences.judgement import Judgement, Prompt, Sample, prompt_text

Ranking = tuple[tuple[int, ...], ...]
"""Indices of completions in tiers, best first; ties share a tier."""


class Judge(Protocol):
    """What every judge offers: a name for the record, and a ranking that is a function of its arguments."""

    @property
    def annotator(self) -> str:
        """Who judged, as the store records it."""
        ...

    @property
    def source(self) -> str:
        """The kind of judge, as the store records it."""
        ...

    def rank(self, prompt: str, samples: Sequence[Sample], seed: int = 0) -> Ranking:
        """Rank the samples; one that cannot be judged is left out."""
        ...


class ExecutionJudge(Config):
    """Passing the tests beats failing them; among passing answers the cleaner, then the shorter one wins."""

    type: Literal["execution"] = "execution"
    style: bool = True
    """Rank passing answers by cleanliness and length; otherwise they tie."""
    length_step: float = Field(default=0.2, ge=0)
    """Passing answers whose lengths differ by less than this share tie."""
    failed: Literal["tie", "tests"] = "tie"
    """Failing answers tie, or the one that passes more tests wins."""

    @property
    def annotator(self) -> str:
        """Who judged, as the store records it."""
        return "execution"

    @property
    def source(self) -> str:
        """The kind of judge, as the store records it."""
        return "execution"

    def rank(self, prompt: str, samples: Sequence[Sample], seed: int = 0) -> Ranking:
        """Rank by the recorded outcomes; samples whose tests were not run (`passed` is None) are left out.

        Args:
            prompt: the code that each completion continues, or a question that it answers with code.
            samples: with outcomes.
            seed: unused, there is no chance in it.
        """
        del seed
        passing = [index for index, sample in enumerate(samples) if sample.passed]
        failing = [index for index, sample in enumerate(samples) if sample.passed is False]
        above = self._by_style(prompt, samples, passing) if self.style else [passing]
        below = _tiers(failing, lambda i: -_tests_share(samples[i])) if self.failed == "tests" else [failing]
        return tuple(tuple(tier) for tier in (*above, *below) if tier)

    def _by_style(self, prompt: str, samples: Sequence[Sample], passing: list[int]) -> list[list[int]]:
        """Tiers by the number of defects; within equal numbers, by length in steps from the shortest."""
        defects = {index: _defects(prompt, samples[index].text) for index in passing}
        tiers: list[list[int]] = []
        for equals in _tiers(passing, lambda i: defects[i]):
            limit = -1.0
            for index in sorted(equals, key=lambda i: len(samples[i].text.strip())):
                length = len(samples[index].text.strip())
                if length > limit:
                    tiers.append([])
                    limit = length * (1 + self.length_step)
                tiers[-1].append(index)
        return [sorted(tier) for tier in tiers]


class SimulatedJudge(Config):
    """A Bradley-Terry annotator with a known utility, biases and lapses, for studies of what they do to R.

    Prefers i to j with probability σ(u_i − u_j); more than two completions are ranked by the Plackett-Luce model,
    whose pairs are the same Bradley-Terry.
    """

    type: Literal["simulated"] = "simulated"
    sharpness: float = Field(default=4.0, ge=0)
    """Utility of a passing answer over one that passes no test, in nats: 4 gives 98% agreement with the tests."""
    side_bias: float = 0.0
    """Nats for being shown first rather than last; the order shown is random, and the same for equal seeds."""
    length_bias: float = 0.0
    """Nats for each doubling of an answer's characters."""
    noise: float = Field(default=0.0, ge=0, le=1)
    """Share of prompts that are ranked at random."""
    tie_margin: float = Field(default=0.0, ge=0)
    """Answers whose felt utilities are no further apart than this tie."""
    annotator: str = "simulated"
    """Name in the record; annotators of different names err independently."""

    @property
    def source(self) -> str:
        """The kind of judge, as the store records it."""
        return "simulated"

    def rank(self, prompt: str, samples: Sequence[Sample], seed: int = 0) -> Ranking:
        """Rank by noisy utilities, whose mean is `sharpness` times the share of tests passed."""
        known = [index for index, sample in enumerate(samples) if sample.passed is not None]
        utilities = [self.sharpness * _tests_share(samples[index]) for index in known]
        ranking = self.rank_by(utilities, [len(samples[index].text) for index in known], seed, prompt)
        return tuple(tuple(known[index] for index in tier) for tier in ranking)

    def rank_by(self, utilities: Sequence[float], lengths: Sequence[int], seed: int, prompt: str = "") -> Ranking:
        """Rank answers whose true utilities (in nats) are given.

        Args:
            utilities: one per answer.
            lengths: characters of each, for `length_bias`.
            seed: with the prompt and the annotator's name, decides all chance.
            prompt: what is answered.
        """
        rng = numpy_rng(seed, "simulated-judge", self.annotator, prompt)
        count = len(utilities)
        careless = rng.random() < self.noise
        shown = rng.permutation(count)
        side = 0.5 - shown / max(count - 1, 1)  # +½ for the first, −½ for the last
        lengthy = np.array([log2(max(length, 1)) for length in lengths])
        # Gumbel noise makes the order Plackett-Luce; a difference of two Gumbels is logistic.
        felt = rng.gumbel(size=count)
        if not careless:
            felt = felt + np.asarray(utilities, float) + self.side_bias * side + self.length_bias * lengthy
        tiers: list[list[int]] = []
        for index in sorted(range(count), key=lambda i: (-felt[i], i)):
            if not tiers or felt[tiers[-1][0]] - felt[index] > self.tie_margin:
                tiers.append([])
            tiers[-1].append(index)
        return tuple(tuple(sorted(tier)) for tier in tiers)


JUDGES: dict[str, type[ExecutionJudge] | type[SimulatedJudge]] = {
    "execution": ExecutionJudge,
    "simulated": SimulatedJudge,
}
"""Judges by name; each is its own config."""

CHAT_SOURCE = "ai:"
"""How the source of a chat model's judgements begins; its name follows."""


def is_machine(source: str) -> bool:
    """Whether judgements of this source are a judge's, and not people's."""
    return source in JUDGES or source.startswith(CHAT_SOURCE)


def judge_samples(judge: Judge, prompt: Prompt, samples: Sequence[Sample], seed: int = 0) -> Judgement | None:
    """The judge's judgement on one prompt's samples, ready for the store; None when fewer than two can be ranked."""
    ranking = judge.rank(prompt_text(prompt), samples, seed)
    if sum(len(tier) for tier in ranking) < 2:
        return None
    return Judgement(
        prompt=prompt, completions=tuple(samples), ranking=ranking, annotator=judge.annotator, source=judge.source
    )


def _defects(prompt: str, text: str) -> int:
    """Defects of the program; of the completion alone where the prompt is a question rather than code."""
    found = code_defects(prompt + text)
    return len(code_defects(text) if found == ("unparsed",) else found)


def _tests_share(sample: Sample) -> float:
    """Share of tests passed; where they were not counted, 1 for a pass and 0 for a failure."""
    if sample.tests_passed is None or not sample.tests_total:
        return float(bool(sample.passed))
    return sample.tests_passed / sample.tests_total


def _tiers(indices: Sequence[int], key: Callable[[int], float]) -> list[list[int]]:
    """Group indices by key, smallest first, order kept within a group."""
    groups: dict[float, list[int]] = {}
    for index in indices:
        groups.setdefault(key(index), []).append(index)
    return [groups[value] for value in sorted(groups)]
