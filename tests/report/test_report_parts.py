"""What the report says and draws, piece by piece."""

import numpy as np
import pytest

from trivium.report.charts import rl_charts, utility_chart
from trivium.report.plots import MAX_POINTS, Panel, Series, _moving_average, _thin, draw_curves
from trivium.report.source import STAGES, RunData
from trivium.report.tables import reward_model_table, story, warnings
from trivium.report.values import decimal, duration, percent, percent_interval, short_count, visible


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


def test_rl_charts_without_gold_show_the_rest() -> None:
    rows = [
        {"step": step, "reward/mean": step / 10, "kl/sequence": step / 100, "round": step // 5} for step in range(10)
    ]
    charts = {chart.key: chart for chart in rl_charts(RunData(name="r", metrics={"rl": rows}))}
    assert "pass rate" not in charts["rl-gold"].svg and "mean score" in charts["rl-gold"].svg
    assert "a new round" in charts["rl-gold"].caption
    assert charts["rl-utility"].missing


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
