import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import time_to_quality
import torch
from peers import shape
from time_to_quality import BASELINE, Learner, Run, reached
from turns import OURS

from trivium.batch import Batch
from trivium.runs import RunDir
from trivium.stages.pretrain import PretrainConfig
from trivium.stages.stage import ComputeConfig, Context

ROOT = Path(__file__).parents[2]
CURVE = [(0.0, 4.0), (10.0, 2.0), (20.0, 2.5), (30.0, 1.0)]


@pytest.mark.parametrize(
    ("level", "seconds"), [(5.0, 0.0), (4.0, 0.0), (3.0, 5.0), (2.0, 10.0), (1.75, 25.0), (1.0, 30.0), (0.9, math.inf)]
)
def test_a_level_is_reached_where_the_curve_first_comes_down_to_it(level: float, seconds: float):
    assert reached(CURVE, level) == pytest.approx(seconds)


def test_the_ratio_is_that_of_the_times_to_what_the_worse_one_ends_with():
    def run(points: list[tuple[float, float]]) -> Run:
        return Run(Learner(lambda number, total: None, lambda batch: 0.0), 40.0, points=points)

    better, worse = run([(0, 4.0), (20, 2.0), (40, 1.0)]), run([(0, 4.0), (20, 3.5), (40, 3.0)])
    found = time_to_quality.result([{OURS: better, BASELINE: worse}], {})
    assert found.ratio == found.ratio_min == found.ratio_max == 4.0  # 3.0 after 10 s and after 40 s
    assert (found.trivium, found.baseline_value) == (360.0, 90.0)
    assert found.unit == "times an hour to 3.000 bits/byte"
    turned = time_to_quality.result([{OURS: worse, BASELINE: better}], {})
    assert turned.ratio == 0.25
    nobody = run([(0, 4.0), (40, 4.0)])
    assert time_to_quality.result([{OURS: nobody, BASELINE: nobody}], {}).ratio == 1.0


def test_the_schedule_follows_the_clock(monkeypatch: pytest.MonkeyPatch):
    """A first step of 10 s, then 2 s each: of 50 s there are 21 steps, known from the third on."""
    clock = 0.0
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(time, "perf_counter", lambda: clock)

    def step(number: int, total: int) -> None:
        nonlocal clock
        clock += 2.0 if number else 10.0
        seen.append((number, total))

    run = Run(Learner(step, lambda batch: 0.0), 50.0)
    for share in (0.5, 1.0):
        run.train(share)
    assert [number for number, _ in seen] == list(range(21))
    assert {total for _, total in seen[2:]} == {21}
    assert (run.steps, run.seconds) == (21, 50.0)


def test_a_run_of_so_many_steps_takes_as_many():
    seen: list[tuple[int, int]] = []
    run = Run(Learner(lambda number, total: seen.append((number, total)), lambda batch: 0.0), 0.0, fixed=5)
    run.train(0.5)
    assert len(seen) == 3
    run.train(1.0)
    assert seen == [(number, 5) for number in range(5)]


class Rows:
    """The same batch at every step, in place of a corpus."""

    def __init__(self, config_vocabulary: int):
        ids = torch.randint(config_vocabulary, (2, 16), generator=torch.Generator().manual_seed(0))
        positions = torch.cat((torch.arange(10), torch.arange(6))).expand(2, -1)
        self.only = Batch(ids, positions > 0, positions)

    def batch(self, step: int) -> Batch:
        return self.only


def test_both_learners_start_at_chance_and_learn():
    config = shape("3M", vocab_size=64, max_seq_len=16)
    context, recipe = Context(RunDir("."), seed=0, compute=ComputeConfig(precision="fp32")), PretrainConfig()
    rows = Rows(64)
    ours, compiled = time_to_quality.trivium(context, recipe, config, rows, 0)  # type: ignore[arg-type]
    plain = time_to_quality.plain(context, config, rows, 0, 2e-3)  # type: ignore[arg-type]
    assert compiled == "not compiled"
    for learner in (ours, plain):
        chance = float(rows.only.loss_mask.sum()) * math.log(64)
        assert learner.nats(rows.only) == pytest.approx(chance, rel=0.2)
        for number in range(10):
            learner.step(number, 10)
        assert learner.nats(rows.only) < 0.9 * chance


@pytest.mark.slow
def test_the_race_is_run_and_recorded(tmp_path: Path):
    file = tmp_path / "results.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "time_to_quality.py"), "--quick", "--results", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [found] = json.loads(file.read_text())["results"]
    assert found["name"] == "time to quality" and found["baseline"] == BASELINE
    assert found["ratio"] >= 0 and found["settings"][f"steps of {OURS}"] > 0
    assert "100% " in done.stdout
