from collections import Counter

import pytest
import torch
import tuning

from trivium.runs import RunDir
from trivium.stages.dial import PRETRAIN_FACTOR
from trivium.stages.pretrain import PretrainConfig
from trivium.stages.stage import ComputeConfig, Context


def context() -> Context:
    return Context(RunDir("."), seed=0, compute=ComputeConfig(precision="fp32"))


def test_no_run_is_planned_twice_under_one_name():
    trials = list(tuning.plan())
    assert len(trials) > 40
    kinds = Counter(trial.key for trial in trials)
    assert set(kinds.values()) == {1}


@pytest.mark.parametrize("ramp", [False, True])
def test_all_runs_see_the_same_tokens(ramp: bool):
    trial = tuning.Trial("choices", "", 2, ramp=ramp)
    sizes = tuning.batches(trial, tuning.TOKENS, tuning.SEQ_LEN)
    assert sum(sizes) * tuning.SEQ_LEN == tuning.TOKENS
    assert sizes == sorted(sizes) and sizes[-1] == trial.rows
    assert sizes[0] == (trial.rows // 4 if ramp else trial.rows)


def test_a_departure_departs_in_one_thing():
    plain, *others = tuning.choices(2, 0)
    fields = tuning.Trial.__dataclass_fields__
    for other in others:
        changed = {name for name in fields if getattr(plain, name) != getattr(other, name)} - {"label"}
        allowed = {"optimizer", "adamw"} if other.optimizer == "adamw" else changed
        assert changed and changed <= allowed | {"schedule", "decay_fraction"}, other.label
        assert len(changed) == 1 or other.label == "cosine" or other.optimizer == "adamw"


def test_the_trials_build_what_they_say():
    plain = tuning.build(tuning.Trial("", "", 2), context(), 64, 16)
    names = [name for name, _ in plain.named_parameters() if name.endswith(("o_proj.weight", "down_proj.weight"))]
    assert plain.config.qk_norm and plain.config.n_kv_heads == 2
    assert all(not plain.get_parameter(name).any() for name in names)
    drawn = tuning.build(tuning.Trial("", "", 2, zero_init=False), context(), 64, 16)
    assert all(drawn.get_parameter(name).std().item() == pytest.approx(0.01, rel=0.1) for name in names)
    assert torch.equal(drawn.embedding.weight, plain.embedding.weight)
    other = tuning.build(tuning.Trial("", "", 2, qk_norm=False, grouped=2, tie=False), context(), 64, 16)
    assert not other.config.qk_norm and other.config.n_kv_heads == 1 and other.head is not None


def test_rates_are_multiples_by_width():
    recipe = PretrainConfig().optim
    optim = tuning.optimiser(tuning.Trial("", "", 8, muon=0.5, adamw=PRETRAIN_FACTOR), 512)
    assert optim.lr == recipe.lr * PRETRAIN_FACTOR / 2 and optim.muon_lr == recipe.muon_lr / 2
    assert optim.warmup_steps == recipe.warmup_steps
