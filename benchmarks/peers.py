"""What Trivium is measured against: models of transformers, and a GPT-2 in plain PyTorch with a plain loop."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trivium.model import Decoder, ModelConfig

SHAPES = {"3M": (192, 6), "10M": (384, 6), "30M": (512, 10)}
"""Width and depth by non-embedding parameters."""
GPU_SHAPES = {"125M": (768, 12), "350M": (1024, 24)}
"""Those by all parameters, about."""


def shape(size: str, vocab_size: int = 4096, max_seq_len: int = 512) -> ModelConfig:
    """The architecture that all contestants of a size have in common."""
    width, depth = (SHAPES | GPU_SHAPES)[size]
    return ModelConfig(vocab_size=vocab_size, n_layers=depth, d_model=width, max_seq_len=max_seq_len)


def products(config: ModelConfig, tokens: float, scored: float, head: bool = True) -> float:
    """1e9 floating-point operations of the weights' products in a forward pass.

    Args:
        tokens: that the pass goes over.
        scored: those whose outputs are asked for; of the others the last block needs keys and values alone.
        head: whether the scored tokens meet the vocabulary.
    """
    keys = 2 * config.d_model * config.n_kv_heads * config.head_dim
    block = keys + 2 * config.d_model * config.n_heads * config.head_dim + 3 * config.d_model * config.d_ff
    body = tokens * ((config.n_layers - 1) * block + keys) + scored * (block - keys)
    return 2 * (body + scored * head * config.d_model * config.vocab_size) / 1e9


def ours(config: ModelConfig, dtype: torch.dtype = torch.bfloat16) -> Decoder:
    """A decoder with random weights."""
    model = Decoder(config)
    model.initialise(torch.Generator().manual_seed(0))
    model.compute_dtype = dtype
    return model


def hugging_face(config: ModelConfig, family: str, dtype: torch.dtype = torch.float32) -> Any:
    """A `llama`, a `qwen3` or a `qwen3 scorer` (one number a token) of transformers: random weights, SDPA attention."""
    import transformers

    kinds = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "qwen3 scorer": (transformers.Qwen3Config, transformers.Qwen3ForSequenceClassification),
    }
    config_class, model_class = kinds[family]
    values: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_seq_len,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
        "attn_implementation": "sdpa",
        "num_labels": 1,
    }
    torch.manual_seed(0)
    return model_class(config_class(**values)).to(dtype)


class PlainBlock(nn.Module):
    """A GPT-2 block: pre-norm, fused attention projections, GELU."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.attention, self.projection = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.wide, self.narrow = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        parts = self.attention(self.norm_1(x)).chunk(3, dim=-1)
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.wide(self.norm_2(x)), approximate="tanh"))


class PlainGPT(nn.Module):
    """A GPT-2 in plain PyTorch: learnt positions, tied head, logits at every position."""

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.places = nn.Embedding(config.max_seq_len, config.d_model)
        self.blocks = nn.ModuleList(PlainBlock(config.d_model, config.n_heads) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                joins = name.endswith(("projection.weight", "narrow.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * config.n_layers) ** 0.5 if joins else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)."""
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


def adamw_step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Backward, clip, update, clear: as a plain loop does it."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean over all positions but the last."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def plain_steps(model: Any, ids: Iterator[Tensor], lr: float = 3e-4) -> Iterator[float]:
    """A plain loop in bf16 autocast with fused AdamW over rows of ids; yields the tokens of each step done."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), fused=True)
    for rows in ids:
        with torch.autocast("cpu", torch.bfloat16):
            # A model of transformers computes the loss itself when it is given labels.
            loss = next_token_loss(model(rows), rows) if isinstance(model, PlainGPT) else model(rows, labels=rows).loss
        adamw_step(model, optimizer, loss)
        yield rows.numel()
