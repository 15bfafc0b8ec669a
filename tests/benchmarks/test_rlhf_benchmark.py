import json
import os
import subprocess
import sys
from pathlib import Path

import everything
import pytest
import torch
from plain_rlhf import LAMBDA, advantages_of
from rlhf import PARTS, PLAIN, QUICK
from turns import OURS, results

from trivium.objectives.policy import gae

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("part", ["ppo", "grpo", "reward"])
def test_both_sides_count_the_same_work(part: str):
    _, _, trivium, plain, _ = PARTS[part]
    amount = trivium(QUICK)()
    assert amount == plain(QUICK)()
    assert amount == {"ppo": QUICK.prompts, "grpo": QUICK.prompts, "reward": QUICK.steps * QUICK.pairs}[part]


def test_fine_tuning_counts_real_tokens():
    _, _, trivium, plain, _ = PARTS["sft"]
    full = QUICK.steps * QUICK.rows * QUICK.seq_len
    assert plain(QUICK)() == full
    done = trivium(QUICK)()
    assert isinstance(done, float | int) and 0.9 * full < done <= full


def test_documents_fill_their_rows():
    cut = QUICK.documents(50)
    assert all(sum(map(len, row)) == QUICK.seq_len for row in cut)
    assert {len(row) for row in cut} == {2, 3, 4, 5, 6}
    assert min(len(document) for row in cut for document in row) >= QUICK.seq_len // 16


def test_the_plain_loop_s_advantages_are_those_of_the_objectives():
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(3, 5, generator=generator), torch.randn(3, 5, generator=generator)
    expected, _ = gae(rewards, values, torch.ones(3, 5, dtype=torch.bool), 1.0, LAMBDA)
    torch.testing.assert_close(advantages_of(rewards, values), expected)


@pytest.mark.slow
def test_without_trl_its_rows_are_left_out_and_told(tmp_path: Path):
    file = tmp_path / "results.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "rlhf.py"), "--quick", "--no-trl", "--results", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(file.read_text())
    assert [each["name"] for each in record["results"]] == [part[0] for part in PARTS.values()]
    assert {each["baseline"] for each in record["results"]} == {PLAIN}
    assert all(each["trivium"] > 0 and each["ratio"] > 0 for each in record["results"])
    told = [f"{name}, {baseline}: --no-trl" for name, _, _, _, trl in PARTS.values() for baseline in trl]
    assert record["left_out"] == told
    assert all(f"left out: {each}" in done.stdout for each in told)


def test_the_page_lists_what_was_left_out():
    found = results("work", {OURS: [2.0], "other": [1.0]}, "tokens/s", {"batch": 8})
    ceilings = {"rlhf.py": {"GEMM bfloat16, GFLOP/s": 800.0}}
    page = everything.page(found, ceilings, [], 60.0, ["PPO iteration, TRL: trl not installed: pip install it"])
    assert "## Left out\n\n- PPO iteration, TRL: trl not installed: pip install it\n" in page
    assert "Left out" not in everything.page(found, ceilings, [], 60.0)
