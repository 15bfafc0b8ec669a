"""Hugging Face directories: config.json and safetensors of the Qwen3, Qwen2 and Llama families."""

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trivium.base.errors import ModelError
from trivium.base.files import atomic_path, save_tensors, write_json
from trivium.model.config import ModelConfig
from trivium.model.heads import Scorer
from trivium.model.transformer import Decoder

M = TypeVar("M", bound=Decoder)

FAMILIES = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}
"""`model_type` in config.json -> prefix of the architecture's class name."""

_OUTER = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
_OUTER |= {"head.weight": "lm_head.weight", "score.weight": "score.weight"}
_SHAPE = {
    "vocab_size": "vocab_size",
    "n_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "d_ff": "intermediate_size",
    "max_seq_len": "max_position_embeddings",
    "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
}
"""Field of `ModelConfig` -> key in config.json."""
_INNER = {
    "attention_norm": "input_layernorm",
    "attention": "self_attn",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward": "mlp",
}


def hf_name(name: str) -> str:
    """blocks.3.attention.q_proj.weight -> model.layers.3.self_attn.q_proj.weight."""
    if name in _OUTER:
        return _OUTER[name]
    _, layer, part, rest = name.split(".", 3)
    return f"model.layers.{layer}.{_INNER[part]}.{rest}"


def save_model(model: Decoder, folder: Path, *, pad_id: int, bos_id: int | None, eos_id: int) -> None:
    """Write config.json, generation_config.json and model.safetensors; a `Scorer` becomes a one-label classifier."""
    assert model.adapter is None, "transformers knows no adapters: merge them first"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {hf_name(name): tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
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
    if not isinstance(family, str) or family not in FAMILIES:
        raise ModelError(f"{folder}/config.json: model_type {family!r} is not supported; known: {', '.join(FAMILIES)}.")
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ModelError(f"{folder}/config.json: rope_parameters is {rope!r}, expected an object.")
    unsupported = {
        "rope type": rope.get("rope_type", rope.get("type", "default")) not in ("default", None),
        "attention_bias": family != "qwen2" and values.get("attention_bias", False),
        "mlp_bias": values.get("mlp_bias", False),
        "sliding window": values.get("use_sliding_window", False),
        "activation": values.get("hidden_act", "silu") not in ("silu", "swish"),
    }
    if any(unsupported.values()):
        names = ", ".join(name for name, bad in unsupported.items() if bad)
        raise ModelError(f"{folder}/config.json: this model's {names} is not supported. Name a model without.")
    shape: dict[str, Any] = {"family": family, "rope_theta": rope.get("rope_theta") or 10_000.0}
    for field, name in _SHAPE.items():
        if values.get(name) is not None:
            shape[field] = values[name]
        elif field in ("vocab_size", "n_layers", "d_model", "n_heads", "d_ff"):
            raise ModelError(f"{folder}/config.json has no {name}. Copy the file again.")
    if shape["n_heads"] == 0:
        raise ModelError(f"{folder}/config.json: num_attention_heads is 0. Copy the file again.")
    try:
        return ModelConfig.model_validate({"max_seq_len": 2048, "tie_embeddings": False, **shape})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = _SHAPE.get(str(problem["loc"][0]), "") if problem["loc"] else ""
        place = f"{name} = {values.get(name)!r}: " if name else ""
        reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
        raise ModelError(f"{folder}/config.json: {place}{reason}. Copy the file again.") from None


def read_hf_json(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of a model directory."""
    if not (folder / name).is_file():
        raise ModelError(f"{folder} is not a model directory: it has no {name}. Give the path of one.")
    try:
        values = json.loads((folder / name).read_bytes())
    except OSError as error:
        raise ModelError(f"{folder / name} cannot be read: {error.strerror}. Check its permissions.") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{folder / name} is not valid JSON ({error}). Copy the file again.") from None
    if not isinstance(values, dict):
        raise ModelError(f"{folder / name} does not hold a JSON object. Copy the file again.")
    return values


def is_classifier(folder: Path) -> bool:
    """Whether the directory says that it holds a sequence classifier rather than a language model."""
    names = read_hf_json(folder).get("architectures")
    return isinstance(names, list) and bool(names) and str(names[0]).endswith("ForSequenceClassification")


def load_model(folder: Path) -> Decoder:
    """A causal language model from a Hugging Face directory, in fp32.

    Raises:
        ModelError: the directory is missing or incomplete, holds another kind of model, or its weights do not fit.
    """
    if is_classifier(folder):
        raise ModelError(f"{folder} is a sequence classifier, which scores texts and writes none. Name M0, M1 or M2.")
    return _load(Decoder, folder)


def load_scorer(folder: Path) -> Scorer:
    """A one-label sequence classifier from a Hugging Face directory, in fp32; raises as `load_model` does."""
    return _load(Scorer, folder)


def _load(kind: type[M], folder: Path) -> M:
    config, tensors = read_config(folder), _read_all(folder)
    _check_size(config, tensors, folder)
    model = kind(config)
    model.load_state_dict(_fit(model, tensors, folder), strict=False)  # a classifier has no language-model head
    return model


def _check_size(config: ModelConfig, tensors: dict[str, Tensor], folder: Path) -> None:
    """A size that the weights do not have is told before memory is asked for it."""
    last, width = f"model.layers.{config.n_layers - 1}", config.d_model
    _check_shape(tensors, "model.embed_tokens.weight", (config.vocab_size, width), folder)
    _check_shape(tensors, f"{last}.self_attn.q_proj.weight", (config.n_heads * config.head_dim, width), folder)
    _check_shape(tensors, f"{last}.self_attn.k_proj.weight", (config.n_kv_heads * config.head_dim, width), folder)
    _check_shape(tensors, f"{last}.mlp.gate_proj.weight", (config.d_ff, width), folder)


def _check_shape(tensors: dict[str, Tensor], name: str, wanted: tuple[int, ...], folder: Path) -> None:
    if name not in tensors:
        raise ModelError(f"{folder}: the weights have no tensor {name!r}, which config.json calls for. Copy both anew.")
    found = tuple(tensors[name].shape)
    if found != wanted:
        raise ModelError(
            f"{folder}: tensor {name!r} has shape {found}; config.json calls for {wanted}. Copy both anew."
        )


def _fit(model: Decoder, tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The tensors by the model's own names, in fp32; all that it needs are there, finite and of its shapes."""
    state: dict[str, Tensor] = {}
    for name, parameter in model.state_dict().items():
        key = hf_name(name)
        if key not in tensors and name == "head.weight" and isinstance(model, Scorer):
            continue
        _check_shape(tensors, key, tuple(parameter.shape), folder)
        if not tensors[key].is_floating_point():
            kind = str(tensors[key].dtype).removeprefix("torch.")
            raise ModelError(f"{folder}: tensor {key!r} is of type {kind}. Convert the weights to floats.")
        if not bool(tensors[key].isfinite().all()):
            raise ModelError(f"{folder}: tensor {key!r} holds NaN or infinite numbers. Train or copy the model anew.")
        state[name] = tensors[key].to(torch.float32)
    known = {hf_name(name) for name in state} | {"lm_head.weight"}  # tied heads are often saved all the same
    if left := [name for name in tensors if name not in known and not name.endswith("rotary_emb.inv_freq")]:
        raise ModelError(f"{folder}: the weights hold {left[0]!r}, for which config.json has no place. Copy both anew.")
    return state


def _read_all(folder: Path) -> dict[str, Tensor]:
    if (folder / "model.safetensors.index.json").exists():
        parts = read_hf_json(folder, "model.safetensors.index.json").get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(name, str) for name in parts.values()):
            raise ModelError(f"{folder}/model.safetensors.index.json has no weight_map of file names. Copy it again.")
        files = sorted(set(parts.values()))
        if outside := [name for name in files if Path(name).name != name]:
            raise ModelError(
                f"{folder}/model.safetensors.index.json names {outside[0]!r}, which leads elsewhere. Copy it again."
            )
    else:
        files = ["model.safetensors"]
    tensors: dict[str, Tensor] = {}
    for name in files:
        tensors |= read_tensors(folder / name)
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of a model directory; raises `ModelError` where it is missing or damaged."""
    if not path.exists():
        raise ModelError(f"{path.parent} has no {path.name}. Pickled weights (.bin, .pt) are never read; convert them.")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as safetensors ({error}). Copy the file again.") from error
