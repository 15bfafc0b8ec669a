"""Hugging Face directories: config.json and safetensors of the Qwen3, Qwen2 and Llama families."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trivium.base.errors import ModelError
from trivium.base.files import atomic_path, save_tensors, write_json
from trivium.model.config import ModelConfig
from trivium.model.heads import Scorer
from trivium.model.transformer import Decoder

FAMILIES = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}
"""`model_type` in config.json -> prefix of the architecture's class name."""

_OUTER = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
_OUTER |= {"head.weight": "lm_head.weight", "score.weight": "score.weight"}
_INNER = {
    "attention_norm": "input_layernorm",
    "attention": "self_attn",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward": "mlp",
}


def _hf_name(name: str) -> str:
    """blocks.3.attention.q_proj.weight -> model.layers.3.self_attn.q_proj.weight."""
    if name in _OUTER:
        return _OUTER[name]
    _, layer, part, rest = name.split(".", 3)
    return f"model.layers.{layer}.{_INNER[part]}.{rest}"


def save_model(model: Decoder, folder: Path, *, pad_id: int, bos_id: int | None, eos_id: int) -> None:
    """Write config.json, generation_config.json and model.safetensors; a `Scorer` becomes a one-label classifier."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_hf_name(name): tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if isinstance(model, Scorer):
        tensors.pop("lm_head.weight", None)
    with atomic_path(folder / "model.safetensors") as temporary:
        save_tensors(tensors, temporary, metadata={"format": "pt"})
    write_json(folder / "config.json", _hf_config(model, pad_id, bos_id, eos_id))
    if not isinstance(model, Scorer):
        ids = {"bos_token_id": bos_id, "eos_token_id": eos_id, "pad_token_id": pad_id}
        write_json(folder / "generation_config.json", {"do_sample": True, "temperature": 1.0, **ids})


def _hf_config(model: Decoder, pad_id: int, bos_id: int | None, eos_id: int) -> dict[str, Any]:
    config = model.config
    scorer = isinstance(model, Scorer)
    values: dict[str, Any] = {
        "architectures": [FAMILIES[config.family] + ("ForSequenceClassification" if scorer else "ForCausalLM")],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_seq_len,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_cache": True,
        "dtype": "float32",
        "pad_token_id": pad_id,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
    }
    if config.family != "qwen2":
        values["attention_bias"] = False
    if config.family == "llama":
        values["mlp_bias"] = False
    if config.family.startswith("qwen"):
        values |= {"use_sliding_window": False, "sliding_window": None}
    if scorer:
        values |= {"num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    return values


def read_config(folder: Path) -> ModelConfig:
    """The shape of the model in a Hugging Face directory.

    Raises:
        ModelError: no such directory, or a feature that this decoder does not have.
    """
    values = read_hf_json(folder)
    family = values.get("model_type")
    if family not in FAMILIES:
        raise ModelError(f"{folder}/config.json: model_type {family!r} is not supported; known: {', '.join(FAMILIES)}.")
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    unsupported = {
        "rope type": rope.get("rope_type", rope.get("type", "default")) not in ("default", None),
        "attention_bias": family != "qwen2" and values.get("attention_bias", False),
        "mlp_bias": values.get("mlp_bias", False),
        "sliding window": values.get("use_sliding_window", False),
        "activation": values.get("hidden_act", "silu") not in ("silu", "swish"),
    }
    if any(unsupported.values()):
        names = ", ".join(name for name, bad in unsupported.items() if bad)
        raise ModelError(f"{folder}/config.json: this model's {names} is not supported.")
    heads = values["num_attention_heads"]
    theta = values.get("rope_theta") or rope.get("rope_theta") or 10_000.0
    return ModelConfig(
        family=family,
        vocab_size=values["vocab_size"],
        n_layers=values["num_hidden_layers"],
        d_model=values["hidden_size"],
        n_heads=heads,
        n_kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or values["hidden_size"] // heads,
        d_ff=values["intermediate_size"],
        max_seq_len=values.get("max_position_embeddings", 2048),
        rope_theta=theta,
        norm_eps=values.get("rms_norm_eps", 1e-6),
        tie_embeddings=values.get("tie_word_embeddings", False),
    )


def read_hf_json(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of a model directory."""
    try:
        return json.loads((folder / name).read_text())
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a model directory: it has no {name}. Give the path of one.") from None
    except ValueError as error:
        raise ModelError(f"{folder / name} is not valid JSON ({error}).") from None


def load_model(folder: Path) -> Decoder:
    """A causal language model from a Hugging Face directory, in fp32."""
    model = Decoder(read_config(folder))
    _load_into(model, folder)
    return model


def load_scorer(folder: Path) -> Scorer:
    """A one-label sequence classifier from a Hugging Face directory, in fp32."""
    model = Scorer(read_config(folder))
    _load_into(model, folder)
    return model


def _load_into(model: Decoder, folder: Path) -> None:
    tensors = _read_tensors(folder)
    state: dict[str, Tensor] = {}
    for name, parameter in model.state_dict().items():
        hf_name = _hf_name(name)
        if hf_name not in tensors and name == "head.weight" and isinstance(model, Scorer):
            state[name] = parameter  # a classifier's checkpoint has no language-model head
            continue
        if hf_name not in tensors:
            raise ModelError(f"{folder}: the weights have no tensor {hf_name!r}, which config.json calls for.")
        if tensors[hf_name].shape != parameter.shape:
            found, wanted = tuple(tensors[hf_name].shape), tuple(parameter.shape)
            raise ModelError(f"{folder}: tensor {hf_name!r} has shape {found}; config.json calls for {wanted}.")
        state[name] = tensors[hf_name].to(torch.float32)
    model.load_state_dict(state)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    if (folder / "model.safetensors.index.json").exists():
        index = read_hf_json(folder, "model.safetensors.index.json")
        files = sorted(set(index["weight_map"].values()))
    else:
        files = ["model.safetensors"]
    tensors: dict[str, Tensor] = {}
    for name in files:
        path = folder / name
        if not path.exists():
            raise ModelError(f"{folder} has no {name}. Pickled weights (.bin, .pt) are never read; convert them.")
        try:
            with safe_open(path, framework="pt") as file:
                tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read as safetensors ({error}).") from error
    return tensors
