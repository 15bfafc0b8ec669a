"""examples/three_stages.py runs as it stands and leaves three models that learned."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import trivium as tv

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "three_stages.py"


@pytest.mark.timeout(600)
def test_three_stages_on_one_page(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, EXAMPLE, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for stage, steps in (("pretrain", 20), ("sft", 20)):
        losses = [float(value) for value in re.findall(rf"^{stage}.*loss ([\d.]+)", done.stdout, re.MULTILINE)]
        assert len(losses) == steps and losses[-1] < losses[0] - 1
    assert "KL to M1 0.0000" in done.stdout  # the first batch is M1's own
    for name in ("M0", "M1", "M2"):
        model = tv.load_weights(tmp_path / name)
        assert len(model.generate(["def solve(n):\n"], max_new_tokens=4, seed=1)) == 1


def test_front_door_refuses_what_does_not_fit(tmp_path: Path) -> None:
    tokenizer = tv.Tokenizer.train(["def f(x):\n    return x\n"] * 4, vocab_size=280)
    with pytest.raises(ValueError, match="vocab_size"):
        tv.TransformerModel(tv.ModelConfig(vocab_size=10, n_layers=1, d_model=32), tokenizer)
    model = tv.TransformerModel(tv.ModelConfig(vocab_size=tokenizer.vocab_size, n_layers=1, d_model=32), tokenizer)
    alone = model.generate(["def f(x):\n"], max_new_tokens=6, seed=3)[0]
    crowd = model.generate(["x", "def f(x):\n", "return"], max_new_tokens=6, seed=3)[1]
    assert alone.ids == crowd.ids
    with pytest.raises(ValueError, match="do not match"):
        tv.ppo_update(model, ["x"], [alone, crowd], torch.zeros(2))
    with pytest.raises(ValueError, match="no preference"):
        tv.RewardModel.train(model, [])
