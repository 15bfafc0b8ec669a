"""The sandbox as stages use it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pydantic import Field

from trivium.base.config import Config
from trivium.base.log import say
from trivium.base.ranks import is_main
from trivium.generation.step import decoding
from trivium.runs import StageDir, record_machine
from trivium.sandbox import Sandbox
from trivium.stages.stage import note


class SandboxConfig(Config):
    """How model-written programs are run."""

    workers: int = Field(default=2, ge=1, le=1024)
    """Programs run at a time."""
    minimum: Literal["jailed", "isolated", "limited"] = "isolated"
    """Weakest confinement accepted; below it the stage refuses. `limited` is not safe and must be asked for."""


@contextmanager
def open_sandbox(stage: StageDir, config: SandboxConfig) -> Iterator[Sandbox]:
    """A warm sandbox; its level is told and recorded, one below `jailed` as a warning."""
    with Sandbox(workers=config.workers, minimum=config.minimum) as sandbox:
        if is_main():
            record_machine(stage, sandbox=sandbox.level, decoding=decoding())
        if sandbox.level == "jailed":
            say(f"{stage.name}: programs run at sandbox level jailed")
        else:
            note(stage, f"programs run at sandbox level {sandbox.level}")
        yield sandbox
