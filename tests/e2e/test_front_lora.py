"""Adapters through the Python front door: M1 and M2 train with them, and the files are those of the stages."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import trivium as tv
from trivium.base.errors import ConfigError, InputError, ModelError
from trivium.model.lora import adapted, merged
from trivium.optim import OptimConfig
from trivium.rl.learner import LearnerConfig

CORPUS = ["def add(a, b):\n    return a + b\n", "def twice(x):\n    return 2 * x\n"] * 4
PROMPTS = ["def add(a, b):\n", "def twice(x):\n"]
LORA = tv.LoRAConfig(rank=2, alpha=8, targets=("q_proj", "up_proj"))
OPTIM = OptimConfig(lr=1e-2, warmup_steps=0, schedule="constant")
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def m0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer, folder = tv.Tokenizer.train(CORPUS, vocab_size=280), tmp_path_factory.mktemp("front") / "M0"
    shape = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "d_ff": 48, "max_seq_len": 64}
    model = tv.TransformerModel(tv.ModelConfig.model_validate(shape | {"vocab_size": tokenizer.vocab_size}), tokenizer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # weights that leave no part of it idle: output projections begin at zero otherwise
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    tv.save_weights(model, folder)
    return folder


def logits(model: tv.TransformerModel) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(4, 20)[None])


def tune(model: tv.TransformerModel, steps: int = 3) -> list[float]:
    """Some updates on one batch of the corpus; the losses."""
    batch = tv.tokenize(CORPUS, model.tokenizer)
    return [model.update(model.loss(batch))["loss"] for _ in range(steps)]


def reinforce(policy: tv.TransformerModel, reward: Tensor, **options: object) -> tv.TransformerModel:
    prompts = PROMPTS * 4
    settings = LearnerConfig.model_validate({"optim": OPTIM.model_dump(), "minibatches": 1} | options)
    return tv.ppo_update(policy, prompts, policy.generate(prompts, max_new_tokens=6, seed=1), reward, settings)


def test_m1_trains_adapters_alone_and_is_written_as_the_stages_write(m0: Path, tmp_path: Path) -> None:
    plain, model = tv.load_weights(m0), tv.load_weights(m0, OPTIM, lora=LORA)
    assert torch.equal(logits(model), logits(plain)), "new adapters change nothing"
    losses = tune(model)
    assert losses[-1] < losses[0] and not torch.equal(logits(model), logits(plain))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2 and all("lora_" in name for name in trained)
    tv.save_weights(model, tmp_path / "M1")
    before, after = load_file(m0 / WEIGHTS), load_file(tmp_path / "M1" / WEIGHTS)
    changed = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert before.keys() == after.keys() and len(changed) == 4
    assert all(name.removesuffix(".weight").endswith(LORA.targets) for name in changed)
    torch.testing.assert_close(logits(tv.load_weights(tmp_path / "M1")), logits(model), atol=1e-5, rtol=0)
    settings = json.loads((tmp_path / "M1/adapter/adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["base_model_name_or_path"]) == (2, 8, str(m0))
    tv.save_weights(model.merge_and_unload(), tmp_path / "M1")
    assert not (tmp_path / "M1/adapter").exists(), "an adapter of other weights is not left behind"


def test_peft_opens_what_the_front_door_writes(m0: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs the `test` extra")
    transformers = pytest.importorskip("transformers", reason="needs the `test` extra")
    model = tv.load_weights(m0, OPTIM, lora=LORA)
    tune(model)
    tv.save_weights(model, tmp_path)
    base = transformers.AutoModelForCausalLM.from_pretrained(m0, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    with torch.no_grad():
        found = theirs(torch.arange(4, 20)[None]).logits
    torch.testing.assert_close(found, logits(model), atol=1e-4, rtol=0)


def test_an_adapter_read_back_goes_on_training(m0: Path, tmp_path: Path) -> None:
    model = tv.load_weights(m0, OPTIM, lora=LORA)
    tune(model)
    tv.save_weights(model, tmp_path)
    again = tv.load_weights(m0, OPTIM).load_adapter(tmp_path / "adapter")
    assert torch.equal(logits(again), logits(model)) and again.adapter == LORA
    assert tune(again, 1)[0] == pytest.approx(model.loss(tv.tokenize(CORPUS, model.tokenizer)).item(), rel=1e-6)


def test_the_reference_is_m1_with_its_adapter_and_shares_what_is_frozen(m0: Path) -> None:
    policy = tv.load_weights(m0, OPTIM, lora=LORA)
    tune(policy)
    m1, frozen = copy.deepcopy(policy), {n: p.clone() for n, p in policy.named_parameters() if not p.requires_grad}
    reward = torch.linspace(-1, 1, 8)
    reinforce(policy, reward)
    assert policy.last_stats["kl/sequence"] == 0 and policy.last_stats["ratio/max"] == pytest.approx(1, abs=1e-5)
    reinforce(policy, reward)
    assert policy.last_stats["kl/sequence"] != 0
    learner = policy._learner
    assert learner is not None
    torch.testing.assert_close(logits(learner.reference), logits(m1))  # type: ignore[arg-type]
    assert not torch.equal(logits(policy), logits(m1))
    reference = dict(learner.reference.named_parameters())
    for name, parameter in policy.named_parameters():
        shared = reference[name].data_ptr() == parameter.data_ptr()
        assert shared == (name in frozen), name
        assert name not in frozen or torch.equal(parameter, frozen[name]), name
    assert [name for name, p in learner.critic.named_parameters() if "lora_" in name] == []  # type: ignore[union-attr]


def test_m2_may_have_adapters_of_its_own_on_merged_m1(m0: Path, tmp_path: Path) -> None:
    m1 = tv.load_weights(m0, OPTIM, lora=LORA)
    tune(m1)
    policy = m1.merge_and_unload()
    assert all(parameter.requires_grad for parameter in policy.parameters()) and policy.adapter is None
    assert not any(p.requires_grad for n, p in m1.named_parameters() if "lora_" not in n), "M1 stays as it is"
    torch.testing.assert_close(logits(policy), logits(m1), atol=1e-5, rtol=0)
    reinforce(policy.add_adapter(tv.LoRAConfig(rank=3)), torch.linspace(-1, 1, 8))
    assert len(list(adapted(policy))) == 14 and not torch.equal(logits(policy), logits(m1))
    tv.save_weights(policy, tmp_path)
    torch.testing.assert_close(logits(tv.load_weights(tmp_path)), logits(policy), atol=1e-5, rtol=0)


def test_r_is_trained_on_a_model_with_adapters_as_on_the_merged_one(m0: Path) -> None:
    model = tv.load_weights(m0, OPTIM, lora=LORA)
    tune(model)
    pairs = [{"prompt": p, "chosen": "    return 1\n", "rejected": "    pass\n"} for p in PROMPTS]
    one, two = (tv.RewardModel.train(base, pairs, epochs=1) for base in (model, model.merge_and_unload()))
    torch.testing.assert_close(
        one.batch_evaluate(PROMPTS, ["    return 1\n"] * 2), two.batch_evaluate(PROMPTS, ["    return 1\n"] * 2)
    )


def test_a_copy_leaves_optimiser_and_learner_behind(m0: Path) -> None:
    model = tv.load_weights(m0, OPTIM)
    tune(model, 1)
    reinforce(model, torch.linspace(-1, 1, 8))
    other = copy.deepcopy(model)
    assert other._optimizer is None and other._learner is None and other.tokenizer is model.tokenizer
    assert torch.equal(logits(other), logits(model))
    tune(other, 1)
    assert not torch.equal(logits(other), logits(model)) and merged(model) is model


def test_adapters_that_do_not_fit_are_refused(m0: Path, tmp_path: Path) -> None:
    model = tv.load_weights(m0, OPTIM)
    with pytest.raises(ConfigError, match=r"rank 0 has nothing to train"):
        model.add_adapter(tv.LoRAConfig())
    with pytest.raises(ConfigError, match=r"lora.rank = 64 exceeds 32"):
        model.add_adapter(tv.LoRAConfig(rank=64))
    with pytest.raises(ModelError, match=r"adapter_config.json cannot be read .*Name the folder of an adapter"):
        model.load_adapter(tmp_path)
    model.add_adapter(LORA)
    with pytest.raises(InputError, match=r"has an adapter. Take merge_and_unload"):
        model.add_adapter(LORA)
    tv.save_weights(model, tmp_path)
    path = tmp_path / "adapter/adapter_config.json"
    settings = json.loads(path.read_text())
    changes = {"use_dora": (True, r"use_dora = True is not known"), "target_modules": ("all-linear", "holds no r")}
    for key, (value, told) in changes.items():
        path.write_text(json.dumps(settings | {key: value}))
        with pytest.raises(ModelError, match=told):
            tv.load_weights(m0).load_adapter(tmp_path / "adapter")
    late = tv.load_weights(m0)
    reinforce(late, torch.linspace(-1, 1, 8))
    with pytest.raises(InputError, match=r"ppo_update has been called"):
        late.add_adapter(LORA)
