"""Models spread over the ranks by PyTorch's FSDP2: every rank keeps a share of each weight, gradient and moment.

Zhao et al. 2023 (arXiv:2304.11277); the per-parameter form is `torch.distributed.fsdp.fully_shard`.
"""

import copy
from typing import Any, TypeVar

import torch
from torch import nn

from trivium.base.ranks import is_spread, whole, world

Module = TypeVar("Module", bound=nn.Module)


def shard(module: Module) -> Module:
    """Spread a model over the ranks, block by block, in place; as it is where there is one rank.

    Its forward and backward passes must be taken by all ranks, as often and in the same order.
    """
    if world() == 1:
        return module
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    device: Any = next(module.parameters()).device
    mesh = init_device_mesh(device.type, (world(),))
    for name, block in module.named_modules():
        if name.rpartition(".")[0].endswith("blocks"):
            fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for name in ("hidden", "hidden_at"):  # every pass begins with one; the heads' weights stay until its end
        register_fsdp_forward_method(module, name)
    return module


@torch.no_grad()
def gathered(module: Module) -> Module:
    """A model that is not spread, with the same weights: for sampling, for measuring, for saving. All ranks must ask.

    The module itself where it is not spread; else a copy, whole on each of them, that later updates do not reach.
    """
    if not any(is_spread(parameter) for parameter in module.parameters()):
        return module
    tensors = {name: whole(tensor).clone() for name, tensor in module.state_dict().items()}
    plain = _unspread(module)
    plain.load_state_dict(tensors, assign=True)
    return plain


def _unspread(module: Any) -> Any:
    """A module of the same class and settings without its weights."""
    from torch.distributed.fsdp import FSDPModule

    kind = next(each for each in type(module).__mro__ if not issubclass(each, FSDPModule))
    with torch.device("meta"):
        plain = kind(module.config)
        if module.adapter is not None:
            module.adapter.attach(plain)
    for name, buffer in module.named_buffers():
        plain.get_submodule(name.rpartition(".")[0]).register_buffer(
            name.rpartition(".")[2], copy.copy(buffer), persistent=False
        )
    plain.compute_dtype = module.compute_dtype
    return plain.train(module.training)
