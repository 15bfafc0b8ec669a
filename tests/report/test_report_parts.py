"""What the report says and draws, piece by piece."""

import numpy as np
import pytest

from trivium.base.text import visible
from trivium.evaluation.gauge import Fit, _part, find_alarm, fit_gain
from trivium.report.charts import _joined, rl_charts, utility_chart
from trivium.report.plots import MAX_POINTS, Panel, Series, _moving_average, _split, _thin, draw_curves
from trivium.report.source import STAGES, RunData
from trivium.report.tables import label_table, reward_model_table, rounds_table, story, warnings
from trivium.report.values import decimal, duration, percent, percent_interval, short_count


def data(**fields) -> RunData:
    return RunData(name="r", metrics={stage: [] for stage in STAGES}, **fields)


def test_story_says_when_m2_is_worse() -> None:
    models = {
        "M1": {"pass_at_1": 0.52, "pass_at_1_ci": [0.48, 0.56]},
        "M2": {"pass_at_1": 0.49, "pass_at_1_ci": [0.45, 0.53]},
    }
    summary = {"models": models, "rl": {"algorithm": "ppo", "kl": 0.314}}
    told = " ".join(story(data(summary=summary)))
    assert told == (
        "Fine-tuning made M1, whose first answer solves 52.0% of the held-out tasks. "
        "PPO made M2: 49.0%, 3.0 points fewer than M1 (the 95% intervals overlap), "
        "at a KL of 0.31 nats per answer from it."
    )


def test_story_names_unfinished_stages() -> None:
    lineage = {"stages": {"pretrain": {"status": "done"}, "rl": {"status": "interrupted"}}}
    assert story(data(lineage=lineage)) == ["Not finished: rl."]


def test_utility_that_is_not_its_sum_is_a_warning() -> None:
    row = {"model": "M1", "alpha": 0.5, "sft": 2.0, "beta": 1.0, "reward": -0.25, "gamma": 0.1, "omega": 3.0}
    assert warnings(data(utility=[{**row, "total": 1.05}])) == []
    assert warnings(data(utility=[{**row, "total": 1.0501}])) == [
        ("report", "U of M1 in utility.jsonl is not the sum of its weighted terms")
    ]


def test_utility_chart_takes_the_newest_row() -> None:
    weights = {"model": "M2", "alpha": 1.0, "beta": 1.0, "gamma": 1.0}
    rows = [{**weights, "sft": value, "reward": 0.0, "omega": 0.0, "total": value} for value in (7.25, 3.5)]
    svg = utility_chart(data(utility=rows)).svg
    assert ">3.50<" in svg and ">7.25<" not in svg


def test_summary_fills_what_rm_json_lacks() -> None:
    table = dict(reward_model_table(data(summary={"reward_model": {"pairs_train": 10}}, reward_model={"ece": 0.04})))
    assert table == {"pairs, training": "10", "expected calibration error": "0.040"}


def test_labels_are_told_by_source_with_who_gave_them() -> None:
    labels = {
        "ai:judge": {"judgements": 3, "annotators": {"judge": 3}, "pairs_train": 2},
        "human": {"judgements": 60, "annotators": {"p2": 19, "p1": 41}, "pairs_train": 30},
        "": {"judgements": 10, "annotators": {f"p{at}": 1 for at in range(10, 20)}, "pairs_train": 9},
    }
    sources = {"human": {"accuracy": 0.75, "accuracy_ci": [0.5, 1.0], "pairs": 8}}
    table = label_table(data(reward_model={"labels": labels, "sources": sources}))
    assert [(row["source"], row["hint"], row["judgements"]) for row in table] == [
        ("human", "people, on the labelling page", "60"),
        ("–", "imported without a source", "10"),
        ("ai:judge", "a chat model", "3"),
    ]
    assert (
        table[0].items()
        >= {
            "annotators": "p1 (41), p2 (19)",
            "pairs_train": "30",
            "pairs_heldout": "8",
            "accuracy": "75.0%",
            "accuracy_ci": "50.0–100.0",
        }.items()
    )
    assert table[1]["annotators"].endswith("p17 (1), 2 more") and table[2]["accuracy"] == "–"
    assert label_table(data(reward_model={"labels": 3, "sources": sources})) == []


def test_the_pulls_of_length_and_form_and_each_annotator_are_told() -> None:
    share = {"accuracy": 0.75, "pairs": 4}
    figures = {
        "nll": 0.5,
        "train": {"accuracy": 0.9, "nll": 0.25},
        "length": {"longer_preferred": 0.5, "by_gap": {"longer": share}},
        "format": {"code_fence": {"judged": 0.25, "preferred": 0.5}, "list": "?"},
        "annotators": {"ann": share, "bob": share},
    }
    assert dict(reward_model_table(data(reward_model=figures))) == {
        "accuracy on pairs of training": "90.0%",
        "negative log-likelihood of a pair, nats: held out": "0.500",
        "the same in training": "0.250",
        "how often R prefers the longer one": "50.0%",
        "accuracy where the better answer is longer": "75.0%",
        "how often R prefers the one with a code fence (how often that is judged better)": "50.0% (25.0%)",
        "how often R prefers the one with a list (how often that is judged better)": "– (–)",
        "agreement with annotator ann": "75.0%",
        "agreement with annotator bob": "75.0%",
    }


def test_members_of_an_ensemble_are_told() -> None:
    told = {"members": 2, "aggregate": "mean_minus_sd", "accuracy": [0.5, 0.75], "disagreement": 0.25, "divided": 0.1}
    table = dict(reward_model_table(data(reward_model={"ensemble": told})))
    assert table == {
        "members, and how they are combined": "2, mean minus sd",
        "accuracy of each member": "50.0%, 75.0%",
        "disagreement of members on held-out answers, in units of R̄": "0.250",
        "pairs on which members are not of one mind": "10.0%",
    }
    assert dict(reward_model_table(data(reward_model={"ensemble": {"accuracy": "all"}}))) == {}


def rl_rounds() -> dict[str, list[dict[str, float]]]:
    """Three rounds of 4 steps, of which the second has left nothing."""
    rows = [{"step": step, "reward/mean": step / 10, "kl/sequence": step / 100} for step in range(1, 13)]
    return {"rl": rows[:4], "rl-10": [], "rl-3": rows[8:]}


def test_rl_charts_without_gold_show_the_rest() -> None:
    charts = {chart.key: chart for chart in rl_charts(RunData(name="r", metrics=rl_rounds()))}
    assert "pass rate" not in charts["rl-gold"].svg and "mean score" in charts["rl-gold"].svg
    assert "a new round" in charts["rl-gold"].caption
    assert charts["rl-utility"].missing


def test_rounds_in_order_of_their_numbers() -> None:
    lineage = {"stages": {name: {"result": {"name": name}} for name in ("rl-10", "rl-2", "rl", "rl-x", "reward")}}
    rounds = data(lineage=lineage).rounds("rl")
    assert [(each.number, each.result["name"]) for each in rounds] == [(1, "rl"), (2, "rl-2"), (10, "rl-10")]


def test_rl_steps_go_on_and_those_of_the_reward_model_are_made_to() -> None:
    rows, marks = _joined(RunData(name="r", metrics=rl_rounds()), "rl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 9, 10, 11, 12]
    assert marks == [6.5]
    metrics = {
        "reward": [{"step": 10}, {"step": 20}],
        "reward-2": [{"step": 1}, {"step": 8}],
        "reward-3": [{"step": 1}],
    }
    rows, marks = _joined(RunData(name="r", metrics=metrics), "reward")
    assert [row["step"] for row in rows] == [10, 20, 21, 28, 29]
    assert marks == [20.5, 28.5]


def test_lines_are_cut_where_the_scale_changes() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    parts = [part.tolist() for part, _ in _split(x, x, [2.5, 9.0])]
    assert parts == [[1.0, 2.0], [3.0, 4.0]]
    panel = Panel("p", [Series("a", x.tolist(), x.tolist()), Series("b", x.tolist(), x.tolist())], cuts=[2.5])
    assert draw_curves("key", [panel], "step").count(">a<") == 1


def test_rounds_table_by_hand() -> None:
    rl = [{"step": 8 + n, "reward/mean": n, "gold/mean": n / 10, "gold/n": 10, "kl/sequence": n / 8} for n in range(8)]
    stages = {
        "collect": {"result": {"passing": 0.5}},
        "reward": {"result": {"accuracy": 0.8, "accuracy_ci": [0.7, 0.9], "pairs_train": 1200}},
        "collect-2": {"result": {"imported": {}}},
    }
    first, second = rounds_table(RunData(name="r", lineage={"stages": stages}, metrics={"rl": rl}))
    assert first == {
        "round": "1", "passing": "50.0%", "pairs": "1,200", "accuracy": "80.0%", "accuracy_ci": "70.0–90.0",
        "steps": "8–15", "proxy": "0.500 → 6.500", "gold": "5.0% → 65.0%", "kl": "0.875",
    }  # fmt: skip
    assert set(second.values()) == {"2", "–", ""}


def test_rounds_table_weights_the_pass_rate_by_answers() -> None:
    rows = [{"step": 1, "gold/mean": 1.0, "gold/n": 1}, {"step": 2, "gold/mean": 0.0, "gold/n": 3}]
    assert _part(rows).gold == 0.25


def falling(fall: float, answers: int, proxy: float = 0.1) -> list[dict[str, float]]:
    """Eight steps whose pass rate is 0.6 and, in the last two, lower by `fall`."""
    return [
        {"step": step, "reward/mean": proxy * step, "gold/mean": 0.6 - fall * (step > 6), "gold/n": answers}
        for step in range(1, 9)
    ]


def test_alarm_by_hand() -> None:
    # Two steps of 50 answers: SE = sqrt(0.6·0.4/100 + 0.45·0.55/100) = 0.0698; 0.15 is 2.15 of it.
    alarm = find_alarm(falling(0.15, 50))
    assert alarm is not None
    assert (alarm.fall, alarm.error) == pytest.approx((0.15, 0.06982), abs=1e-5)
    assert (alarm.before.first_step, alarm.before.last_step) == (1, 2)
    assert (alarm.after.first_step, alarm.after.last_step) == (7, 8)


@pytest.mark.parametrize(
    "quiet", [falling(0.13, 50), falling(0.15, 50, proxy=-0.1), falling(-0.2, 50), falling(0.15, 0), []]
)
def test_no_alarm_within_the_error_or_while_the_score_falls_too(quiet: list[dict[str, float]]) -> None:
    assert find_alarm(quiet) is None


def test_gauge_recovers_its_own_curve() -> None:
    truth = Fit(0.5, 0.9, 0.7)
    distance = [index / 10 for index in range(12)]
    fit = fit_gain([*distance, float("nan")], [*[truth.at(d) for d in distance], 1.0])
    assert fit is not None
    assert (fit.start, fit.a, fit.b) == pytest.approx((0.5, 0.9, 0.7), abs=1e-9)
    assert fit.peak == pytest.approx(np.exp(0.9 / 0.7 - 1))
    grid = np.linspace(0.01, 3, 3000)
    assert fit.peak == pytest.approx(grid[np.argmax([truth.at(d) for d in grid])], abs=1e-3)


def test_gauge_without_spread_or_peak() -> None:
    assert fit_gain([0.5] * 9, [0.1 * n for n in range(9)]) is None
    assert fit_gain([0.1, 0.2, 0.3], [1.0, 2.0, 3.0]) is None
    assert Fit(0.0, 1.0, -0.5).peak is None


def test_curves_survive_gaps_and_odd_labels() -> None:
    series = Series("$\\frac$ <b>&", [0.0, 1.0, 2.0], [1.0, float("nan"), 3.0])
    svg = draw_curves("key", [Panel("a_b^c $", [series, Series("empty", [], [])])], "step")
    assert "$\\frac$ &lt;b&gt;&amp;" in svg and "<b>" not in svg and 'id="key-' in svg


def test_moving_average_by_hand() -> None:
    # 5 values reach 2 to each side, cut at the ends.
    assert _moving_average(np.array([0.0, 3.0, 6.0, 9.0, 12.0])) == pytest.approx([3.0, 4.5, 6.0, 7.5, 9.0])


def test_thinning_keeps_means_and_the_end() -> None:
    x = np.arange(1000.0)
    thin_x, thin_y = _thin(x, 2 * x)
    assert len(thin_x) <= MAX_POINTS + 1
    assert (thin_x[0], thin_y[0]) == (3.0, 6.0)  # the mean of 0..6
    assert (thin_x[-1], thin_y[-1]) == (999.0, 1998.0)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (decimal(-0.95), "−0.950"),
        (decimal(0.00004), "4.0e−05"),
        (decimal(0), "0.000"),
        (decimal(float("nan")), "–"),
        (decimal("0.5"), "–"),
        (percent(0.523), "52.3%"),
        (percent(True), "–"),
        (percent_interval([0.48, 0.566]), "48.0–56.6"),
        (percent_interval([0.48]), ""),
        (short_count(3_412_992), "3.41 million"),
        (short_count(950), "950"),
        (duration(552), "9 min 12 s"),
        (duration(59.99), "60.0 s"),
        (duration(7384), "2 h 3 min"),
        (visible("a\tb\nc\r\u2028é\u200b"), "a\tb\nc⟨U+000D⟩⟨U+2028⟩é⟨U+200B⟩"),
    ],
)
def test_values_as_shown(shown: str, expected: str) -> None:
    assert shown == expected
