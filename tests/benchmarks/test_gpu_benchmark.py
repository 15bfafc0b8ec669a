import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpu

ROOT = Path(__file__).parents[2]


def test_a_packed_row_is_four_documents():
    positions = gpu.documents(1024)
    assert len(positions) == 1024 and int((positions == 0).sum()) == 4
    assert positions.max() == round(1024 * max(gpu.DOCUMENTS)) - 1


def test_utilisation_counts_what_a_model_needs():
    config = gpu.shape("125M", gpu.VOCABULARY, gpu.SEQ_LEN)
    assert gpu.model_flops(config, 1024) == 6 * config.parameter_count + 12 * 12 * 768 * 1024


@pytest.mark.slow
def test_it_runs_small_where_there_is_no_gpu():
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--quick"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("training, 3M |", "training, 3M, packed documents |", "training, 3M, fp8 |", "sampling, 3M |", "PPO"):
        assert f"| {line}" in done.stdout


def test_without_a_gpu_it_says_so():
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (
        done.returncode == 2
        and done.stderr == "gpu.py: torch finds no CUDA device here. See that it runs with --quick.\n"
    )
