"""Two ranks under torchrun do what one process does, through kills, restarts and other numbers of ranks."""

import json
from pathlib import Path

import check_ranks
import pytest

from trivium.preferences.store import PreferenceStore
from trivium.runs import read_manifest, read_metrics
from trivium.runs.directory import RunDir

COMPARED = {"loss", "reward/mean", "kl/sequence", "loss/sft", "loss/value", "grad_norm", "bits_per_byte/objectives"}


@pytest.mark.distributed
@pytest.mark.timeout(900)
def test_two_ranks_equal_one_through_kills_and_resharding(tmp_path: Path) -> None:
    assert check_ranks.check(tmp_path) <= check_ranks.TOLERANCE
    alone, spread = (RunDir(tmp_path / "runs" / name) for name in ("alone", "spread"))
    for stage in alone.stages():
        one, two = (run.stage(stage.name) for run in (alone, spread))
        manifest = read_manifest(two)
        assert manifest is not None and manifest.status == "done", stage
        rows, others = read_metrics(one.metrics_path), read_metrics(two.metrics_path)
        assert [row["step"] for row in rows] == [row["step"] for row in others], stage
        for row, other in zip(rows, others, strict=True):
            keys = COMPARED & row.keys()
            assert {key: other[key] for key in keys} == pytest.approx(
                {key: row[key] for key in keys}, rel=1e-3, abs=1e-4
            )
    summaries = [json.loads(run.summary_path.read_text())["models"] for run in (alone, spread)]
    for name, figures in summaries[0].items():
        assert summaries[1][name]["U"] == pytest.approx(figures["U"], rel=1e-3, abs=1e-4), name
    stored = []
    for run in (alone, spread):
        with PreferenceStore(run.preferences_path, create=False) as store:
            stored.append(store.counts())
    assert stored[0] == stored[1]
    assert not list(spread.path.rglob("*.tmp")) and not list(spread.path.glob("*/checkpoints"))


@pytest.mark.distributed
def test_what_is_wrong_is_told_once_and_by_rank_0(tmp_path: Path) -> None:
    process = check_ranks.start(tmp_path, "bad", 2, ("sft", "--sft.parent", "nowhere"), restarts=0)
    output = check_ranks.finish(process, expected=False)
    assert output.count("trivium: ") == 1 and "nowhere" in output, output
    assert "Traceback" not in output.partition("torch/distributed")[0], output
