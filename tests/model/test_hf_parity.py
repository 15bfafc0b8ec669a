"""Logits, log-probs and scores equal transformers' for every family, in both directions."""

from pathlib import Path
from typing import Any

import pytest
import torch

from trivium.model import Decoder, ModelConfig, Scorer, load_model, load_scorer, save_model

transformers = pytest.importorskip("transformers", reason="parity needs the `hf` extra")

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "n_layers": 2,
    "d_model": 48,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 16,
    "d_ff": 80,
}
FAMILIES: list[Any] = ["qwen3", "qwen2", "llama"]


def random_weights(model: torch.nn.Module, seed: int = 0) -> None:
    """Every parameter random and of order one tenth, norms and biases too, so that none is left untested."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.15 * noise)


def hf_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_saved_model_gives_equal_logits_in_transformers(tmp_path: Path, family: Any, tied: bool) -> None:
    model = Decoder(ModelConfig(family=family, tie_embeddings=tied, max_seq_len=64, **SHAPE))
    random_weights(model)
    save_model(model, tmp_path, pad_id=0, bos_id=1, eos_id=2)
    ids = torch.randint(0, 97, (3, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), hf_logits(tmp_path, ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_checkpoint_gives_equal_logits_here(tmp_path: Path, family: Any) -> None:
    prefix = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}[family]
    config = getattr(transformers, f"{prefix}Config")(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16 if family == "qwen3" else 12, max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0}, tie_word_embeddings=False,
    )  # fmt: skip
    theirs = getattr(transformers, f"{prefix}ForCausalLM")(config)
    random_weights(theirs)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")  # several shards and an index
    ours = load_model(tmp_path)
    assert ours.config.rope_theta == 5000.0
    ids = torch.randint(0, 97, (2, 64), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_scorer_opens_as_sequence_classifier(tmp_path: Path, family: Any) -> None:
    model = Scorer(ModelConfig(family=family, max_seq_len=64, **SHAPE))
    random_weights(model)
    save_model(model, tmp_path, pad_id=0, bos_id=1, eos_id=2)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert theirs.config.num_labels == 1
    ids = torch.randint(3, 97, (3, 20), generator=torch.Generator().manual_seed(3))
    lengths = [20, 7, 13]
    for row, length in enumerate(lengths):
        ids[row, length:] = 0
    with torch.no_grad():
        ours = model.scores(model.hidden(ids))[torch.arange(3), torch.tensor(lengths) - 1]
        torch.testing.assert_close(theirs(ids).logits[:, 0], ours, atol=1e-4, rtol=0)
        again = load_scorer(tmp_path)
        assert torch.equal(again.scores(again.hidden(ids)), model.scores(model.hidden(ids)))
