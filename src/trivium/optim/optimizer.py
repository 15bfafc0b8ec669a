"""AdamW and Muon behind one step: matrices inside the blocks may go to Muon, the rest always to AdamW."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trivium.base.config import Config
from trivium.base.errors import NumericalFault
from trivium.base.ranks import local, part_of, whole
from trivium.optim.muon import Muon
from trivium.optim.schedule import Schedule, lr_scale

Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Config):
    """How weights are updated."""

    kind: Literal["adamw", "muon"] = "adamw"
    """`muon` gives the matrices inside the blocks to Muon and the rest, low-rank adapters included, to AdamW; `adamw`
    takes all."""
    lr: float = Field(default=3e-3, ge=0)
    """Peak learning rate of AdamW."""
    vector_lr: float | None = Field(default=None, ge=0)
    """Peak learning rate of AdamW on vectors (gains of the norms, biases); unset takes lr. A step of Adam moves every
    weight alike, but a gain is about 1 where a matrix's entry is a few hundredths: small rates hardly reach it."""
    muon_lr: float = Field(default=0.02, ge=0)
    """Peak learning rate of Muon."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Momentum of Muon."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """AdamW's epsilon."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay, on matrices only."""
    grad_clip: float = Field(default=1.0, ge=0)
    """Largest global gradient norm; 0 does not clip."""
    warmup_steps: int = Field(default=20, ge=0)
    """Linear warm-up, in optimiser steps."""
    schedule: Schedule = "linear"
    """Shape of the decay: constant, linear or cosine."""
    decay_fraction: float = Field(default=0.5, ge=0, le=1)
    """Share of all steps over which the rate decays to zero."""


class Optimizer:
    """One optimiser for a module: Muon (Jordan 2024) for hidden matrices, AdamW for everything else.

    Of a module that is spread over the ranks each keeps the moments of its own share.
    `step` returns the gradient norm before clipping. The rate is a function of the step number alone.

    Args:
        rates: peak learning rate of AdamW for parameters that want one of their own, by name.
    """

    def __init__(
        self, module: nn.Module, config: OptimConfig, total_steps: int, rates: Mapping[str, float] | None = None
    ):
        rates = rates or {}
        self.config, self.total_steps = config, total_steps
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        muon, decayed, plain = [], [], []
        for name, parameter in self.parameters.items():
            hidden = parameter.dim() == 2 and "blocks." in name
            if name in rates:
                continue
            factor = name.endswith(("lora_A", "lora_B"))  # to orthogonalise a factor says nothing of the product
            if hidden and not factor and config.kind == "muon":
                muon.append(parameter)
            elif parameter.dim() >= 2:
                decayed.append(parameter)
            else:
                plain.append(parameter)
        vector_lr = config.lr if config.vector_lr is None else config.vector_lr
        groups = [
            {"params": decayed, "weight_decay": config.weight_decay, "lr": config.lr},
            {"params": plain, "weight_decay": 0.0, "lr": vector_lr},
            *({"params": [self.parameters[name]], "weight_decay": 0.0, "lr": rate} for name, rate in rates.items()),
        ]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)
        ]
        if muon:
            # In the module's precision as it is at the step: bf16 only where activations have it too.
            part = Muon(
                muon,
                lr=config.muon_lr,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                dtype=lambda: getattr(module, "compute_dtype", torch.float32),
            )
            self.parts.append(part)
        self.peaks = [[float(group["lr"]) for group in part.param_groups] for part in self.parts]

    def scale(self, step: int) -> float:
        """Factor on the peak rates at a step."""
        config = self.config
        return lr_scale(
            step,
            total_steps=self.total_steps,
            warmup_steps=config.warmup_steps,
            schedule=config.schedule,
            decay_fraction=config.decay_fraction,
        )

    def step(self, step: int, count: float = 1.0) -> dict[str, float]:
        """Divide the accumulated gradients by `count`, clip, update, and clear them.

        Args:
            step: 0-based number of this update; sets the rate.
            count: global number of terms in the summed loss.
        Returns:
            `grad_norm` (before clipping) and `lr` (AdamW's).
        Raises:
            NumericalFault: a gradient is not finite; weights and moments are as they were.
        """
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        if count != 1.0:
            for gradient in gradients:
                gradient.div_(float(count))
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm.item()):
            raise NumericalFault(f"the gradient's norm is {norm.item()}")
        if self.config.grad_clip > 0:
            torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.config.grad_clip, norm)
        for part, peaks in zip(self.parts, self.peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * self.scale(step)
            part.step()
        self.clear()
        return {"grad_norm": norm.item(), "lr": self.config.lr * self.scale(step)}

    def clear(self) -> None:
        """Forget the accumulated gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """The moments by parameter name: `<name>/<moment>`; scalars are 0-d tensors."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.parameters.items()}
        return {
            f"{names[parameter]}/{key}": torch.as_tensor(value)
            for part in self.parts
            for parameter, state in part.state.items()
            for key, value in state.items()
        }

    @torch.no_grad()
    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` returned."""
        owner = {parameter: part for part in self.parts for g in part.param_groups for parameter in g["params"]}
        for key, value in tensors.items():
            name, _, moment = key.rpartition("/")
            parameter = self.parameters[name]
            state: dict[str, Any] = owner[parameter].state[parameter]
            if value.dim():
                state[moment] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                local(state[moment]).copy_(part_of(value, parameter))
            else:
                state[moment] = value.to(parameter.device, copy=True)
