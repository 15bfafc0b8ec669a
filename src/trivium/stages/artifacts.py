"""Writing a model where the contract says: Hugging Face files, tokenizer, adapters and a model card."""

import shutil
from pathlib import Path
from typing import Any

from trivium.base.files import write_text
from trivium.base.ranks import is_main
from trivium.distributed import gathered
from trivium.model import Decoder, save_model
from trivium.model.lora import merged, save_adapter
from trivium.tokenizer import Tokenizer

ADAPTER = "adapter"
"""Folder of a model directory that holds its low-rank adapters once more, apart from the weights."""


def write_model(model: Decoder, tokenizer: Tokenizer, folder: Path, base: str = "") -> None:
    """The weights, those of adapters merged into them; the tokenizer; and the adapters once more, for `base`."""
    if model.adapter is None:
        shutil.rmtree(folder / ADAPTER, ignore_errors=True)
    else:
        save_adapter(model, folder / ADAPTER, base)
    save_model(merged(model), folder, pad_id=tokenizer.pad_id, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    tokenizer.save(folder)


def save_artifact(
    model: Decoder, tokenizer: Tokenizer, folder: Path, title: str, facts: dict[str, Any], base: str = ""
) -> None:
    """A model directory that opens in transformers, with a README of what it is. Written by rank 0; all must ask.

    Args:
        base: of a model with adapters, the one that they are for; its weights are written merged, and the adapters
            beside them.
    """
    model = gathered(model)
    if not is_main():
        return
    if model.adapter is not None:
        facts = facts | {ADAPTER: f"rank {model.adapter.rank} on {base}, in `{ADAPTER}/` for PEFT"}
    write_model(model, tokenizer, folder, base)
    config = model.config
    rows = {
        "architecture": config.family,
        "parameters": f"{merged(model).parameter_count():,}",
        "layers × width": f"{config.n_layers} × {config.d_model}",
        "context": f"{config.max_seq_len} tokens",
        "vocabulary": f"{config.vocab_size}",
    } | {key.replace("_", " "): f"{value:.4g}" if isinstance(value, float) else value for key, value in facts.items()}
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    write_text(
        folder / "README.md",
        f"# {folder.name}: {title}\n\n| | |\n|---|---|\n{table}\n\n"
        "Made by Trivium. How it was made, with seeds, inputs and versions: `lineage.json` of its run.\n\n"
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f'model = AutoModelForCausalLM.from_pretrained("{folder.name}")\n```\n',
    )
