import json
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import growth
import pytest
from turns import OURS, results

from trivium.model import Decoder

ROOT = Path(__file__).parents[2]


def test_the_series_change_one_thing_each():
    tokens = {point.batch * point.seq_len for point in growth.SERIES["sequence"]}
    assert tokens == {4096} and len({point.size for point in growth.SERIES["sequence"]}) == 1
    assert [point.seq_len for point in growth.SERIES["sequence"]] == [128, 256, 512, 1024, 2048]
    assert len({(point.size, point.seq_len) for point in growth.SERIES["batch"]}) == 1
    assert len({(point.batch, point.seq_len) for point in growth.SERIES["parameters"]}) == 1
    counts = [growth.shape(point).parameter_count for point in growth.SERIES["parameters"]]
    assert all(1.5 < b / a < 4 for a, b in pairwise(counts)) and counts[0] < 2e6 and counts[-1] > 1e8


def test_the_models_have_the_parameters_that_the_flops_count():
    point = growth.SERIES["parameters"][0]
    config = growth.shape(point)
    assert Decoder(config).parameter_count() == config.parameter_count
    assert growth.flops_per_token(config, 512) == 6 * config.parameter_count + 12 * 5 * 128 * 512


def test_memory_is_compared_as_its_inverse():
    point = growth.Point("batch", "3M", 4, 256)
    settings = {"flops a token": 1e6}
    [speed] = results("growth with batch", {OURS: [300.0], growth.PEER: [200.0]}, "tokens/s", settings)
    [memory] = results("peak", {OURS: [1 / 0.5], growth.PEER: [1 / 0.75]}, "1/GB", settings, growth.MEMORY_TARGET)
    assert math.isclose(memory.ratio, 1.5) and point.label == "4 rows"
    row = growth.growth_table([(speed, memory)]).splitlines()[-1]
    assert "| 1.50 (1.50 to 1.50) | 0.50 | 0.75 | 0.67 |" in row


@pytest.mark.slow
def test_a_failed_measurement_is_named():
    with pytest.raises(RuntimeError, match="KeyError: 'none'"):
        growth.in_a_process(OURS, growth.Point("parameters", "none", 1, 16), 0.0, tuned=False)


@pytest.mark.slow
def test_the_growth_is_measured_and_recorded(tmp_path: Path):
    file = tmp_path / "results.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "growth.py"), "--quick", "--results", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(file.read_text())
    assert not record["left_out"]
    speed, memory = record["results"]
    assert (speed["unit"], memory["unit"], memory["target"]) == ("tokens/s", "1/GB", 1.0)
    assert 0 < 1 / memory["trivium"] < 2 and speed["trivium"] > 0
