"""The processes of one run, as `torchrun` starts them: who this one is, and the few things that all must agree on.

A process that was started alone is rank 0 of 1, and everything here costs it nothing. Control data travels as JSON.
"""

import json
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

Part = TypeVar("Part")
TIMEOUT = timedelta(hours=24)
"""Rank 0 may work alone for long; that a rank has died is for its launcher to see, not for a clock."""


def expected() -> int:
    """How many processes the launcher has started, by its own word."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> None:
    """Meet the other processes that `torchrun` has started; nothing where there are none."""
    if expected() == 1 or _joined():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=TIMEOUT)
    else:
        dist.init_process_group("gloo", timeout=TIMEOUT)


def leave() -> None:
    """Part in good order, so that no rank is still talking when another goes."""
    if _joined():
        dist.barrier()
        dist.destroy_process_group()


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Which process this is, from 0."""
    return dist.get_rank() if _joined() else 0


def world() -> int:
    """How many there are."""
    return dist.get_world_size() if _joined() else 1


def is_main() -> bool:
    """Whether this process writes the run's files."""
    return rank() == 0


def gather(value: Any) -> list[Any]:
    """Every rank's value, a JSON-able one, in the order of ranks, on all of them."""
    if world() == 1:
        return [value]
    own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world())]
    dist.all_gather(sizes, torch.tensor([len(own)]))
    width = max(int(size) for size in sizes)
    parts = [torch.zeros(width, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(parts, torch.nn.functional.pad(own, (0, width - len(own))))
    return [json.loads(bytes(part[: int(size)].tolist())) for part, size in zip(parts, sizes, strict=True)]


def broadcast(value: Any) -> Any:
    """Rank 0's value, a JSON-able one, on all of them; what the others give is not looked at."""
    if world() == 1:
        return value
    text = bytearray(json.dumps(value).encode()) if is_main() else bytearray()
    size = torch.tensor([len(text)])
    dist.broadcast(size, 0)
    content = torch.frombuffer(text, dtype=torch.uint8) if is_main() else torch.zeros(int(size), dtype=torch.uint8)
    dist.broadcast(content, 0)
    return value if is_main() else json.loads(bytes(content.tolist()))


def totals(figures: dict[str, float]) -> dict[str, float]:
    """Sums over all ranks, key by key, and the largest where a key ends in `max`; a rank without a key adds nothing."""
    result: dict[str, float] = {}
    for each in gather(figures):
        for key, value in each.items():
            old = result.get(key)
            if old is None:
                result[key] = value
            else:
                result[key] = max(old, value) if key.endswith("max") else old + value
    return result


def own_share(parts: Sequence[Part]) -> list[tuple[Part, bool]]:
    """This rank's parts of some work, and whether each counts: one that does not fills up, for ranks go in step."""
    mine = [(part, True) for part in parts[rank() :: world()]]
    fill = -(-len(parts) // world()) - len(mine)
    return mine + [(parts[0], False)] * fill


def shared(count: int, work: Callable[[list[int]], list[Any]]) -> list[Any]:
    """Results for items 0 to `count`, each worked out by one rank, JSON-able, all on every rank."""
    if world() == 1:
        return work(list(range(count)))
    found = gather(work(list(range(rank(), count, world()))))
    return [found[index % world()][index // world()] for index in range(count)]


def add_up(tensor: Tensor) -> Tensor:
    """The sum over all ranks of a tensor on the CPU, in place."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def barrier() -> None:
    """Wait until all have come here."""
    if world() > 1:
        dist.barrier()


def is_spread(tensor: Tensor) -> bool:
    """Whether a tensor lies in parts on several ranks."""
    if world() == 1:
        return False
    from torch.distributed.tensor import DTensor  # takes most of a second, for one process in vain

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be spread over the ranks, in full on each of them. All ranks must ask."""
    spread: Any = tensor
    return spread.full_tensor() if is_spread(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies here; writing to it writes to the tensor."""
    spread: Any = tensor
    return spread.to_local() if is_spread(tensor) else tensor


def part_of(full: Tensor, like: Tensor) -> Tensor:
    """The part of a full tensor that belongs here if it is spread like another one."""
    if not is_spread(like):
        return full
    spread: Any = like
    mesh, (placement,) = spread.device_mesh, spread.placements
    if not placement.is_shard(0):
        raise ValueError(f"tensors are spread over their first dimension here, not by {placement}")
    chunks = full.chunk(mesh.size(), dim=0)
    mine = mesh.get_local_rank()
    return chunks[mine] if mine < len(chunks) else full[:0]
