"""Models made so that what they write is known: each token decides the next."""

from collections.abc import Mapping
from pathlib import Path

import torch

from trivium.model import Decoder, ModelConfig, save_model
from trivium.tokenizer import Tokenizer

BYTES = Tokenizer.train(["a"], vocab_size=267)
"""Single bytes and the special tokens."""
WIDTH = 272
CONTEXT = 2048


def chain(start: str | int, text: str, ends: bool = True) -> dict[int, int]:
    """Tokens and what follows each: `text` after `start`, then the end or `text` again; no byte may come twice."""
    first = start if isinstance(start, int) else BYTES.encode(start)[-1]
    ids = BYTES.encode(text)
    assert len(set(ids) | {first}) == len(ids) + 1
    return dict(zip([first, *ids], [*ids, BYTES.eos_id if ends else ids[0]], strict=True))


def save_reciting(folder: Path, follows: Mapping[int, int], n_layers: int = 1) -> Path:
    """A model directory whose greedy answer goes from token to token as told; other tokens are followed by the end.

    More layers write the same, more slowly.
    """
    model = Decoder(
        ModelConfig(
            vocab_size=BYTES.vocab_size,
            n_layers=n_layers,
            d_model=WIDTH,
            n_heads=2,
            d_ff=64,
            max_seq_len=CONTEXT,
            tie_embeddings=False,
        )
    )
    assert model.head is not None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)  # the blocks add nothing
        model.embedding.weight.copy_(torch.eye(BYTES.vocab_size, WIDTH))
        for token in range(BYTES.vocab_size):
            model.head.weight[follows.get(token, BYTES.eos_id), token] = 0.5
    save_model(model, folder, pad_id=BYTES.pad_id, bos_id=BYTES.bos_id, eos_id=BYTES.eos_id)
    BYTES.save(folder)
    return folder
