"""Read the corpus and write it as memory-mapped token shards."""

from typing import Any

from trivium.data.config import DataConfig
from trivium.data.corpus import prepare_corpus
from trivium.runs import StageDir
from trivium.stages.sources import source_inputs
from trivium.stages.stage import Context, note, perform
from trivium.tokenizer import Tokenizer


def run(context: Context, config: DataConfig) -> dict[str, Any]:
    """The artifact is `data/shards/`."""
    tokenizer_path = context.run.artifact("tokenizer") / "tokenizer.json"

    def body(stage: StageDir) -> tuple[dict[str, Any], list[Any]]:
        shards = stage.path / "shards"
        report = prepare_corpus(config, Tokenizer.load(tokenizer_path.parent), shards)
        if dropped := report.get("dropped"):
            note(stage, f"left out: {dropped}; see {shards / 'dropped.jsonl'}")
        return report, [shards]

    inputs = source_inputs(config) | {"tokenizer": tokenizer_path}
    return perform(context, "data", __name__, config, inputs=inputs, body=body)
