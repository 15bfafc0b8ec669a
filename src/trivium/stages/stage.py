"""What every stage shares: open, run or skip, close, and say so."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field, ValidationError

from trivium.base.config import Config
from trivium.base.errors import ConfigError, InputError, Interrupted, RunDirError
from trivium.base.files import write_json
from trivium.base.fingerprint import fingerprint_modules, fingerprint_path
from trivium.base.log import format_duration, say, warn
from trivium.base.machine import bf16_speedup, cxx_compiler, release_memory, tune_allocator
from trivium.base.ranks import broadcast, is_main, world
from trivium.model import Decoder, Scorer, load_model, load_scorer
from trivium.model.fp8 import supported
from trivium.runs import KeptStage, RunDir, StageDir, add_warning, close_stage, open_stage, read_manifest
from trivium.runs.outstanding import outstanding, settle
from trivium.training import Checkpointer

Model = TypeVar("Model", bound=Decoder)

COMPILE_FLOPS = {"cpu": 1e15, "cuda": 1e17}
"""Training of fewer floating-point operations is over before compiled code has paid for its compilation: this is an
hour of work on two cores, and some minutes on one GPU."""


class ComputeConfig(Config):
    """Where and how precisely to compute."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of activations; weights and optimiser are fp32. `auto` takes bf16 where it is measured to be faster."""
    recompute: bool = False
    """Activation checkpointing: memory of activations falls to a few percent, training takes a third longer."""
    compile: Literal["auto", "always", "never"] = "auto"
    """torch.compile for pretraining and fine-tuning on one rank: steps take a fifth to a quarter less time, after 10 to
    30 s of compiling. `auto` compiles where training is long enough to win that back and there is a C++ compiler."""
    fp8: bool = False
    """Products of weights in 8-bit floats in pretraining and fine-tuning, on GPUs that have them; adapters and the head
    stay in bf16, and so does all sampling and measuring."""
    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads; 0 leaves it to torch. Resuming to the same bits needs the same number."""


@dataclass
class Context:
    """What stages are given: the run, the seed, the machine's settings."""

    run: RunDir
    seed: int
    compute: ComputeConfig
    force: bool = False
    changed: list[str] = field(default_factory=list)
    """Stages that this call has left otherwise than it found them."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    def set_up(self) -> None:
        """Settle device, precision and threads, and say which were chosen."""
        if self.compute.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                "compute.device is cuda, but torch finds no CUDA device here. Set it to auto or cpu, or install a "
                "torch build that fits the driver."
            )
        tune_allocator()
        if self.compute.threads:
            torch.set_num_threads(self.compute.threads)
        cuda = torch.cuda.is_available() and self.compute.device != "cpu"
        self.device = torch.device("cuda" if cuda else "cpu")
        if self.compute.precision == "auto":
            speedup = bf16_speedup() if not cuda else None
            chosen = "bf16" if cuda or (speedup or 0) > 1.3 else "fp32"
            note = "" if speedup is None else f" (bf16 products run at {speedup:.1f}x the speed of fp32 here)"
            say(f"computing in {chosen} on {self.device}, {torch.get_num_threads()} threads{note}")
            self.compute = self.compute.model_copy(update={"precision": chosen})
        self.dtype = torch.bfloat16 if self.compute.precision == "bf16" else torch.float32
        if self.compute.fp8 and not supported(self.device):
            raise ConfigError(
                f"compute.fp8 needs a GPU of compute capability 8.9 or later (Ada, Hopper); this run computes on "
                f"{self.device}. Set it to false."
            )
        if self.compute.fp8 and self.compute.precision != "bf16":
            raise ConfigError("compute.fp8 needs compute.precision = bf16, which all but the products stay in.")

    def forces(self, stage: str) -> bool:
        """Whether a stage is to be begun anew: by this call, or by an interrupted one whose turn had not come."""
        return self.force or stage in outstanding(self.run)

    def load_model(self, folder: Path) -> Decoder:
        """A language model on this run's device, in its precision."""
        return self.place(load_model(folder))

    def load_scorer(self, folder: Path) -> Scorer:
        """A reward model's network on this run's device, in its precision."""
        return self.place(load_scorer(folder))

    def place(self, model: Model) -> Model:
        """A model as this run computes with it."""
        model.to(self.device).compute_dtype = self.dtype
        model.recompute = self.compute.recompute
        return model

    def prepare_training(self, model: Decoder, tokens: int) -> str:
        """Take products in fp8 if that is wanted, and compile a model that is to see so many tokens if that pays.

        What `auto` decides is a function of the recipe and the machine, not of a clock: the bits of a run depend on it.

        Returns:
            What was done and why, for the stage's record.
        """
        if self.compute.fp8:
            model.train_in_fp8()
        flops = 6.0 * model.parameter_count() * tokens
        threshold = COMPILE_FLOPS[self.device.type]
        if self.compute.compile == "never":
            return "not compiled: compute.compile is never"
        if world() > 1:
            return "not compiled: several ranks"
        if self.compute.compile == "auto" and flops < threshold:
            return f"not compiled: {flops:.1g} floating-point operations are fewer than {threshold:.0g}"
        if cxx_compiler() is None:
            if self.compute.compile == "auto":
                return "not compiled: there is no C++ compiler"
            raise ConfigError(
                "compute.compile is always, but no C++ compiler is found. Install one, or set it to auto."
            )
        say("compiling the model's blocks: the first step takes 10 to 30 s longer, all others less time")
        model.compile_blocks()
        return f"blocks compiled, for {flops:.1g} floating-point operations"


def perform(
    context: Context,
    name: str,
    module: str,
    config: Config,
    *,
    inputs: dict[str, Path | str],
    parents: Iterable[str] = (),
    together: bool = False,
    body: Callable[[StageDir], tuple[dict[str, Any], list[Path]]],
) -> dict[str, Any]:
    """Run a stage unless it is done; record how it ended. Bad input leaves the stage as it was.

    Args:
        name: of the stage's folder.
        module: whose source, with all it imports, is the stage's code version.
        inputs: name to a path (fingerprinted by content) or a fingerprint.
        together: whether all ranks go through the body; the others wait for rank 0 otherwise.
        body: does the work; returns the figures to record and the outputs to fingerprint.
    Returns:
        The figures.
    """
    if not is_main():  # rank 0 has opened the stage, called for help, and will close it
        with TemporaryDirectory(prefix="trivium-rank-") as elsewhere:
            return body(StageDir(context.run, name, Path(elsewhere)))[0]
    stage = context.run.stage(name)
    for key, value in inputs.items():
        if isinstance(value, Path) and not value.exists():
            ours = value.is_relative_to(context.run.path)
            remedy = "Run the stages before it first." if ours else "Check the path."
            raise RunDirError(f"{name} needs {key}, but {value} does not exist. {remedy}")
    kept = KeptStage(stage)
    decision = open_stage(
        stage,
        config=config.model_dump(mode="json") | {"compute": context.compute.model_dump(mode="json")},
        adjustable=config.adjustable,
        inputs={key: fingerprint_path(v) if isinstance(v, Path) else v for key, v in inputs.items()},
        code=fingerprint_modules(module),
        seed=context.seed,
        parents=list(parents),
        force=context.forces(name),
    )
    settle(context.run, name)
    checkpointer = Checkpointer(stage.checkpoints)
    if decision == "done":
        checkpointer.clear()  # should the process have been killed before it came to that
        manifest = read_manifest(stage)
        assert manifest is not None
        say(f"{name}: done before, in {format_duration(manifest.wall_seconds)}; nothing to do")
        return manifest.result
    say(f"{name}: {'going on where it stopped' if decision == 'resume' else 'started'}")
    try:
        if together:
            broadcast({"stage": name, "compute": context.compute.model_dump(mode="json")})
        result, outputs = body(stage)
    except (KeyboardInterrupt, Interrupted):
        close_stage(stage, "interrupted")
        raise
    except BaseException as error:
        if not (isinstance(error, InputError) and kept.restore()):
            close_stage(stage, "failed")
            context.changed.append(name)
        raise
    finally:
        kept.forget()
    release_memory()
    manifest = close_stage(stage, "done", result, outputs=outputs)
    context.changed.append(name)
    checkpointer.clear()  # not before the manifest says that the result is there
    say(f"{name}: done in {format_duration(manifest.wall_seconds)}")
    return result


def note(stage: StageDir, message: str) -> None:
    """Tell the user, and the reader of the report, something that must not stay silent."""
    if not is_main():
        return
    warn(f"{stage.name}: {message}")
    add_warning(stage, message)


def freeze_compute(run: RunDir, context: Context) -> None:
    """Keep a run to the precision it was begun with: what was measured once is not measured again."""
    path = run.compute_path
    if path.exists() and not context.force:
        try:
            stored = ComputeConfig.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            raise RunDirError(
                f"{path} does not hold the precision that the run was begun with. Set compute.precision and pass "
                "--force, or give the run another name."
            ) from None
        if context.compute.precision == "auto":
            context.compute = context.compute.model_copy(update={"precision": stored.precision})
    context.set_up()
    write_json(path, context.compute.model_dump(mode="json"))
