"""Model and tokenizer directories that cannot be loaded."""

from collections.abc import Callable
from typing import Any

from bench import Arrange, Case, case, copy, cut, edit, folder, link, put, remove

M = "runs/mine/M0"
MODEL = "generate m x --max-new-tokens 2"
HERE = copy(M, "m")
Tensors = dict[str, Any]


def weights(change: Callable[[Tensors], Tensors]) -> Arrange:
    """Change the tensors of the copy."""

    def arrange() -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file("m/model.safetensors")
        save_file(change(tensors), "m/model.safetensors", metadata={"format": "pt"})

    return arrange


def without(tensors: Tensors, *names: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


NORM = "model.norm.weight"


def spoilt(title: str, told: str, *arrange: Arrange, command: str = MODEL) -> Case:
    """A copy of M0 in which something is wrong."""
    return case(title, told, command, HERE, *arrange)


CASES = [
    case(
        "a folder that is not there",
        "nowhere is not a model directory: it has no config.json. Give the path of one.",
        "generate nowhere x",
    ),
    case(
        "a file",
        "mine.toml is not a model directory: it has no config.json. Give the path of one.",
        "generate mine.toml x",
    ),
    case(
        "an empty folder",
        "m is not a model directory: it has no config.json. Give the path of one.",
        MODEL,
        folder("m"),
    ),
    case(
        "a name of the hub",
        "Qwen/Qwen3-0.6B is not a model directory: it has no config.json. Give the path of one.",
        "generate Qwen/Qwen3-0.6B x",
    ),
    case(
        "the run instead of a model in it",
        "runs/mine is not a model directory: it has no config.json. Give the path of one.",
        "generate runs/mine x",
    ),
    case(
        "a reward model asked to write",
        "runs/mine/R is a sequence classifier, which scores texts and writes none. Name M0, M1 or M2.",
        "generate runs/mine/R x",
    ),
    case(
        "a link that leads nowhere",
        "m is not a model directory: it has no config.json. Give the path of one.",
        MODEL,
        link("m", "gone"),
    ),
    spoilt(
        "no config.json",
        "m is not a model directory: it has no config.json. Give the path of one.",
        remove("m/config.json"),
    ),
    spoilt(
        "an empty config.json", "m/config.json is not valid JSON (…). Copy the file again.", put("m/config.json", "")
    ),
    spoilt("config.json cut off", "m/config.json is not valid JSON (…). Copy the file again.", cut("m/config.json")),
    spoilt(
        "config.json that is a list",
        "m/config.json does not hold a JSON object. Copy the file again.",
        put("m/config.json", "[]"),
    ),
    spoilt(
        "config.json that is UTF-16",
        "m/config.json: model_type None is not supported; known: qwen3, qwen2, llama.",
        put("m/config.json", "{}".encode("utf-16")),
    ),
    spoilt(
        "config.json that is a folder",
        "m is not a model directory: it has no config.json. Give the path of one.",
        folder("m/config.json"),
    ),
    spoilt(
        "an unknown architecture",
        "m/config.json: model_type 'gpt2' is not supported; known: qwen3, qwen2, llama.",
        edit("m/config.json", model_type="gpt2"),
    ),
    spoilt(
        "no model_type",
        "m/config.json: model_type None is not supported; known: qwen3, qwen2, llama.",
        edit("m/config.json", model_type=...),
    ),
    spoilt(
        "model_type that is a list",
        "m/config.json: model_type ['qwen3'] is not supported; known: qwen3, qwen2, llama.",
        edit("m/config.json", model_type=["qwen3"]),
    ),
    spoilt(
        "no vocab_size", "m/config.json has no vocab_size. Copy the file again.", edit("m/config.json", vocab_size=...)
    ),
    spoilt(
        "no heads",
        "m/config.json has no num_attention_heads. Copy the file again.",
        edit("m/config.json", num_attention_heads=...),
    ),
    spoilt(
        "0 heads",
        "m/config.json: num_attention_heads is 0. Copy the file again.",
        edit("m/config.json", num_attention_heads=0),
    ),
    spoilt(
        "heads that do not divide",
        "m/config.json: n_heads = 3 is not a multiple of n_kv_heads = 2. Copy the file again.",
        edit("m/config.json", num_attention_heads=3, num_key_value_heads=2),
    ),
    spoilt(
        "a hidden size that is text",
        "m/config.json: hidden_size = 'wide': should be a valid integer, unable to parse string as an "
        "integer. Copy the file again.",
        edit("m/config.json", hidden_size="wide"),
    ),
    spoilt(
        "a hidden size of another model",
        "m: tensor 'model.embed_tokens.weight' has shape (280, 32); config.json calls for (280, 64). Copy both anew.",
        edit("m/config.json", hidden_size=64),
    ),
    spoilt(
        "a hidden size beyond memory",
        "m/config.json: hidden_size = 10000000: should be less than or equal to 131072. Copy the file again.",
        edit("m/config.json", hidden_size=10**7),
    ),
    spoilt(
        "a hidden size beyond counting",
        "m/config.json: hidden_size = 1000000000000000000000000000000: should be less than or equal to "
        "131072. Copy the file again.",
        edit("m/config.json", hidden_size=10**30),
    ),
    spoilt(
        "more layers than the weights have",
        "m: the weights have no tensor 'model.layers.2.self_attn.q_proj.weight', which config.json calls for. Copy both anew.",
        edit("m/config.json", num_hidden_layers=3),
    ),
    spoilt(
        "fewer layers than the weights have",
        "m/config.json: num_hidden_layers = 0: should be greater than or equal to 1. Copy the file again.",
        edit("m/config.json", num_hidden_layers=0),
    ),
    spoilt(
        "layers beyond counting",
        "m/config.json: num_hidden_layers = 1000000000000: should be less than or equal to 1024. Copy the file again.",
        edit("m/config.json", num_hidden_layers=10**12),
    ),
    spoilt(
        "a negative vocabulary",
        "m/config.json: vocab_size = -1: should be greater than or equal to 1. Copy the file again.",
        edit("m/config.json", vocab_size=-1),
    ),
    spoilt(
        "a vocabulary of another tokenizer",
        "m: tensor 'model.embed_tokens.weight' has shape (280, 32); config.json calls for (300, 32). Copy both anew.",
        edit("m/config.json", vocab_size=300),
    ),
    spoilt(
        "a scaled rotation",
        "m/config.json: this model's rope type is not supported. Name a model without.",
        edit("m/config.json", rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}),
    ),
    spoilt(
        "a rotation that is text",
        "m/config.json: rope_parameters is 'default', expected an object.",
        edit("m/config.json", rope_parameters="default"),
    ),
    spoilt(
        "biases that this decoder does not have",
        "m/config.json: this model's attention_bias is not supported. Name a model without.",
        edit("m/config.json", attention_bias=True),
    ),
    spoilt(
        "an activation that this decoder does not have",
        "m/config.json: this model's activation is not supported. Name a model without.",
        edit("m/config.json", hidden_act="gelu"),
    ),
    spoilt(
        "a context of 0",
        "m/config.json: max_position_embeddings = 0: should be greater than or equal to 2. Copy the file again.",
        edit("m/config.json", max_position_embeddings=0),
    ),
    spoilt(
        "NaN in config.json",
        "m/config.json: rms_norm_eps = nan: should be a finite number. Copy the file again.",
        edit("m/config.json", rms_norm_eps=float("nan")),
    ),
    spoilt(
        "no weights",
        "m has no model.safetensors. Pickled weights (.bin, .pt) are never read; convert them.",
        remove("m/model.safetensors"),
    ),
    spoilt(
        "pickled weights",
        "m has no model.safetensors. Pickled weights (.bin, .pt) are never read; convert them.",
        remove("m/model.safetensors"),
        put("m/pytorch_model.bin", b"\x80\x04"),
    ),
    spoilt(
        "weights that are a folder",
        "m/model.safetensors cannot be read as safetensors (…). Copy the file again.",
        folder("m/model.safetensors"),
    ),
    spoilt(
        "empty weights",
        "m/model.safetensors cannot be read as safetensors (…). Copy the file again.",
        put("m/model.safetensors", b""),
    ),
    spoilt(
        "weights cut off",
        "m/model.safetensors cannot be read as safetensors (…). Copy the file again.",
        cut("m/model.safetensors"),
    ),
    spoilt(
        "weights that are text",
        "m/model.safetensors cannot be read as safetensors (…). Copy the file again.",
        put("m/model.safetensors", "weights"),
    ),
    spoilt(
        "pickled weights under another name",
        "m/model.safetensors cannot be read as safetensors (…). Copy the file again.",
        put("m/model.safetensors", b"\x80\x04" + bytes(100)),
    ),
    spoilt(
        "a header beyond the file",
        "m/model.safetensors cannot be read as safetensors (…). Copy the file again.",
        put("m/model.safetensors", b"\xff" * 8 + b"{}"),
    ),
    spoilt(
        "a tensor missing",
        "m: the weights have no tensor 'model.norm.weight', which config.json calls for. Copy both anew.",
        weights(lambda t: without(t, NORM)),
    ),
    spoilt(
        "a tensor of another shape",
        "m: tensor 'model.norm.weight' has shape (31,); config.json calls for (32,). Copy both anew.",
        weights(lambda t: {**t, NORM: t[NORM][:-1]}),
    ),
    spoilt(
        "a tensor too many",
        "m: the weights hold 'model.layers.7.mlp.up_proj.weight', for which config.json has no place. Copy both anew.",
        weights(lambda t: {**t, "model.layers.7.mlp.up_proj.weight": t[NORM].clone()}),
    ),
    spoilt(
        "weights of whole numbers",
        "m: tensor 'model.embed_tokens.weight' is of type int32. Convert the weights to floats.",
        weights(lambda t: {k: v.int() for k, v in t.items()}),
    ),
    spoilt(
        "weights that are NaN",
        "m: tensor 'model.embed_tokens.weight' holds NaN or infinite numbers. Train or copy the model anew.",
        weights(lambda t: {k: v * float("nan") for k, v in t.items()}),
    ),
    spoilt(
        "weights that are infinite",
        "m: tensor 'model.norm.weight' holds NaN or infinite numbers. Train or copy the model anew.",
        weights(lambda t: {**t, NORM: t[NORM] * float("inf")}),
    ),
    spoilt(
        "an index that names files that are not there",
        "m has no part-1.safetensors. Pickled weights (.bin, .pt) are never read; convert them.",
        put("m/model.safetensors.index.json", '{"weight_map": {"a": "part-1.safetensors"}}'),
    ),
    spoilt(
        "an index without a map",
        "m/model.safetensors.index.json has no weight_map of file names. Copy it again.",
        put("m/model.safetensors.index.json", "{}"),
    ),
    spoilt(
        "an index that leads elsewhere",
        "m/model.safetensors.index.json names '../runs/mine/M0/model.safetensors', which leads elsewhere. Copy it again.",
        put("m/model.safetensors.index.json", '{"weight_map": {"a": "../runs/mine/M0/model.safetensors"}}'),
    ),
    spoilt(
        "an index that is a list",
        "m/model.safetensors.index.json does not hold a JSON object. Copy the file again.",
        put("m/model.safetensors.index.json", "[]"),
    ),
    spoilt(
        "an index whose files are numbers",
        "m/model.safetensors.index.json has no weight_map of file names. Copy it again.",
        put("m/model.safetensors.index.json", '{"weight_map": {"a": 3}}'),
    ),
    spoilt(
        "convert damaged weights",
        "m/model.safetensors cannot be read as safetensors (…). Copy the file again.",
        cut("m/model.safetensors"),
        command="convert m copy",
    ),
    spoilt(
        "convert without a tokenizer",
        "m has no tokenizer.json. Give a model or tokenizer directory.",
        remove("m/tokenizer.json"),
        command="convert m copy",
    ),
    spoilt(
        "convert with architectures that are null",
        "m: the weights have no tensor 'model.norm.weight', which config.json calls for. Copy both anew.",
        edit("m/config.json", architectures=None),
        weights(lambda t: without(t, NORM)),
        command="convert m copy",
    ),
    spoilt(
        "convert with no architectures",
        "m: the weights have no tensor 'model.norm.weight', which config.json calls for. Copy both anew.",
        edit("m/config.json", architectures=[]),
        weights(lambda t: without(t, NORM)),
        command="convert m copy",
    ),
    spoilt(
        "fine-tuning of NaN",
        "m: tensor 'model.embed_tokens.weight' holds NaN or infinite numbers. Train or copy the model anew.",
        weights(lambda t: {k: v * float("nan") for k, v in t.items()}),
        command="run mine.toml --name fresh --sft.parent m",
    ),
    spoilt(
        "fine-tuning of a damaged model",
        "m/model.safetensors cannot be read as safetensors (…). Copy the file again.",
        cut("m/model.safetensors"),
        command="run mine.toml --name fresh --sft.parent m",
    ),
    case(
        "adapters wider than the parent's matrices",
        "sft.lora.rank = 33 exceeds 32, the shorter side of q_proj. Lower it.",
        "run mine.toml --name fresh --model.d_model 64 --sft.parent runs/mine/M0 --sft.lora.rank 33",
    ),
    case(
        "R that has lost its figures",
        "runs/mine/R/rm.json cannot be read (No such file or directory). Name a reward model made here.",
        "rl mine.toml --force",
        remove("runs/mine/R/rm.json"),
    ),
    case(
        "R whose figures are text",
        "runs/mine/R/rm.json holds no mean and std of scores. Train R again, or name another.",
        "rl mine.toml --force",
        put("runs/mine/R/rm.json", '{"mean": "a", "std": 1}'),
    ),
    case(
        "R whose ensemble is text",
        "runs/mine/R/rm.json: `ensemble` does not say how many members there are and how their scores are combined. "
        "Train R again, or name another.",
        "rl mine.toml --force",
        edit("runs/mine/R/rm.json", ensemble="three"),
    ),
    case(
        "R that has lost its members",
        "runs/mine/R/members/1/rm.json cannot be read (No such file or directory). Name a reward model made here.",
        "rl mine.toml --force",
        edit("runs/mine/R/rm.json", ensemble={"members": 2, "aggregate": "mean", "sd_coef": 1.0}),
    ),
    case(
        "R whose deviation is 0",
        "runs/mine/R/rm.json: mean … and std 0.0 cannot normalise a score. Train R again.",
        "rl mine.toml --force",
        edit("runs/mine/R/rm.json", std=0),
    ),
    case(
        "R whose mean is NaN",
        "runs/mine/R/rm.json: mean nan and std … cannot normalise a score. Train R again.",
        "rl mine.toml --force",
        edit("runs/mine/R/rm.json", mean=float("nan")),
    ),
    case(
        "R whose figures are a list",
        "runs/mine/R/rm.json holds no mean and std of scores. Train R again, or name another.",
        "rl mine.toml --force",
        put("runs/mine/R/rm.json", "[]"),
    ),
    case(
        "no R to order what is labelled",
        "runs/mine/R/rm.json cannot be read (No such file or directory). Name a reward model made here.",
        "prefs label runs/mine --next uncertainty --no-open",
        remove("runs/mine/R"),
    ),
    case(
        "a model of another kind to order what is labelled",
        "runs/mine/M1/rm.json cannot be read (No such file or directory). Name a reward model made here.",
        "prefs label runs/mine --next disagreement --reward-model runs/mine/M1 --no-open",
    ),
]
