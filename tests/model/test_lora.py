"""Adapters do what W + α/r · B A would, leave the base alone, and stand in files as PEFT names them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call

from trivium.base.errors import ConfigError, ModelError
from trivium.base.machine import cxx_compiler
from trivium.generation import generate
from trivium.model import Decoder, LoRAConfig, save_model
from trivium.model.lora import TARGETS, adapted, add_lora, load_adapter, merged, save_adapter, twin

Make = Callable[..., Decoder]
FAMILIES = ["qwen3", "qwen2", "llama"]
IDS = torch.randint(0, 48, (3, 20), generator=torch.Generator().manual_seed(3))


def with_adapters(model: Decoder, rank: int = 4, *, filled: bool = True, **settings: object) -> Decoder:
    """The model with adapters, whose B is no longer zero if they are `filled`."""
    add_lora(model, LoRAConfig.model_validate({"rank": rank, **settings}), seed=0, purpose="test")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, linear in adapted(model) if filled else ():
            linear.lora_B.copy_(0.1 * torch.randn(linear.lora_B.shape, generator=generator))
    return model


def explicit(model: Decoder) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Weights of a plain decoder, W + α/r · B A written out, and the leaves A and B that they are made of."""
    config, leaves = model.adapter, []
    assert config is not None
    weights = {name: tensor for name, tensor in model.state_dict().items() if "lora_" not in name}
    for name, linear in adapted(model):
        down, up = (tensor.detach().clone().requires_grad_() for tensor in (linear.lora_A, linear.lora_B))
        leaves += [down, up]
        weights[f"{name}.weight"] = linear.weight + config.alpha / config.rank * (up @ down)
    return weights, leaves


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_new_adapters_change_no_bit(make_decoder: Make, family: str, dtype: torch.dtype) -> None:
    plain = make_decoder(family=family)
    plain.compute_dtype = dtype
    model = with_adapters(twin(plain), filled=False)
    with torch.no_grad():
        assert torch.equal(model(IDS), plain(IDS))
    assert torch.equal(model(IDS), plain(IDS)), "nor where a gradient is wanted"


def test_a_is_drawn_as_in_peft_and_only_by_seed_purpose_and_name(make_decoder: Make) -> None:
    def draw(seed: int = 0, purpose: str = "sft", **settings: object) -> dict[str, Tensor]:
        model = make_decoder()
        add_lora(model, LoRAConfig.model_validate({"rank": 8, **settings}), seed, purpose)
        return {name: linear.lora_A.detach() for name, linear in adapted(model)}

    first = draw()
    assert len(first) == 2 * len(TARGETS) and len({tensor.sum().item() for tensor in first.values()}) == len(first)
    for name, tensor in first.items():  # kaiming_uniform_(a=√5): ±√(6 / (1 + 5) / in)
        bound = (48 if "down_proj" in name else 32) ** -0.5
        assert 0.9 * bound < tensor.abs().max() <= bound
        assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)
    few = draw(targets=["v_proj", "q_proj"])
    assert all(torch.equal(tensor, first[name]) for name, tensor in few.items()) and len(few) == 4
    for other in (draw(seed=1), draw(purpose="rl")):
        assert not any(torch.equal(tensor, other[name]) for name, tensor in first.items())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_those_of_the_sum_written_out(make_decoder: Make, family: str, recompute: bool) -> None:
    model = with_adapters(make_decoder(family=family).double(), rank=3, alpha=5.0)
    model.compute_dtype, model.recompute = torch.float64, recompute
    positions = torch.cat((torch.arange(8), torch.arange(12))).expand(3, -1)
    plain = make_decoder(family=family).double()
    plain.compute_dtype = torch.float64
    weights, leaves = explicit(model)
    expected = functional_call(plain, weights, (IDS, positions))
    slopes = torch.autograd.grad(expected.square().sum(), leaves)
    logits = model(IDS, positions)
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)  # logits are fp32
    logits.square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(found) == {f"{name}.lora_{factor}" for name, _ in adapted(model) for factor in "AB"}
    for (name, gradient), slope in zip(found.items(), slopes, strict=True):
        torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-6 * slope.abs().max().item(), msg=name)


def test_the_backward_pass_keeps_no_matrix(make_decoder: Make) -> None:
    """What is kept of the weights is the parameters themselves: merged matrices would be a copy of the model."""
    model, kept = with_adapters(make_decoder()), []
    model.compute_dtype = torch.bfloat16
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model.hidden(IDS)
    shapes = {linear.weight.shape for _, linear in adapted(model)}
    matrices = [tensor for tensor in kept if tensor.shape in shapes]
    own = {p.data_ptr() for p in model.parameters()}
    assert matrices and all(tensor.data_ptr() in own for tensor in matrices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_is_unmerged_and_sampling_sees_it(make_decoder: Make, dtype: torch.dtype) -> None:
    model = with_adapters(make_decoder())
    model.compute_dtype = dtype
    plain, base = merged(model), make_decoder()
    assert merged(plain) is plain and plain.state_dict().keys() == base.state_dict().keys()
    assert plain.embedding.weight is model.embedding.weight, "what has no adapter is shared"
    with torch.no_grad():
        logits = model(IDS)
        assert torch.equal(plain(IDS), logits)
        assert not torch.allclose(base(IDS), logits, atol=0.1)
        with model.hold_casts(), model.hold_casts():
            held = model(IDS)
            assert len(list(model.named_parameters())) == len(model.state_dict()), "what is held is no parameter"
        torch.testing.assert_close(held, logits, atol=1e-5 if dtype == torch.float32 else 0, rtol=0)
        assert all(getattr(module, "held", None) is None for module in model.modules())
    prompts, options = IDS[:, :5].tolist() * 4, {"seeds": range(12), "max_new_tokens": 9, "stop_ids": [2]}
    ours, theirs = (generate(each, prompts, **options) for each in (model, plain))
    assert [each.ids for each in ours] == [each.ids for each in theirs]
    for prompt, one, other in zip(prompts, ours, theirs, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        with torch.no_grad():
            full = model(torch.tensor([prompt + one.ids]))[0, len(prompt) - 1 : -1].log_softmax(-1)
        forced = full.gather(1, torch.tensor(one.ids)[:, None])[:, 0].tolist()
        assert one.logprobs == pytest.approx(forced, abs=1e-5 if dtype == torch.float32 else 0.1)


@pytest.mark.skipif(cxx_compiler() is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_have_the_same_gradients(make_decoder: Make) -> None:
    found = []
    for compiled in (False, True):
        model = with_adapters(make_decoder(n_layers=4))
        torch._dynamo.utils.counters.clear()
        if compiled:
            model.compile_blocks()
        loss = model(IDS).logsumexp(-1).sum()
        loss.backward()
        found.append((loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
        with torch.no_grad(), model.hold_casts():
            model(IDS)
        model(IDS)  # sampling between steps compiles nothing anew
        # One block's code serves all that pass a gradient on; the first has none to pass on: the embedding is frozen.
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2 * compiled
        assert not torch._dynamo.utils.counters["graph_break"]
    (loss, gradients), (compiled_loss, compiled_gradients) = found
    assert compiled_loss == pytest.approx(loss, rel=1e-6) and set(compiled_gradients) == set(gradients)
    for name, gradient in compiled_gradients.items():
        torch.testing.assert_close(gradient, gradients[name], atol=1e-5 * gradients[name].abs().max().item(), rtol=0)


def test_twins_share_their_tensors_and_not_their_adapters(make_decoder: Make) -> None:
    base = make_decoder()
    model = with_adapters(twin(base))
    assert base.adapter is None and not list(adapted(base)) and model.adapter is not None
    assert {id(p) for p in base.parameters()} < {id(p) for p in model.parameters()}


def written(folder: Path, model: Decoder) -> Path:
    """The base under `folder/base` and the adapters under `folder/adapter`."""
    base = Decoder(model.config)
    base.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "lora_" not in name})
    save_model(base, folder / "base", pad_id=0, bos_id=1, eos_id=2)
    save_adapter(model, folder / "adapter", "base")
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_files_rebuild_the_model_in_transformers(tmp_path: Path, make_decoder: Make, family: str) -> None:
    """By PEFT's definition: module names are those of transformers, weights W + lora_alpha / r · B A."""
    transformers = pytest.importorskip("transformers", reason="parity needs the `hf` extra")
    model = with_adapters(make_decoder(family=family), targets=["down_proj", "q_proj", "k_proj"], alpha=6.0)
    folder = written(tmp_path, model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    settings = json.loads((folder / "adapter/adapter_config.json").read_text())
    tensors = load_file(folder / "adapter/adapter_model.safetensors")
    assert settings["peft_type"] == "LORA" and settings["lora_dropout"] == 0
    assert settings["base_model_name_or_path"] == "base"
    assert len(tensors) == 2 * model.config.n_layers * len(settings["target_modules"])
    with torch.no_grad():
        assert not torch.allclose(model(IDS), theirs(IDS).logits, atol=0.1)
        for name, module in theirs.named_modules():
            if name.rpartition(".")[2] in settings["target_modules"]:
                down, up = (tensors.pop(f"base_model.model.{name}.lora_{factor}.weight") for factor in "AB")
                assert down.shape == (settings["r"], module.in_features)
                module.weight += settings["lora_alpha"] / settings["r"] * (up @ down)
        assert not tensors
        torch.testing.assert_close(model(IDS), theirs(IDS).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_opens_the_files(tmp_path: Path, make_decoder: Make, family: str) -> None:
    peft = pytest.importorskip("peft", reason="the adapter files are PEFT's")
    transformers = pytest.importorskip("transformers", reason="parity needs the `hf` extra")
    model = with_adapters(make_decoder(family=family))
    folder = written(tmp_path, model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(theirs, folder / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), theirs(IDS).logits, atol=1e-4, rtol=0)


def test_adapters_read_back_are_the_same_bits(tmp_path: Path, make_decoder: Make) -> None:
    model = with_adapters(make_decoder())
    save_adapter(model, tmp_path, "base")
    again = with_adapters(make_decoder(), filled=False)
    load_adapter(again, tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_adapters_of_another_kind_are_refused(tmp_path: Path, make_decoder: Make) -> None:
    save_adapter(with_adapters(make_decoder()), tmp_path, "base")
    with pytest.raises(ModelError, match=r"q_proj.lora_A.weight has shape \(4, 32\), expected \(2, 32\). Set the same"):
        load_adapter(with_adapters(make_decoder(), rank=2), tmp_path)
    with pytest.raises(
        ModelError, match=r"not those of the recipe: base_model.model.model.layers.0.mlp.down_proj.lora"
    ):
        load_adapter(with_adapters(make_decoder(), targets=["q_proj"]), tmp_path)
    with pytest.raises(ModelError, match="has no adapter_model.safetensors"):
        load_adapter(with_adapters(make_decoder()), tmp_path / "nowhere")


@pytest.mark.parametrize(("rank", "target", "side"), [(17, "k_proj", 16), (33, "q_proj", 32), (33, "gate_proj", 32)])
def test_a_rank_beyond_a_matrix_is_refused(make_decoder: Make, rank: int, target: str, side: int) -> None:
    with_adapters(make_decoder(), rank=rank - 1, targets=[target])
    with pytest.raises(ConfigError, match=f"rank = {rank} exceeds {side}, the shorter side of {target}"):
        with_adapters(make_decoder(), rank=rank, targets=[target])
