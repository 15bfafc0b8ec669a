"""Train the tokenizer on the corpus's training documents."""

from typing import Any

from trivium.data.config import DataConfig
from trivium.data.corpus import tokenizer_texts
from trivium.runs import StageDir
from trivium.stages.sources import source_inputs
from trivium.stages.stage import Context, perform
from trivium.tokenizer import Tokenizer, TokenizerConfig


def run(context: Context, config: TokenizerConfig, data: DataConfig) -> dict[str, Any]:
    """The artifact is `tokenizer/` itself: a Hugging Face tokenizer directory."""

    def body(stage: StageDir) -> tuple[dict[str, Any], list[Any]]:
        texts = tokenizer_texts(data, config.train_bytes)
        options = config.model_dump(exclude={"vocab_size", "train_bytes"})
        tokenizer = Tokenizer.train(texts, config.vocab_size, **options)
        folder = context.run.artifact("tokenizer")
        tokenizer.save(folder)
        result = {"vocab_size": tokenizer.vocab_size, "bytes_per_token": tokenizer.bytes_per_token(texts[:200])}
        return result, [folder / "tokenizer.json", folder / "tokenizer_config.json"]

    inputs = source_inputs(data) | {"data": data.model_dump_json()}
    return perform(context, "tokenizer", __name__, config, inputs=inputs, body=body)
