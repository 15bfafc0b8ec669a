"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), put on a decoder from outside: W + α/r · B A, W frozen.

A pass computes with the merged matrix, in training as in sampling, so a policy's samples have the log-probabilities
that it is trained on. Files have the names that PEFT gives them.
"""

import copy
import json
import math
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from trivium.base.config import Config
from trivium.base.errors import ConfigError, ModelError
from trivium.base.files import atomic_path, save_tensors, write_json
from trivium.base.seeding import derive_seed
from trivium.model.config import ModelConfig
from trivium.model.hf import hf_name, read_tensors
from trivium.model.layers import Linear
from trivium.model.transformer import Block, Decoder

M = TypeVar("M", bound=Decoder)

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear maps of a block."""
WEIGHTS = "adapter_model.safetensors"
PLAIN = {
    "peft_type": "LORA",
    "bias": "none",
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "use_rslora": False,
    "use_dora": False,
    "rank_pattern": None,
    "alpha_pattern": None,
    "layers_to_transform": None,
    "layer_replication": None,
    "exclude_modules": None,
}
"""What a file of PEFT's says where an adapter is nothing more than B A on some maps of every block."""


class LoRAConfig(Config):
    """Low-rank adapters: small matrices train beside the weights, which stay as they are."""

    rank: int = Field(default=0, ge=0, le=2**12)
    """Rank r of what training adds to a matrix; 0 trains all weights instead."""
    alpha: float = Field(default=16.0, gt=0)
    """What is added counts α/r times."""
    targets: tuple[str, ...] = TARGETS
    """Linear maps that get an adapter, in every block; the default is all."""

    @field_validator("targets")
    @classmethod
    def _are_maps_of_a_block(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in TARGETS:
                near = get_close_matches(name, TARGETS, n=1)
                remedy = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(TARGETS)}"
                raise ValueError(f"a block has no linear map {name!r}. {remedy}")
        if not names:
            raise ValueError("names no linear map. Leave it out for all, or set rank = 0 to train all weights")
        return tuple(name for name in TARGETS if name in names)

    def too_wide(self, shape: ModelConfig, name: str) -> str | None:
        """What is wrong with the rank for a model of this shape; `name` is that of these settings."""
        queries, keys = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
        outer = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "o_proj": queries}
        for target in self.targets:
            side = min(shape.d_model, outer.get(target, shape.d_ff))
            if self.rank > side:
                return f"{name}.rank = {self.rank} exceeds {side}, the shorter side of {target}. Lower it"
        return None

    def attach(self, decoder: Decoder) -> None:
        """Freeze a decoder and give it adapters, whose values are still to be set; in place."""
        decoder.requires_grad_(False)
        for block in cast(list[Block], decoder.blocks):
            for part in block.parts():
                for name in self.targets:
                    if (linear := getattr(part, name, None)) is not None:
                        setattr(part, name, LoRALinear(linear, self.rank, self.alpha))
        decoder.adapter = self


class LoRALinear(Linear):
    """A frozen linear map with a low-rank addition that trains."""

    def __init__(self, base: Linear, rank: int, alpha: float):
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias, self.scale = base.weight, base.bias, alpha / rank
        self.lora_A = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_empty(base.out_features, rank))

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """(out_features, in_features): W + α/r · B A."""
        return _sum(self.weight, self.lora_A, self.lora_B, self.scale).to(dtype)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if self.held is not None or not torch.is_grad_enabled():
            return super().forward(input)
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return cast(Tensor, _LowRank.apply(input, self.weight, bias, self.lora_A, self.lora_B, self.scale))


def _sum(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    return torch.addmm(weight, up, down, alpha=scale)


class _LowRank(torch.autograd.Function):
    """x (W + s B A)', whose backward pass never forms the gradient of the matrix: a third of a layer's arithmetic.

    Nor is the matrix kept for it, which would be a copy of the model; it is merged again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float):
        ctx.save_for_backward(x, weight, down, up)
        ctx.scale = scale
        return F.linear(x, _sum(weight, down, up, scale).to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight, down, up = ctx.saved_tensors
        x_grad = grad @ _sum(weight, down, up, ctx.scale).to(x.dtype) if ctx.needs_input_grad[0] else None
        x, grad = x.flatten(0, -2), grad.flatten(0, -2)
        down_grad = (grad @ up.to(x.dtype)).t() @ x
        up_grad = grad.t() @ (x @ down.t().to(x.dtype))
        return x_grad, None, None, down_grad.to(down.dtype) * ctx.scale, up_grad.to(up.dtype) * ctx.scale, None


def adapted(decoder: Decoder) -> Iterator[tuple[str, LoRALinear]]:
    """The maps of a decoder that have an adapter, by name."""
    return ((name, module) for name, module in decoder.named_modules() if isinstance(module, LoRALinear))


@torch.no_grad()
def add_lora(decoder: Decoder, config: LoRAConfig, seed: int, purpose: str) -> None:
    """Freeze a decoder and give it adapters that do nothing yet: A uniform within ±1/√in as in PEFT, B = 0.

    Args:
        seed: with the purpose and the map's name it decides A.
    Raises:
        ConfigError: the rank exceeds a side of a matrix.
    """
    if problem := config.too_wide(decoder.config, "lora"):
        raise ConfigError(f"{problem}.")
    config.attach(decoder)
    for name, linear in adapted(decoder):
        generator = torch.Generator().manual_seed(derive_seed(seed, "lora", purpose, name))
        uniform = torch.rand(linear.lora_A.shape, generator=generator) * 2 - 1
        linear.lora_A.copy_(uniform / math.sqrt(linear.in_features))
        linear.lora_B.zero_()


def twin(decoder: M) -> M:
    """Another model on the same tensors: to give it adapters of its own."""
    return copy.deepcopy(decoder, {id(tensor): tensor for tensor in (*decoder.parameters(), *decoder.buffers())})


@torch.no_grad()
def merged(decoder: M) -> M:
    """A model that computes the same without adapters, on the same tensors but for theirs; itself where it has none."""
    if decoder.adapter is None:
        return decoder
    plain = twin(decoder)
    for name, linear in list(adapted(plain)):
        whole = Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        whole.weight, whole.bias = nn.Parameter(linear.matrix(linear.weight.dtype)), linear.bias
        plain.set_submodule(name, whole)
    plain.adapter = None
    return plain


def save_adapter(decoder: Decoder, folder: Path, base: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors, which `peft.PeftModel.from_pretrained` opens.

    Args:
        base: name or path of the model that the adapters are for.
    """
    config = decoder.adapter
    assert config is not None
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in zip(_file_names(decoder), _factors(decoder), strict=True)
    }
    with atomic_path(folder / WEIGHTS) as temporary:
        save_tensors(tensors, temporary, metadata={"format": "pt"})
    alpha = int(config.alpha) if config.alpha.is_integer() else config.alpha
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": list(config.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }
    write_json(folder / "adapter_config.json", settings)


def read_lora_config(folder: Path) -> LoRAConfig:
    """Rank, alpha and maps of the adapter in a folder, written by `save_adapter` or by PEFT.

    Raises:
        ModelError: there is none, or it is of a kind that is not known here.
    """
    path = folder / "adapter_config.json"
    try:
        settings = json.loads(path.read_text())
        found = {"rank": settings["r"], "alpha": settings["lora_alpha"], "targets": settings["target_modules"]}
        others = sorted(key for key, plain in PLAIN.items() if settings.get(key, plain) not in (plain, None, [], {}))
        config = LoRAConfig.model_validate(found)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}). Name the folder of an adapter.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{path} holds no r, lora_alpha and target_modules that fit a decoder of ours.") from None
    if others or config.rank < 1:
        odd = f"{others[0]} = {settings[others[0]]!r}" if others else "r = 0"
        raise ModelError(f"{path}: {odd} is not known here, only plain low-rank adapters are. Merge it with PEFT.")
    return config


@torch.no_grad()
def load_adapter(decoder: Decoder, folder: Path) -> None:
    """Set a decoder's adapters to those that `save_adapter` wrote.

    Raises:
        ModelError: there are none, or they are of another rank or for other maps.
    """
    tensors = read_tensors(folder / WEIGHTS)
    names = _file_names(decoder)
    if other := sorted(tensors.keys() ^ set(names)):
        raise ModelError(f"{folder}: the adapter's maps are not those of the recipe: {other[0]}. Set the same targets.")
    for name, place in zip(names, _factors(decoder), strict=True):
        if tensors[name].shape != place.shape:
            found, wanted = tuple(tensors[name].shape), tuple(place.shape)
            raise ModelError(f"{folder}: {name} has shape {found}, expected {wanted}. Set the same rank.")
        place.copy_(tensors[name])


def _factors(decoder: Decoder) -> list[Tensor]:
    return [factor for _, linear in adapted(decoder) for factor in (linear.lora_A, linear.lora_B)]


def _file_names(decoder: Decoder) -> list[str]:
    """Names of `_factors` in PEFT's files."""
    return [
        f"base_model.model.{hf_name(f'{name}.{factor}')}.weight"
        for name, _ in adapted(decoder)
        for factor in ("lora_A", "lora_B")
    ]
