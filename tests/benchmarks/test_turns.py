import itertools
import json
import statistics
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peers import ours, products, shape
from torch.utils.flop_counter import FlopCounterMode
from turns import OURS, Result, allow, options, publish, ratios, results, table, take_turns

rates_of_turns = st.lists(st.tuples(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6)), min_size=1, max_size=9)


def result(**changes: object) -> Result:
    values = {
        "name": "training, 3M",
        "ratio": 2.345,
        "ratio_min": 1.5,
        "ratio_max": 3.0,
        "target": 2.0,
        "trivium": 12345.6,
        "baseline": "other",
        "baseline_value": 5432.1,
        "unit": "tokens/s",
        "settings": {},
    }
    return Result(**(values | changes))  # type: ignore[arg-type]


def test_contestants_alternate_and_warmups_are_thrown_away():
    order = []

    def work(name: str):
        amounts = itertools.count(1)

        def turn() -> float:
            order.append(name)
            return float(next(amounts))

        return turn

    rates = take_turns({"a": work("a"), "b": work("b"), "c": work("c")}, turns=3, warmups=2)
    assert order == ["a", "b", "c"] * 5
    assert {name: len(each) for name, each in rates.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_rate_is_the_amount_over_the_turn_s_own_time(monkeypatch: pytest.MonkeyPatch):
    clock = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: clock)

    def work(amount: float, seconds: list[float]):
        left = iter(seconds)

        def turn() -> float:
            nonlocal clock
            clock += next(left)
            return amount

        return turn

    rates = take_turns({"a": work(10.0, [100.0, 2.0, 5.0]), "b": work(6.0, [100.0, 3.0, 1.0])}, turns=2)
    assert rates == {"a": [5.0, 2.0], "b": [2.0, 6.0]}


def test_a_contestant_may_say_which_seconds_count():
    assert take_turns({"a": lambda: (6.0, 3.0)}, turns=2) == {"a": [2.0, 2.0]}


def test_ratios_are_taken_turn_by_turn():
    """Load doubles everybody's time in the second turn: rates halve, the ratio stays."""
    rates = {OURS: [8.0, 4.0, 9.0], "other": [4.0, 2.0, 3.0]}
    assert ratios(rates, OURS, "other") == [2.0, 2.0, 3.0]
    assert ratios(rates, "other", OURS) == [0.5, 0.5, pytest.approx(1 / 3)]


def test_ratios_of_unequal_numbers_of_turns_are_refused():
    with pytest.raises(ValueError, match="zip"):
        ratios({OURS: [1.0, 2.0], "other": [1.0]}, OURS, "other")


def test_the_ratio_is_the_median_of_the_turns_not_the_ratio_of_medians():
    rates = {OURS: [1.0, 10.0, 6.0], "other": [1.0, 2.0, 6.0], "third": [2.0, 20.0, 3.0]}
    found = results("work", rates, "tokens/s", {"batch": 8}, target=1.5)
    assert [each.baseline for each in found] == ["other", "third"]
    first, second = found
    assert (first.ratio, first.ratio_min, first.ratio_max) == (1.0, 1.0, 5.0)  # of medians it were 6 / 2
    assert (first.trivium, first.baseline_value) == (6.0, 2.0)
    assert (second.ratio, second.ratio_min, second.ratio_max) == (0.5, 0.5, 2.0)
    assert all(each.target == 1.5 and each.unit == "tokens/s" and each.name == "work" for each in found)
    assert first.settings["batch"] == 8 and first.settings["turns"] == 3 and first.settings["threads"] >= 1
    assert first.versions["torch"] and first.versions["python"]


@given(rates_of_turns, st.floats(0.1, 10))
def test_a_load_common_to_a_turn_changes_no_ratio(turns: list[tuple[float, float]], load: float):
    plain = {OURS: [a for a, _ in turns], "other": [b for _, b in turns]}
    loads = [load if index % 2 else 1.0 for index in range(len(turns))]
    loaded = {name: [rate * each for rate, each in zip(rates, loads, strict=True)] for name, rates in plain.items()}
    assert ratios(loaded, OURS, "other") == pytest.approx(ratios(plain, OURS, "other"))
    [found] = results("work", plain, "x", {})
    assert found.ratio_min <= found.ratio <= found.ratio_max
    assert found.ratio == statistics.median(ratios(plain, OURS, "other"))


def test_the_table_says_ratio_spread_and_whether_the_target_is_met():
    lines = table([result(), result(ratio=1.9, baseline="third"), result(target=None)]).split("\n")
    assert lines[0].startswith("| what | unit | trivium | baseline |")
    assert lines[2] == ("| training, 3M | tokens/s | 1.235e+04 | other | 5432 | 2.35 (1.50 to 3.00) | 2.00 met |  |")
    assert lines[3].endswith("| 1.90 (1.50 to 3.00) | 2.00 missed |  |")
    assert lines[4].endswith("| 2.35 (1.50 to 3.00) |  |  |")
    assert len({line.count("|") for line in lines}) == 1


def test_what_products_allow_is_the_machines_rate_over_the_baselines():
    """400 GFLOP/s make 200 units of 2 GFLOP a second, where the baseline makes 50."""
    [limited] = results("work", {OURS: [60.0], "other": [50.0]}, "x", {}, gflop=2.0)
    [shown] = allow([limited], peak=400.0)
    assert shown.settings["products allow"] == 4.0 and table([shown]).endswith("|  | 4.0 |")
    assert allow([result()], peak=400.0) == [result()], "nothing is said of other work"


def test_the_target_is_met_at_the_target_itself():
    assert "2.00 met" in table([result(ratio=2.0)])


def test_results_are_published_as_printed_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "results.json"
    chosen = options("about").parse_args(["--results", str(file), "--turns", "3"])
    assert chosen.turns == 3 and not chosen.quick
    publish([result()], chosen, ["a peer: not installed"])
    printed = capsys.readouterr().out
    assert "left out: a peer: not installed\n" in printed
    assert table([result()]) in printed and "GEMM bfloat16, GFLOP/s" in printed
    record = json.loads(file.read_text())
    assert Result(**record["results"][0]) == result()
    assert record["left_out"] == ["a peer: not installed"]
    assert all(value > 0 for value in record["ceiling"].values())


@pytest.mark.parametrize("head", [True, False])
def test_products_are_those_that_a_pass_takes(head: bool):
    config = shape("3M")
    model, ids = ours(config, torch.float32), torch.arange(60).view(2, 30)
    places = torch.tensor([3, 20, 21, 59])
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        hidden = model.hidden_at(places, ids)
        if head:
            model.logits(hidden)
    found = sum(count for name, count in counted.get_flop_counts()["Global"].items() if str(name) == "aten.mm")
    assert found == pytest.approx(1e9 * products(config, 60, 4, head=head))
