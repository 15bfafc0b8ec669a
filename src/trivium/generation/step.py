"""Decoding on a CPU by code compiled for the machine: `step.cpp`, built at first use and bound by ctypes.

It computes what `Decoder.hidden` and `Decoder.logits` do with a cache; the tests hold one against the other. What it
adds is speed, and that a token's figures do not depend on what else is decoded, in bf16 as little as in fp32.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trivium.base import compiled
from trivium.model.attention import Attention
from trivium.model.cache import KVCache
from trivium.model.layers import Linear, RMSNorm
from trivium.model.transformer import Decoder, FeedForward

SOURCE = Path(__file__).with_name("step.cpp")

Rows = NDArray[np.int64]
"""Token ids, row numbers or positions."""

_Pointer, _Long = ctypes.c_void_p, ctypes.c_long


class _Matrix(ctypes.Structure):
    _fields_ = (("panels", _Pointer), ("words", _Long), ("columns", _Long))


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Matrix) for name in ("queries_keys_values", "out", "gate_up", "down")),
        *((name, _Pointer) for name in ("attention_norm", "feed_forward_norm", "bias", "query_norm", "key_norm")),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        ("head", _Matrix),
        *((name, _Pointer) for name in ("norm", "cos", "sin")),
        *((name, _Long) for name in ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff")),
        ("eps", ctypes.c_float),
    )


class _Cache(ctypes.Structure):
    _fields_ = (("keys", _Pointer), ("values", _Pointer), ("rows", _Long), ("capacity", _Long))


class _Tokens(ctypes.Structure):
    _fields_ = (
        *((name, _Pointer) for name in ("embedded", "rows", "positions", "wanted")),
        *((name, _Long) for name in ("count", "n_wanted")),
    )


def decoding(model: Decoder | None = None) -> str:
    """How tokens are decoded here: `compiled`, or `PyTorch` with the reason.

    Args:
        model: that is to be decoded; None for any that `Step` takes, one on a CPU in fp32 or bf16.
    """
    if model and (model.device.type != "cpu" or model.compute_dtype not in (torch.float32, torch.bfloat16)):
        return "PyTorch: the model is not on a CPU in fp32 or bf16"
    return "compiled" if library() else f"PyTorch: {compiled.why_not()}"


def library() -> Any:
    """`step.cpp`, or None where it cannot be had."""
    return compiled.library(SOURCE)


def draw_tokens(
    logits: Tensor, uniforms: NDArray[np.float32], temperature: float, threads: int
) -> tuple[Rows, NDArray[np.float32]]:
    """What `sample_tokens` does, in one pass over the logits.

    Args:
        logits: (B, V) fp32.
        uniforms: (B,) in [0, 1).
        temperature: of the softmax; 0 takes the largest logit.
        threads: that share the rows.
    Returns:
        (B,) ids and (B,) log-probabilities.
    """
    count, width = logits.shape
    ids, logprobs = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.float32)
    logits, uniforms = logits.contiguous(), np.ascontiguousarray(uniforms)
    library().trivium_sample(
        *(_Pointer(address) for address in (logits.data_ptr(), uniforms.ctypes.data)),
        *(_Long(value) for value in (count, width)),
        ctypes.c_float(temperature),
        *(_Pointer(each.ctypes.data) for each in (ids, logprobs)),
        threads,
    )
    return ids, logprobs


class Step:
    """A model's weights laid out for `step.cpp`. They are copies: of no use once the model has been updated."""

    @torch.no_grad()
    def __init__(self, model: Decoder):
        config = model.config
        self.model, self.dtype = model, model.compute_dtype
        self.library, self.kept = library(), []
        self.lanes: int = self.library.trivium_lanes()
        layers = (_Layer * config.n_layers)(*(self._layer(block) for block in model.blocks))
        cos, sin = (self._floats(each) for each in (model.cos, model.sin))
        head = self._matrix([model.head_weight.detach().to(self.dtype)])
        shape = config.n_layers, config.d_model, config.n_heads, config.n_kv_heads, config.head_dim, config.d_ff
        self.held = _Model(layers, head, self._floats(model.norm.weight), cos, sin, *shape, config.norm_eps)

    def __call__(self, ids: Rows, rows: Rows, positions: Rows, wanted: Rows, cache: KVCache, threads: int) -> Tensor:
        """Store the tokens' keys and values in the cache and give the logits of those wanted.

        Args:
            ids: (N,) tokens; those before them in their rows are in the cache, or before them here.
            rows, positions: (N,) of the cache.
            wanted: (W,) indices into ids.
            cache: the model's, in its `compute_dtype`.
            threads: that share the work.
        Returns:
            (W, V) in fp32.
        """
        embedded = F.embedding(torch.from_numpy(ids), self.model.embedding.weight).to(self.dtype).float()
        logits = torch.empty(len(wanted), self.model.config.vocab_size)
        numbers = [np.ascontiguousarray(each, dtype=np.int64) for each in (rows, positions, wanted)]
        tokens = _Tokens(embedded.data_ptr(), *(each.ctypes.data for each in numbers), len(ids), len(wanted))
        store = _Cache(cache.keys.data_ptr(), cache.values.data_ptr(), cache.keys.shape[1], cache.keys.shape[3])
        self.library.trivium_step(
            *(ctypes.byref(each) for each in (self.held, store, tokens)),
            self.dtype == torch.bfloat16,
            _Pointer(logits.data_ptr()),
            threads,
        )
        return logits

    def _layer(self, block: Any) -> _Layer:
        attention: Attention = block.attention
        feed_forward: FeedForward = block.feed_forward
        biases: list[Tensor] = [each.bias for each in attention.projections()[0] if each.bias is not None]
        norms = [each.weight if isinstance(each, RMSNorm) else None for each in (attention.q_norm, attention.k_norm)]
        joint, (out,) = attention.projections()
        gate_up, (down,) = feed_forward.projections()
        return _Layer(
            self._matrix(self._weights(joint)),
            self._matrix(self._weights([out])),
            self._matrix(self._weights(gate_up), by_turns=True),
            self._matrix(self._weights([down])),
            self._floats(block.attention_norm.weight),
            self._floats(block.feed_forward_norm.weight),
            self._floats(torch.cat(biases)) if biases else None,
            *(None if each is None else self._floats(each) for each in norms),
        )

    def _weights(self, maps: Sequence[Linear]) -> list[Tensor]:
        return [each.matrix(self.dtype).detach() for each in maps]

    def _floats(self, values: Tensor) -> int:
        """The address of values as the model's passes have them, in fp32."""
        self.kept.append(values.detach().to(self.dtype).float().contiguous())
        return self.kept[-1].data_ptr()

    def _matrix(self, weights: Sequence[Tensor], by_turns: bool = False) -> _Matrix:
        """Matrices of one input side by side; or `lanes` columns of each of two by turns."""
        lanes, panel = self.lanes, 2 * self.lanes
        words = -(-weights[0].shape[1] * weights[0].element_size() // 4)
        widths = [-(-len(each) // lanes) * lanes if by_turns else len(each) for each in weights]
        columns = sum(widths)
        full = columns % panel == 0 and widths == [len(each) for each in weights]
        make = torch.empty if full else torch.zeros
        panels = make(-(-columns // panel) * panel, words, dtype=torch.int32)
        first = 0
        for each in weights:
            odd = each.shape[1] * each.element_size() % 4
            source = F.pad(each, (0, 1)) if odd else each.contiguous()
            run, gap = (lanes, panel) if by_turns else (len(each), 0)
            self.library.trivium_pack(
                _Pointer(source.data_ptr()),
                *(_Long(value) for value in (len(each), words, first, run, gap)),
                _Pointer(panels.data_ptr()),
                torch.get_num_threads(),
            )
            first += lanes if by_turns else len(each)
        self.kept.append(panels)
        return _Matrix(panels.data_ptr(), words, columns)
