from math import exp

import pytest
from pydantic import ValidationError

from trivium.preferences.judgement import Sample
from trivium.preferences.judges import JUDGES, ExecutionJudge, SimulatedJudge, judge_samples
from trivium.preferences.store import PreferenceStore

PROMPT = "def f(x):\n"
SHORT = "    return x + 1\n"
LONG = "    result_of_the_addition = x + 1\n    return result_of_the_addition\n"
UNTIDY = "    y = 0\n    return x + 1\n"


def samples(*texts_and_outcomes):
    return [Sample(text=text, passed=passed) for text, passed in texts_and_outcomes]


def test_passing_beats_failing_whatever_the_style():
    ranking = ExecutionJudge().rank(PROMPT, samples((SHORT, False), (LONG, True), (UNTIDY, False)))
    assert ranking == ((1,), (0, 2))


def test_among_passing_answers_cleaner_then_shorter_wins():
    group = samples((LONG, True), (UNTIDY, True), (SHORT, True), ("", False))
    assert ExecutionJudge().rank(PROMPT, group) == ((2,), (0,), (1,), (3,))
    assert ExecutionJudge(style=False).rank(PROMPT, group) == ((0, 1, 2), (3,))


def test_small_differences_in_length_tie():
    group = samples(("    return x\n" + " " * 9, True), ("    return xx\n", True), ("    return x + x + x\n", True))
    assert ExecutionJudge().rank(PROMPT, group) == ((0, 1), (2,))
    assert ExecutionJudge(length_step=0).rank(PROMPT, group) == ((0,), (1,), (2,))
    assert ExecutionJudge(length_step=5).rank(PROMPT, group) == ((0, 1, 2),)


def test_style_looks_at_the_answer_alone_where_the_prompt_is_a_question():
    group = samples(("def f(x):\n" + UNTIDY, True), ("def f(x):\n" + SHORT + "# and nothing else to say", True))
    assert ExecutionJudge().rank("Write a function.", group) == ((1,), (0,))


def test_failing_answers_tie_or_are_ranked_by_tests():
    group = [
        Sample(text="a", passed=False, tests_passed=1, tests_total=4),
        Sample(text="b", passed=False, tests_passed=3, tests_total=4),
        Sample(text="c", passed=False),
        Sample(text="d", passed=False, tests_passed=1, tests_total=4),
    ]
    assert ExecutionJudge().rank(PROMPT, group) == ((0, 1, 2, 3),)
    assert ExecutionJudge(failed="tests").rank(PROMPT, group) == ((1,), (0, 3), (2,))


def test_untested_answers_are_left_out():
    assert ExecutionJudge().rank(PROMPT, samples((SHORT, None), (LONG, True), (UNTIDY, False))) == ((1,), (2,))
    assert judge_samples(ExecutionJudge(), PROMPT, samples((SHORT, None), (LONG, True))) is None


def test_judgement_goes_into_the_store():
    judgement = judge_samples(ExecutionJudge(), PROMPT, samples((SHORT, False), (LONG, True)))
    assert judgement is not None
    with PreferenceStore(":memory:") as store:
        store.add_judgement(judgement)
        (pair,) = store.pairs(source="execution")
        assert (pair.chosen, pair.chosen_passed, pair.rejected, pair.annotator) == (LONG, True, SHORT, "execution")


def win_rate(judge, utilities, lengths=(10, 10), n=4000):
    """Share of prompts on which the first of two answers is preferred, ties half."""
    rankings = [judge.rank_by(utilities, lengths, seed=0, prompt=str(prompt)) for prompt in range(n)]
    return sum(0.5 if len(ranking) == 1 else ranking[0] == (0,) for ranking in rankings) / n


def logistic(x):
    return 1 / (1 + exp(-x))


# Four standard errors of a share at n = 4000.
TOLERANCE = 0.032


@pytest.mark.parametrize("difference", [-2.0, 0.0, 1.0])
def test_simulated_annotator_is_bradley_terry(difference):
    assert win_rate(SimulatedJudge(), [difference, 0]) == pytest.approx(logistic(difference), abs=TOLERANCE)


def test_pairs_inside_a_ranking_are_bradley_terry_too():
    wins = 0
    for prompt in range(4000):
        ranking = SimulatedJudge().rank_by([1.0, 3.0, 0.0, -2.0], [5] * 4, seed=1, prompt=str(prompt))
        order = [tier[0] for tier in ranking]
        wins += order.index(0) < order.index(2)
    assert wins / 4000 == pytest.approx(logistic(1), abs=TOLERANCE)


def test_biases_and_lapses_have_their_stated_size():
    assert win_rate(SimulatedJudge(length_bias=0.5), [0, 0], (400, 100)) == pytest.approx(logistic(1), abs=TOLERANCE)
    assert win_rate(SimulatedJudge(noise=0.4), [3, 0]) == pytest.approx(0.6 * logistic(3) + 0.4 * 0.5, abs=TOLERANCE)
    # Each answer is shown first half of the time, so a side bias cancels in the mean and flattens the preference.
    expected = (logistic(1 + 2) + logistic(1 - 2)) / 2
    assert win_rate(SimulatedJudge(side_bias=2), [1, 0]) == pytest.approx(expected, abs=TOLERANCE)


def test_tie_margin_makes_ties():
    ties = sum(len(SimulatedJudge(tie_margin=1).rank_by([0, 0], [1, 1], 0, str(p))) == 1 for p in range(4000))
    assert ties / 4000 == pytest.approx(2 * logistic(1) - 1, abs=TOLERANCE)


def test_simulated_judge_uses_the_share_of_tests_passed():
    group = [
        Sample(text="a", passed=False, tests_passed=0, tests_total=2),
        Sample(text="b", passed=None),
        Sample(text="c", passed=False, tests_passed=1, tests_total=2),
        Sample(text="d", passed=True),
    ]
    assert SimulatedJudge(sharpness=500).rank(PROMPT, group) == ((3,), (2,), (0,))


def test_chance_is_a_function_of_seed_prompt_and_annotator():
    def rankings(seed=0, **fields):
        return [SimulatedJudge(**fields).rank_by([0] * 4, [1] * 4, seed, str(prompt)) for prompt in range(20)]

    assert rankings() == rankings()
    assert rankings() != rankings(seed=1)
    assert rankings() != rankings(annotator="other")


def test_judges_are_found_by_name_and_refuse_unknown_options():
    assert JUDGES["execution"]().rank(PROMPT, samples((SHORT, True), (LONG, False))) == ((0,), (1,))
    assert {judge().type for judge in JUDGES.values()} == set(JUDGES)
    with pytest.raises(ValidationError, match="shorter"):
        JUDGES["execution"](shorter=True)  # pyright: ignore[reportCallIssue]
