"""Supervised fine-tuning with teacher forcing: only the response carries loss; the artifact is M1."""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from trivium.base.config import MOST
from trivium.base.errors import ConfigError
from trivium.base.ranks import is_main
from trivium.base.seeding import derive_seed
from trivium.data.drops import Drops
from trivium.data.examples import ExampleLoader, load_examples
from trivium.distributed import gathered, shard
from trivium.model import Decoder, LoRAConfig
from trivium.model.lora import add_lora
from trivium.optim import OptimConfig, Optimizer
from trivium.records import Example
from trivium.runs import MetricsLog, StageDir
from trivium.sandbox import Sandbox
from trivium.stages.artifacts import save_artifact
from trivium.stages.confinement import SandboxConfig, open_sandbox
from trivium.stages.judging import answer_tasks, judge_answers, pass_share
from trivium.stages.stage import Context, note, perform
from trivium.stages.tasks import TaskConfig
from trivium.tasks.ladder import examples as ladder_examples
from trivium.tokenizer import Tokenizer
from trivium.training import TrainConfig, Trainer
from trivium.training.checkpoint import load_weights, trained_weights
from trivium.training.losses import micro_losses, next_token_loss


class SFTConfig(TrainConfig):
    """How M1 is trained."""

    path: str = ""
    """File of examples (prompt/response, instruction or messages); empty takes solutions of the built-in tasks."""
    tasks: int = Field(default=8500, ge=1, le=MOST)
    """Built-in tasks to learn from, when no file is given."""
    parent: str = ""
    """Model directory to start from; empty takes this run's M0."""
    init: Literal["parent", "random"] = "parent"
    """`random` forgets the parent's weights: the control that shows what pretraining is worth."""
    epochs: float = Field(default=1.0, gt=0, le=MOST)
    """Passes over the examples."""
    batch_size: int = Field(default=32, ge=1, le=MOST)
    """Packed rows a step."""
    micro_batch_size: int = Field(default=32, ge=1, le=MOST)
    """Rows of one forward pass; changes memory, not the result."""
    seq_len: int = Field(default=128, ge=2)
    """Tokens a row."""
    heldout_fraction: float = Field(default=0.02, ge=0, lt=1)
    """Share of a file's examples held out for the loss."""
    on_error: Literal["stop", "skip"] = "stop"
    """At a bad or too long example: stop, or leave it out and count it."""
    optim: OptimConfig = OptimConfig(kind="muon", lr=2e-3, muon_lr=0.01, warmup_steps=10, decay_fraction=0.6)
    """The optimiser."""
    lora: LoRAConfig = LoRAConfig()
    """Low-rank adapters instead of all weights."""
    eval_every: int = Field(default=50, ge=1)
    """Steps between evaluations: held-out loss and pass@1 by execution."""
    eval_tasks: int = Field(default=64, ge=0, le=MOST)
    """Held-out tasks sampled once in each of them; 0 for none."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Cap on a sampled answer in these evaluations."""
    keep: Literal["last", "best"] = "last"
    """Weights that become M1: the last, or those of lowest held-out loss."""

    @model_validator(mode="after")
    def _adapters_have_a_base(self) -> "SFTConfig":
        if self.lora.rank and self.init == "random":
            raise ValueError(
                'lora.rank > 0 adapts the parent, which init = "random" forgets. Set one of them otherwise'
            )
        return self


def split_examples(config: SFTConfig, seed: int, drops: Drops) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples; the ladder's held-out ones are of compositions that training never shows."""
    if not config.path:
        train = ladder_examples(TaskConfig(count=config.tasks).load(seed, "sft", "train"))
        held = ladder_examples(TaskConfig(count=200).load(seed, "sft-heldout", "heldout"))
        return train, held
    examples = load_examples(Path(config.path), config.on_error, drops)
    held_ids = {
        index
        for index, example in enumerate(examples)
        if derive_seed(0, "sft-split", example.prompt) % 10_000 < config.heldout_fraction * 10_000
    }
    train = [example for index, example in enumerate(examples) if index not in held_ids]
    if not train:
        raise ConfigError(f"{config.path}: no example is left to train on. Lower sft.heldout_fraction.")
    return train, [examples[index] for index in sorted(held_ids)]


@torch.no_grad()
def heldout_loss(model: Decoder, loader: ExampleLoader) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed response loss and token count of every held-out batch: two (n,) fp64 tensors."""
    sums, counts = [], []
    for batch in loader.all():
        batch = batch.to(model.device)
        loss = next_token_loss(model, batch)
        sums.append(loss.loss_sum.item())
        counts.append(float(loss.count))
    return torch.tensor(sums, dtype=torch.float64), torch.tensor(counts, dtype=torch.float64)


def run(context: Context, config: SFTConfig, sandbox_config: SandboxConfig) -> dict[str, Any]:
    """Fine-tune the parent on examples."""
    parent = Path(config.parent) if config.parent else context.run.artifact("M0")
    name = str(parent) if config.parent else parent.name

    def body(stage: StageDir) -> tuple[dict[str, Any], list[Any]]:
        model, tokenizer = context.load_model(parent), Tokenizer.load(parent)
        if config.init == "random":
            model.cpu().initialise(torch.Generator().manual_seed(derive_seed(context.seed, "initialise")))
            model.to(context.device)
            note(stage, "the parent's weights were replaced by random ones (sft.init = random)")
        if config.lora.rank:
            add_lora(model, config.lora, context.seed, "sft")
        drops = Drops(config.on_error)
        train, held = split_examples(config, context.seed, drops)
        loader = ExampleLoader(train, tokenizer, config.seq_len, config.batch_size, context.seed, drops)
        held_loader = ExampleLoader(held, tokenizer, config.seq_len, 64, context.seed, drops) if held else None
        steps = max(1, math.ceil(loader.steps_per_epoch * config.epochs))
        if drops.counts:
            drops.write(stage.path / "dropped.jsonl")
            note(stage, f"examples left out: {dict(drops.counts)}; listed in {stage.path / 'dropped.jsonl'}")
        tokens = steps * config.batch_size * config.seq_len
        compiled = context.prepare_training(model, tokens)
        with MetricsLog(stage.metrics_path) as metrics, open_sandbox(stage, sandbox_config) as sandbox:
            trainer = Trainer(
                model,
                Optimizer(shard(model), config.optim, steps),
                stage=stage,
                config=config,
                metrics=metrics,
            )
            evaluate = _evaluation(context, config, trainer, model, tokenizer, held_loader, sandbox)
            trainer.fit(
                steps,
                lambda step: micro_losses(model, loader.batch(step), config.micro_batch_size),
                hooks=[(config.eval_every, evaluate)],
                tokens_per_step=config.batch_size * config.seq_len,
                contents=loader.contents,
            )
        model = gathered(model)
        if config.keep == "best" and trainer.tensors:
            load_weights(model, trainer.tensors)
        result = {"steps": steps, "tokens": tokens, "examples": len(train), "compiled": compiled}
        result |= {"trained_parameters": sum(tensor.numel() for tensor in trained_weights(model).values())}
        result |= {"heldout_loss": trainer.state.get("last_loss"), "best_loss": trainer.state.get("best_loss")}
        save_artifact(model, tokenizer, context.run.artifact("M1"), "fine-tuned on coding tasks", result, name)
        return result, [context.run.artifact("M1")]

    inputs: dict[str, Path | str] = {"parent": parent}
    if config.path:
        inputs["examples"] = Path(config.path)
    return perform(context, "sft", __name__, config, inputs=inputs, parents=[name], together=True, body=body)


def _evaluation(
    context: Context,
    config: SFTConfig,
    trainer: Trainer,
    model: Decoder,
    tokenizer: Tokenizer,
    held_loader: ExampleLoader | None,
    sandbox: Sandbox,
):
    tasks = TaskConfig(count=max(config.eval_tasks, 1)).load(context.seed, "sft-eval", "heldout")

    def evaluate(step: int) -> dict[str, float]:
        figures: dict[str, float] = {}
        plain = gathered(model)
        if not is_main():
            return figures
        if held_loader is not None:
            sums, counts = heldout_loss(plain, held_loader)
            loss = (sums.sum() / counts.sum()).item()
            figures["val/loss"] = trainer.state["last_loss"] = loss
            if loss < trainer.state.get("best_loss", math.inf):
                trainer.state["best_loss"] = loss
                if config.keep == "best":
                    trainer.tensors = {name: tensor.clone() for name, tensor in trained_weights(plain).items()}
        if config.eval_tasks and not config.path:
            answers = answer_tasks(
                plain,
                tokenizer,
                tasks,
                samples=1,
                seed=context.seed,
                purpose="sft-eval",
                max_new_tokens=config.max_new_tokens,
            )
            share = pass_share(judge_answers(answers, sandbox))
            if share is not None:
                figures["val/pass_at_1"] = share
        return figures

    return evaluate
