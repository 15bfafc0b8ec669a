"""The decoder: Qwen3-compatible, and Qwen2 and Llama by configuration."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trivium.model.attention import Attention, cache_bias, document_bias
from trivium.model.cache import KVCache
from trivium.model.config import ModelConfig
from trivium.model.layers import Linear, RMSNorm
from trivium.model.rope import rotary_table


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202): down(silu(gate x) * up x)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = Linear(config.d_model, config.d_ff, bias=False)
        self.up_proj = Linear(config.d_model, config.d_ff, bias=False)
        self.down_proj = Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) -> (..., d_model)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and feed-forward, each on the normalised stream and added back to it."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.d_model, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, *context: object) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model); `context` is what attention needs."""
        x = x + self.attention(self.attention_norm(x), *context)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Decoder(nn.Module):
    """Token ids to hidden states and logits.

    Parameters are fp32; activations have `compute_dtype`. Nothing in it is random (no dropout).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self._held_head: Tensor | None = None
        self.recompute = False
        """Keep only the stream between blocks for the backward pass and compute the blocks again there."""
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = None if config.tie_embeddings else Linear(config.d_model, config.vocab_size, bias=False)
        cos, sin = rotary_table(config.max_seq_len, config.head_dim, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.cos: Tensor
        self.sin: Tensor

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights: N(0, 1/fan_in) inside, zero where a branch joins the stream, N(0, 0.02^2) embeddings.

        With zero output projections every block starts as the identity (Zhang et al. 2019, arXiv:1901.09321).
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
            else:
                scale = 0.02 if name.startswith(("embedding", "head")) else parameter.shape[1] ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)

    @property
    def head_weight(self) -> Tensor:
        """(V, d_model) of the output head."""
        return self.embedding.weight if self.head is None else self.head.weight

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        end: int | None = None,
        branches: Tensor | None = None,
    ) -> Tensor:
        """Normalised hidden states, from which the head reads.

        Args:
            ids: (B, T).
            positions: (B, T), restarting at 0 where a document starts; None for one document a row. With a
                cache, the slots that the new tokens take.
            cache: keys and values of earlier tokens.
            end: with a cache, slots in use after this call, 1 + the largest position.
            branches: (B, T) of documents that fork; see `document_bias`. Needs positions.
        Returns:
            (B, T, d_model) in `compute_dtype`.
        """
        length = ids.shape[1]
        bias = None
        if positions is None:
            cos, sin = self.cos[:length], self.sin[:length]
        else:
            at = positions.clamp(min=0)
            cos, sin = self.cos[at][:, None], self.sin[at][:, None]
            if cache is None:
                bias = document_bias(positions, self.compute_dtype, branches)
            elif length == 1:
                end = int(positions.max()) + 1 if end is None else end
                bias = cache_bias(positions, end, self.compute_dtype)
            else:
                end = length
        cos, sin = cos.to(self.compute_dtype), sin.to(self.compute_dtype)
        x = F.embedding(ids, self.embedding.weight).to(self.compute_dtype)
        for layer, block in enumerate(self.blocks):
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, cos, sin, bias, layer, positions, cache, end or 0, use_reentrant=False)
            else:
                x = block(x, cos, sin, bias, layer, positions, cache, end or 0)
        return self.norm(x)

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) in fp32; the logits at index i predict token i + 1."""
        return self.logits(self.hidden(ids, positions))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., d_model) -> (..., V) in fp32."""
        weight = self.head_weight if self._held_head is None else self._held_head
        return F.linear(hidden, weight.to(hidden.dtype)).float()

    @contextmanager
    def hold_casts(self) -> Iterator[None]:
        """Cast the matrices to `compute_dtype` once for all passes within, none of which may follow an update.

        Decoding casts every weight for every token otherwise: at one row that is most of its time. The values are the
        same. Nothing is held where weights are computed with as they are.
        """
        if self.compute_dtype == self.head_weight.dtype or self._held_head is not None:
            yield
            return
        maps = [module for module in self.modules() if isinstance(module, Linear)]
        try:
            with torch.no_grad():
                for each in maps:
                    each.held = each.weight.to(self.compute_dtype)
                self._held_head = self.head_weight.to(self.compute_dtype)
            yield
        finally:
            self._held_head = None
            for each in maps:
                each.held = None

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embedding.weight.device

    def parameter_count(self) -> int:
        """Number of parameters, shared ones once."""
        return sum(parameter.numel() for parameter in self.parameters())
