"""Rows of metrics survive kills and resumes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from trivium.base.errors import RunDirError
from trivium.runs import MetricsLog, read_metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pretrain" / "metrics.jsonl"


def test_rows_are_readable_while_the_log_is_open(path: Path) -> None:
    log = MetricsLog(path)
    log.log(1, loss=2.5, **{"bits_per_byte/code": np.float32(1.5)}, tokens=np.int64(7), missing=None)
    log.log(2, loss=math.nan, grad_norm=math.inf)
    rows = read_metrics(path)
    assert rows[0] == {
        "step": 1, "time": rows[0]["time"], "loss": 2.5, "bits_per_byte/code": 1.5, "tokens": 7, "missing": None
    }  # fmt: skip
    assert rows[1]["loss"] is None and rows[1]["grad_norm"] is None
    assert "NaN" not in path.read_text()


def test_half_written_line_is_left_out_and_then_dropped(path: Path) -> None:
    with MetricsLog(path) as log:
        log.log(1, loss=1.0)
    with open(path, "a") as file:
        file.write('{"step": 2, "time": 9, "lo')
    assert [row["step"] for row in read_metrics(path)] == [1]
    with MetricsLog(path) as log:
        log.log(2, loss=0.5)
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_truncate_after_a_checkpoint(path: Path) -> None:
    with MetricsLog(path) as log:
        for step in range(1, 6):
            log.log(step, loss=1 / step)
        log.truncate_after(3)
        log.log(4, loss=9.0)
    assert [(row["step"], row["loss"]) for row in read_metrics(path)] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 9.0)]


def test_time_goes_on_from_the_last_row_kept(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("".join(json.dumps({"step": step, "time": 100.0 * step}) + "\n" for step in (1, 2, 3)))
    with MetricsLog(path) as log:
        log.truncate_after(2)
        log.log(3)
    assert 200 <= read_metrics(path)[-1]["time"] < 205


@pytest.mark.parametrize(("values", "error"), [({"loss": "low"}, TypeError), ({"time": 1.0}, ValueError)])
def test_what_is_no_metric_is_refused(path: Path, values: dict, error: type[Exception]) -> None:
    with MetricsLog(path) as log, pytest.raises(error):
        log.log(1, **values)
    assert read_metrics(path) == []


@pytest.mark.parametrize("line", ["{oops", "[1]", '{"loss": 1}'])
def test_broken_line_in_the_middle_names_its_number(path: Path, line: str) -> None:
    path.parent.mkdir()
    path.write_text('{"step": 1, "time": 0}\n' + line + '\n{"step": 2, "time": 0}\n')
    with pytest.raises(RunDirError, match="line 2"):
        read_metrics(path)


def test_no_file_has_no_rows(path: Path) -> None:
    assert read_metrics(path) == []
