"""Models spread over several processes."""

from trivium.distributed.fsdp import gathered, shard

__all__ = ["gathered", "shard"]
