"""The decoder: Qwen3-compatible, and Qwen2 and Llama by configuration."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trivium.model import block_attention, fused_layers
from trivium.model.attention import Attention, Context, cache_bias, document_bias
from trivium.model.cache import KVCache
from trivium.model.config import ModelConfig
from trivium.model.fp8 import fits
from trivium.model.fused_attention import available, seen_spans
from trivium.model.fused_layers import fused_gate
from trivium.model.layers import Held, Linear, RMSNorm, joint, joint_weights, select_rows
from trivium.model.rope import rotary_table, spread

if TYPE_CHECKING:
    from trivium.model.lora import LoRAConfig

WORTHWHILE = 0.9
"""Share of the places from which on `Decoder.hidden_at` does the work for all."""


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202): down(silu(gate x) * up x)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = Linear(config.d_model, config.d_ff, bias=False)
        self.up_proj = Linear(config.d_model, config.d_ff, bias=False)
        self.down_proj = Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) -> (..., d_model)."""
        gate, up = joint(x, *self.projections()[0])
        return self.down_proj(fused_gate(gate, up) if fused_layers.available(gate) else F.silu(gate) * up)

    def projections(self) -> list[tuple[Linear, ...]]:
        """The maps, those of one input together."""
        return [(self.gate_proj, self.up_proj), (self.down_proj,)]


class Block(nn.Module):
    """Attention and feed-forward, each on the normalised stream and added back to it."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.d_model, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, layer: int, context: Context) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model), or (N, d_model) of the places that the context wants."""
        x = context.chosen(x) + self.attention(self.attention_norm(x), layer, context)
        return x + self.feed_forward(self.feed_forward_norm(x))

    def parts(self) -> tuple[Attention, FeedForward]:
        """What has matrices."""
        return self.attention, self.feed_forward


def _train_block(block: Block, x: Tensor, layer: int, context: Context) -> Tensor:
    return block(x, 0, context)  # a layer's number is for the cache alone: compiled code need not know it


class Decoder(nn.Module):
    """Token ids to hidden states and logits.

    Parameters are fp32; activations have `compute_dtype`. Nothing in it is random (no dropout).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.adapter: LoRAConfig | None = None
        """The low-rank adapters on it, where it has any."""
        self._held_head: Held | None = None
        self._compiled: Callable[..., Tensor] | None = None
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
        return self._run(ids, self._context(ids, positions, cache, end, branches), None)

    def hidden_at(
        self, places: Tensor, ids: Tensor, positions: Tensor | None = None, branches: Tensor | None = None
    ) -> Tensor:
        """`hidden(ids, positions, branches=branches).flatten(0, 1)[places]`, for less work.

        The last block takes queries and feed-forward of these places alone: of a sixth of the work of six blocks it
        leaves out up to four fifths.

        Args:
            places: (N,) flat indices into ids, in any order; one may stand there more than once.
            ids, positions, branches: as `hidden` has them.
        Returns:
            (N, d_model) in `compute_dtype`.
        """
        context = self._context(ids, positions, None, None, branches)
        distinct, which = places.unique(return_inverse=True)
        compiled = self._compiled is not None and torch.is_grad_enabled()  # compiled blocks know rows of one shape
        if compiled or len(distinct) > WORTHWHILE * ids.numel():
            found = select_rows(self._run(ids, context, None).flatten(0, 1), distinct)
        else:
            found = self._run(ids, context, distinct)
        return found if torch.equal(distinct, places) else found.index_select(0, which)

    def _run(self, ids: Tensor, context: Context, wanted: Tensor | None) -> Tensor:
        x = F.embedding(ids, self.embedding.weight).to(self.compute_dtype)
        training = torch.is_grad_enabled()
        last = len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            if layer == last:
                context = context._replace(wanted=wanted)
            run = partial(self._compiled, block) if self._compiled and training and context.cache is None else block
            if self.recompute and training:
                x = checkpoint(run, x, layer, context, use_reentrant=False)
            else:
                x = run(x, layer, context)
        return self.norm(x)

    def _context(
        self, ids: Tensor, positions: Tensor | None, cache: KVCache | None, end: int | None, branches: Tensor | None
    ) -> Context:
        dtype, length = self.compute_dtype, ids.shape[1]
        fused = cache is None and available(self.device, dtype)
        if positions is None:
            cos, sin = self.cos[:length].to(dtype), self.sin[:length].to(dtype)
            every = torch.arange(length, device=ids.device).expand_as(ids) if fused else None
            return Context(cos, sin, None, None if every is None else seen_spans(every))
        at = positions.clamp(min=0)
        cos, sin = self.cos[at][:, None].to(dtype), self.sin[at][:, None].to(dtype)
        if fused:
            return Context(cos, sin, None, seen_spans(positions, branches))
        if cache is None:
            if block_attention.available(self.device, self.config.head_dim):
                return Context(cos, sin, None, blocks=block_attention.block_mask(seen_spans(positions, branches)))
            return Context(cos, sin, document_bias(positions, dtype, branches))
        if length > 1:
            return Context(cos, sin, None, cache=cache, end=length)
        end = int(positions.max()) + 1 if end is None else end
        cos, sin = spread(cos, sin)
        bias, places = cache_bias(positions, end, dtype), cache.places(positions)
        return Context(cos, sin, bias, cache=cache, places=places, end=end)

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) in fp32; the logits at index i predict token i + 1."""
        return self.logits(self.hidden(ids, positions))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., d_model) -> (..., V) in fp32."""
        if self._held_head is not None:
            return self._held_head(hidden).float()
        return F.linear(hidden, self.head_weight.to(hidden.dtype)).float()

    @contextmanager
    def hold_casts(self) -> Iterator[None]:
        """Cast and join the matrices once for all passes within, none of which may follow an update or want a gradient.

        Decoding casts every weight for every token otherwise, and merges every adapter: at one row that is most of its
        time. The values are the same. Nothing is held where weights are computed with as they are.
        """
        as_they_are = self.compute_dtype == self.head_weight.dtype and self.adapter is None
        if as_they_are or self._held_head is not None:
            yield
            return
        norms = [module for module in self.modules() if isinstance(module, RMSNorm)]
        groups = [
            group
            for block in cast(Iterable[Block], self.blocks)
            for part in block.parts()
            for group in part.projections()
        ]
        try:
            with torch.no_grad():
                for group in groups:
                    group[0].held = Held(*joint_weights(group, self.compute_dtype))
                for norm in norms:
                    norm.held = norm.weight.detach().to(self.compute_dtype)  # a Parameter would be one of the module
                self._held_head = Held(self.head_weight.to(self.compute_dtype))
            yield
        finally:
            self._held_head = None
            for each in (*norms, *(group[0] for group in groups)):
                each.held = None

    def compile_blocks(self) -> None:
        """Compile the blocks for training on rows of one shape; one block's code serves all. Other passes stay as is.

        Where compilation fails, PyTorch warns and goes on without it.
        """
        from torch._dynamo import config as tracing
        from torch._inductor import config as generating

        tracing.suppress_errors = True
        generating.compile_threads = 1  # no pool of processes for one small piece of code
        self._compiled = torch.compile(_train_block, dynamic=False)

    def train_in_fp8(self) -> None:
        """Train with the blocks' products in 8-bit floats; other passes, adapters and the head stay as they are."""
        for block in cast(Iterable[Block], self.blocks):
            for part in block.parts():
                for linear in (each for group in part.projections() for each in group):
                    linear.fp8 = fits(linear.weight)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embedding.weight.device

    def parameter_count(self) -> int:
        """Number of parameters, shared ones once."""
        return sum(parameter.numel() for parameter in self.parameters())
