"""Pretraining: next-token prediction on the corpus; the artifact is M0."""

from typing import Any, ClassVar

import torch
from pydantic import Field

from trivium.base.config import MOST
from trivium.base.errors import DataError
from trivium.base.ranks import is_main
from trivium.base.seeding import derive_seed
from trivium.data.loader import CorpusLoader
from trivium.distributed import gathered, shard
from trivium.evaluation.bits_per_byte import bits_per_byte
from trivium.model import Decoder, ModelConfig
from trivium.optim import OptimConfig, Optimizer
from trivium.runs import MetricsLog, StageDir
from trivium.stages.artifacts import save_artifact
from trivium.stages.stage import Context, perform
from trivium.tokenizer import Tokenizer
from trivium.training import TrainConfig, Trainer
from trivium.training.losses import micro_losses, next_token_loss


class PretrainConfig(TrainConfig):
    """How M0 is trained."""

    steps: int = Field(default=90, ge=1)
    """Optimiser steps."""
    tokens_per_parameter: float | None = Field(default=None, gt=0, le=MOST)
    """Tokens seen for each parameter of the model: sets steps, where they are not given. With model.depth it is 20."""
    batch_size: int = Field(default=64, ge=1, le=MOST)
    """Rows a step."""
    micro_batch_size: int = Field(default=64, ge=1, le=MOST)
    """Rows of one forward pass; gradients are accumulated. Changes memory, not the result."""
    seq_len: int = Field(default=128, ge=2)
    """Tokens a row."""
    optim: OptimConfig = OptimConfig(kind="muon", lr=3e-3, muon_lr=0.02, warmup_steps=20)
    """The optimiser."""
    eval_every: int = Field(default=45, ge=1)
    """Steps between evaluations on held-out documents."""
    eval_rows: int = Field(default=96, ge=1)
    """Held-out rows a source in each of them."""
    checkpoint_every: int = Field(default=45, ge=1)
    """Steps between checkpoints."""

    # Only what follows from it counts: the steps.
    adjustable: ClassVar[frozenset[str]] = TrainConfig.adjustable | {"tokens_per_parameter"}


def heldout_bits_per_byte(model: Decoder, loader: CorpusLoader, rows: int) -> dict[str, float]:
    """Bits per byte on held-out documents, by source."""
    figures = {}
    for source in loader.corpus.sources:
        nats, size = 0.0, 0
        for batch, target_bytes in loader.validation(source.name, rows):
            nats += lm_loss_sum(model, batch.to(model.device))
            size += target_bytes
        if size:
            figures[source.name] = bits_per_byte(nats, size)
    return figures


@torch.no_grad()
def lm_loss_sum(model: Decoder, batch: Any) -> float:
    """Summed next-token loss of a batch, in nats."""
    return next_token_loss(model, batch).loss_sum.item()


def run(context: Context, config: PretrainConfig, shape: ModelConfig) -> dict[str, Any]:
    """Train from random weights on `data/shards`."""
    folder = context.run.artifact("tokenizer")
    shards = context.run.stage("data").path / "shards"

    def body(stage: StageDir) -> tuple[dict[str, Any], list[Any]]:
        tokenizer = Tokenizer.load(folder)
        loader = CorpusLoader(shards, "train", config.seq_len, config.batch_size, context.seed)
        if loader.corpus.fingerprint != tokenizer.fingerprint:
            raise DataError(
                f"{shards} holds the tokens of another tokenizer than {folder}. Make them anew: the stage data."
            )
        model = Decoder(shape.model_copy(update={"vocab_size": tokenizer.vocab_size}))
        model.initialise(torch.Generator().manual_seed(derive_seed(context.seed, "initialise")))
        tokens = config.steps * config.batch_size * config.seq_len
        context.place(model)
        compiled = context.prepare_training(model, tokens)
        optimizer = Optimizer(shard(model), config.optim, config.steps)

        def measure(rows: int) -> dict[str, float]:
            plain = gathered(model)
            return heldout_bits_per_byte(plain, loader, rows) if is_main() else {}

        def evaluate(step: int) -> dict[str, float]:
            figures = measure(config.eval_rows)
            return {f"bits_per_byte/{name}": value for name, value in figures.items()}

        with MetricsLog(stage.metrics_path) as metrics:
            trainer = Trainer(
                model,
                optimizer,
                stage=stage,
                config=config,
                metrics=metrics,
            )
            trainer.fit(
                config.steps,
                lambda step: micro_losses(model, loader.batch(step), config.micro_batch_size),
                hooks=[(config.eval_every, evaluate)],
                tokens_per_step=config.batch_size * config.seq_len,
                contents=loader.contents,
            )
        figures = measure(4 * config.eval_rows)
        result = {"tokens": tokens, "parameters": model.parameter_count(), "compiled": compiled}
        result |= {"bits_per_byte": figures}
        facts = {f"bits per byte, held-out {name}": value for name, value in figures.items()}
        save_artifact(model, tokenizer, context.run.artifact("M0"), "pretrained on text and code", facts)
        return result, [context.run.artifact("M0")]

    sizes = shape.model_dump_json(exclude={"depth"})  # what they came from does not matter
    inputs = {"tokenizer": folder / "tokenizer.json", "corpus": shards, "shape": sizes}
    return perform(context, "pretrain", __name__, config, inputs=inputs, together=True, body=body)
