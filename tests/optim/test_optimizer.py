from collections.abc import Callable
from typing import Any

import pytest
import torch

from trivium.base.errors import StageFailed
from trivium.model import Decoder, Scorer
from trivium.optim import OptimConfig, Optimizer

Make = Callable[..., Decoder]
PLAIN: dict[str, Any] = {"warmup_steps": 0, "schedule": "constant", "grad_clip": 0.0}


def fill_gradients(model: torch.nn.Module, seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * scale


def test_muon_takes_the_matrices_inside_the_blocks(make_scorer: Callable[..., Scorer]) -> None:
    model = make_scorer(family="qwen2", tie_embeddings=False)
    optimizer = Optimizer(model, OptimConfig(kind="muon", weight_decay=0.1), 10)
    names = {parameter: name for name, parameter in model.named_parameters()}
    adamw, muon = optimizer.parts
    decayed, plain = ({names[p] for p in group["params"]} for group in adamw.param_groups)
    matrices = {names[p] for group in muon.param_groups for p in group["params"]}
    layers = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    inside = {name for name in names.values() if name.startswith("blocks.")}
    assert matrices == {name for name in inside if name.removesuffix(".weight").endswith(layers)}
    assert decayed == {"embedding.weight", "head.weight", "score.weight"}
    assert plain == set(names.values()) - matrices - decayed
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.1, 0.0]
    assert "blocks.1.attention.q_proj.bias" in plain and "norm.weight" in plain
    everything = Optimizer(model, OptimConfig(kind="adamw"), 10).parts
    assert sum(len(group["params"]) for group in everything[0].param_groups) == len(names) and len(everything) == 1


def test_vectors_may_have_a_rate_of_their_own(make_decoder: Make) -> None:
    model, still = make_decoder(), make_decoder()
    optimizer = Optimizer(model, OptimConfig(lr=0.0, vector_lr=0.25, **PLAIN), 10)
    fill_gradients(model, 0)
    optimizer.step(0)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, still.get_parameter(name))}
    assert moved == {name for name, p in model.named_parameters() if p.dim() == 1}
    gain = model.get_parameter("norm.weight") - still.get_parameter("norm.weight")
    torch.testing.assert_close(gain.abs(), torch.full_like(gain, 0.25))  # Adam's first step is the rate itself


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_steps_equal_those_of_torch(make_decoder: Make, kind: Any) -> None:
    ours, theirs = make_decoder(), make_decoder()
    ours.compute_dtype = torch.bfloat16  # torch's Muon knows no other
    config = OptimConfig(
        kind=kind, lr=0.01, muon_lr=0.03, weight_decay=0.1, warmup_steps=3, schedule="linear", grad_clip=0.0
    )
    optimizer = Optimizer(ours, config, 6)
    inner = [p for n, p in theirs.named_parameters() if kind == "muon" and n.startswith("blocks.") and p.dim() == 2]
    rest = [p for p in theirs.parameters() if not any(p is each for each in inner)]
    groups = [
        {"params": [p for p in rest if p.dim() == 2], "weight_decay": 0.1},
        {"params": [p for p in rest if p.dim() == 1], "weight_decay": 0.0},
    ]
    parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8)]
    parts += [torch.optim.Muon(inner, lr=0.03, momentum=0.95, weight_decay=0.1)] if inner else []
    for step, scale in enumerate([1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3]):
        fill_gradients(ours, step)
        fill_gradients(theirs, step)
        assert optimizer.step(step)["lr"] == pytest.approx(0.01 * scale)
        for part, peak in zip(parts, (0.01, 0.03), strict=False):
            for group in part.param_groups:
                group["lr"] = peak * scale
            part.step()
        for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            # Products in bf16 may be summed in another order: a 256th of an update, whose entries are below 0.03.
            torch.testing.assert_close(mine, other, atol=1e-6 if kind == "adamw" else 3e-4, rtol=1e-5, msg=name)
            assert mine.grad is None


def test_the_sum_is_divided_by_the_count_and_then_clipped(make_decoder: Make) -> None:
    models = [make_decoder() for _ in range(3)]
    for model, scale in zip(models, (1.0, 8.0, 8.0), strict=True):
        fill_gradients(model, 0, scale)
    norm = torch.cat([p.grad.flatten() for p in models[0].parameters() if p.grad is not None]).norm().item()
    tight: dict[str, Any] = {**PLAIN, "grad_clip": norm / 2}
    clipped = OptimConfig(**tight, lr=0.01, eps=1.0)
    free = OptimConfig(**PLAIN, lr=0.01, eps=1.0)
    plain = Optimizer(models[0], free, 1).step(0, count=2.0)
    divided = Optimizer(models[1], free, 1).step(0, count=16.0)
    capped = Optimizer(models[2], clipped, 1).step(0, count=8.0)
    assert plain["grad_norm"] == pytest.approx(norm / 2, rel=1e-5)
    assert divided["grad_norm"] == pytest.approx(norm / 2, rel=1e-5)
    assert capped["grad_norm"] == pytest.approx(norm, rel=1e-5)  # before clipping, which halves it
    for first, second, third in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(first, second, atol=1e-7, rtol=1e-5)
        torch.testing.assert_close(first, third, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_restored_state_goes_on_to_the_bit(make_decoder: Make, kind: Any) -> None:
    config = OptimConfig(kind=kind, warmup_steps=2, weight_decay=0.01)
    straight, first = make_decoder(), make_decoder()
    optimizer, before = Optimizer(straight, config, 6), Optimizer(first, config, 6)
    for step in range(6):
        fill_gradients(straight, step)
        optimizer.step(step)
    for step in range(3):
        fill_gradients(first, step)
        before.step(step)
    second = make_decoder(seed=9)
    second.load_state_dict(first.state_dict())
    after = Optimizer(second, config, 6)
    saved = {name: tensor.clone() for name, tensor in before.state_tensors().items()}
    after.load_state_tensors(saved)
    for step in range(3, 6):
        fill_gradients(second, step)
        after.step(step)
    for (name, expected), actual in zip(straight.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(actual, expected), name
    for name, moment in before.state_tensors().items():
        assert torch.equal(moment, saved[name]), f"{name} was shared with the optimiser that went on"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_before_it_spoils_the_weights(make_decoder: Make, bad: float) -> None:
    model, untouched = make_decoder(), make_decoder()
    fill_gradients(model, 0)
    assert model.norm.weight.grad is not None
    model.norm.weight.grad[3] = bad
    with pytest.raises(StageFailed, match=f"norm is {bad}; the weights are as they were"):
        Optimizer(model, OptimConfig(), 10).step(4)
    for mine, other in zip(model.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_frozen_parameters_are_left_alone(make_decoder: Make) -> None:
    model = make_decoder()
    model.embedding.requires_grad_(False)
    optimizer = Optimizer(model, OptimConfig(), 10)
    assert "embedding.weight" not in optimizer.parameters
    before = model.embedding.weight.clone()
    fill_gradients(model, 0)
    optimizer.step(0)
    assert torch.equal(model.embedding.weight, before)
