"""A run with adapters from corpus to M2: merged weights, adapter/ beside them, M1 as the reference."""

import json
from pathlib import Path

import check_ranks
import check_resume
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from trivium.base.recipe import load_config
from trivium.model.lora import TARGETS
from trivium.runs import RunDir, read_manifest, read_metrics
from trivium.stages.pipeline import Recipe, run_pipeline

FLAGS = ["--sft.lora.rank", "4", "--sft.keep", "best", "--rl.lora.rank", "2", "--rl.lora.targets", "q_proj", "up_proj"]
FLAGS += ["--rl.learner.optim.lr", "1e-3"]


def recipe(*more: str) -> Recipe:
    return load_config(Recipe, None, [*check_resume.FLAGS.split(), "--runs_dir", "runs", "--name", "small", *more])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_pipeline(recipe(*FLAGS))
    return folder / "runs/small"


def rebuilt(base: Path, model: Path) -> dict[str, Tensor]:
    """What PEFT would make of a base and the adapter beside a model: by its names, W + lora_alpha / r · B A."""
    settings = json.loads((model / "adapter/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == base.name
    weights, factors = load_file(base / "model.safetensors"), load_file(model / "adapter/adapter_model.safetensors")
    for name in [name for name in weights if name.removesuffix(".weight").endswith(tuple(settings["target_modules"]))]:
        down, up = (factors.pop(f"base_model.model.{name.removesuffix('weight')}lora_{each}.weight") for each in "AB")
        assert down.shape[0] == up.shape[1] == settings["r"] and up.abs().max() > 0
        weights[name] = weights[name] + settings["lora_alpha"] / settings["r"] * (up @ down)
    assert not factors
    return weights


@pytest.mark.slow
@pytest.mark.parametrize(("base", "model", "targets"), [("M0", "M1", TARGETS), ("M1", "M2", ("q_proj", "up_proj"))])
def test_models_are_their_base_and_their_adapter(run: Path, base: str, model: str, targets: tuple[str, ...]) -> None:
    transformers = pytest.importorskip("transformers", reason="parity needs the `hf` extra")
    weights, before = (load_file(run / name / "model.safetensors") for name in (model, base))
    expected = rebuilt(run / base, run / model)
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
        assert torch.equal(tensor, before[name]) == (not name.removesuffix(".weight").endswith(targets)), name
    plain = transformers.AutoModelForCausalLM.from_pretrained(run / base, dtype=torch.float32)
    plain.load_state_dict(expected, strict=False)
    merged = transformers.AutoModelForCausalLM.from_pretrained(run / model, dtype=torch.float32)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, plain(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("base", "model"), [("M0", "M1"), ("M1", "M2")])
def test_peft_opens_the_adapter_on_its_base(run: Path, base: str, model: str) -> None:
    transformers = pytest.importorskip("transformers", reason="parity needs the `hf` extra")
    peft = pytest.importorskip("peft", reason="the adapter files are PEFT's")
    plain, merged = (
        transformers.AutoModelForCausalLM.from_pretrained(run / name, dtype=torch.float32) for name in (base, model)
    )
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before = plain(ids).logits.clone()
        adapted = peft.PeftModel.from_pretrained(plain, run / model / "adapter")(ids).logits
        torch.testing.assert_close(adapted, merged(ids).logits, atol=1e-4, rtol=0)
        assert not torch.allclose(before, adapted, atol=1e-3)


@pytest.mark.slow
def test_the_reference_is_m1_with_its_adapter(run: Path) -> None:
    """At the first step policy and reference are one, which M0 as the reference would belie."""
    first = read_metrics(RunDir(run).stage("rl").metrics_path)[0]
    assert first["kl/sequence"] == pytest.approx(0, abs=1e-5) and first["ratio/first_deviation"] < 1e-5
    rows = {row["model"]: row for row in map(json.loads, (run / "utility.jsonl").read_text().splitlines())}
    assert rows["M1"]["omega"] == pytest.approx(0, abs=1e-6) and rows["M0"]["omega"] > 1e-3 and rows["M2"]["omega"] > 0


@pytest.mark.slow
def test_later_rounds_go_on_with_the_adapters_of_the_round_before(run: Path) -> None:
    """One adapter on M1 over all rounds: of the same rank, and moved by the second round."""
    one, two = (load_file(run / name / "adapter/adapter_model.safetensors") for name in ("rl/policy", "M2"))
    assert one.keys() == two.keys() and all(one[name].shape == two[name].shape for name in one)
    apart = max((one[name] - two[name]).abs().max().item() for name in one if "lora_A" in name)
    assert 0 < apart < 0.05, "a fresh A would be another draw"
    for stage, model in (("sft", "M1"), ("rl-2", "M2")):
        manifest = read_manifest(RunDir(run).stage(stage))
        assert manifest is not None
        numbers = load_file(run / model / "adapter/adapter_model.safetensors").values()
        assert manifest.result["trained_parameters"] == sum(tensor.numel() for tensor in numbers)


@pytest.mark.slow
def test_training_all_weights_again_leaves_no_adapter_behind(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Last in this file: it replaces M1."""
    monkeypatch.chdir(run.parents[1])
    before = load_file(run / "M1/model.safetensors")
    run_pipeline(recipe(), only="sft", force=True)
    after = load_file(run / "M1/model.safetensors")
    assert not (run / "M1/adapter").exists() and not any(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.timeout(600)
def test_two_ranks_train_the_adapters_that_one_does(tmp_path: Path) -> None:
    for name, ranks in (("alone", 1), ("spread", 2)):
        check_ranks.finish(check_ranks.start(tmp_path, name, ranks, ("run", *FLAGS), restarts=0))
    alone, spread = (tmp_path / "runs" / name for name in ("alone", "spread"))
    for model in ("M1", "M2"):
        assert check_ranks.difference(alone, spread, model) <= check_ranks.TOLERANCE
        one, two = (load_file(folder / model / "adapter/adapter_model.safetensors") for folder in (alone, spread))
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=0, atol=check_ranks.TOLERANCE)
