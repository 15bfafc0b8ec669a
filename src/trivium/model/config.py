"""The shape of a model."""

from typing import Any, Literal

from pydantic import Field, model_validator

from trivium.base.config import Config

MAX_LAYERS = 1024
CHANNELS_A_LAYER = 64
"""Width of a model by its depth: near this ratio loss hardly depends on it (Kaplan et al. 2020, arXiv:2001.08361)."""


class ModelConfig(Config):
    """A decoder's shape; the defaults are the quickstart's."""

    family: Literal["qwen3", "qwen2", "llama"] = "qwen3"
    """Hugging Face architecture that the weights are saved as."""
    depth: int | None = Field(default=None, ge=1, le=MAX_LAYERS)
    """The size dial: unless they are given, n_layers is depth, d_model 64 depth, the rest as for any width; in a recipe
    it sets learning rates, batch and length of pretraining too (docs/pretrain.md). Unset leaves all as they are."""
    vocab_size: int = Field(default=2048, ge=1, le=2**24)
    """Rows of the embedding; the tokenizer's size."""
    n_layers: int = Field(default=5, ge=1, le=MAX_LAYERS)
    """Transformer blocks."""
    d_model: int = Field(default=128, ge=2, le=2**17)
    """Width of the residual stream."""
    n_heads: int = Field(default=0, ge=0, le=2**12)
    """Query heads; 0 takes d_model / 64, at least 1."""
    n_kv_heads: int = Field(default=0, ge=0, le=2**12)
    """Key/value heads (grouped-query attention); divides n_heads; 0 takes n_heads."""
    head_dim: int = Field(default=0, ge=0, le=2**12)
    """Width of a head, even; 0 takes d_model / n_heads."""
    d_ff: int = Field(default=0, ge=0, le=2**20)
    """Width of the SwiGLU hidden layer; 0 takes 8/3 d_model, rounded up to a multiple of 64."""
    max_seq_len: int = Field(default=256, ge=2, le=2**24)
    """Longest sequence, in tokens."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary frequencies."""
    norm_eps: float = Field(default=1e-6, gt=0)
    """Added to the mean square in RMSNorm."""
    tie_embeddings: bool = True
    """The output head shares the embedding's weights."""

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: Any) -> Any:
        """Fill the zeros, so that a loaded config is the resolved one."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        given = {}
        for key in ("depth", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff"):
            text = str(values.get(key) or 0)
            text = "0" if key == "depth" and text.lower() == "none" else text
            if not text.isdecimal() or len(text) > 18:
                return values  # the field's own check says what is wrong
            given[key] = int(text)
        if 0 < (depth := given["depth"]) <= MAX_LAYERS:  # beyond, the field itself says what is wrong
            values = {"n_layers": depth, "d_model": CHANNELS_A_LAYER * depth} | values
            given["d_model"] = given["d_model"] or CHANNELS_A_LAYER * depth
        d_model = given["d_model"] or 128
        if given["n_heads"] and not given["head_dim"] and d_model % given["n_heads"]:
            raise ValueError(
                f"d_model = {d_model} is not a multiple of n_heads = {given['n_heads']}. Change one, or give head_dim"
            )
        values["n_heads"] = given["n_heads"] or max(1, d_model // 64)
        values["n_kv_heads"] = given["n_kv_heads"] or values["n_heads"]
        values["head_dim"] = given["head_dim"] or d_model // values["n_heads"]
        values["d_ff"] = given["d_ff"] or -(-d_model * 8 // 3 // 64) * 64
        return values

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if not self.n_kv_heads or self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads = {self.n_heads} is not a multiple of n_kv_heads = {self.n_kv_heads}.")
        if not self.head_dim:
            raise ValueError(f"n_heads = {self.n_heads} leaves no channel for a head of d_model = {self.d_model}.")
        if self.head_dim % 2:
            raise ValueError(f"head_dim = {self.head_dim} is odd; rotary embedding turns pairs of channels.")
        return self

    @property
    def parameter_count(self) -> int:
        """Parameters of a decoder of this shape, known before memory is asked for it."""
        queries, keys = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        block = 2 * self.d_model + 3 * self.d_model * self.d_ff + 2 * (queries + keys) * self.d_model
        block += 2 * self.head_dim * self.qk_norm + (queries + 2 * keys) * self.qkv_bias
        embeddings = self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)
        return embeddings + self.n_layers * block + self.d_model

    @property
    def qk_norm(self) -> bool:
        """Queries and keys are RMS-normalised per head (Qwen3)."""
        return self.family == "qwen3"

    @property
    def qkv_bias(self) -> bool:
        """Query, key and value projections have a bias (Qwen2)."""
        return self.family == "qwen2"
