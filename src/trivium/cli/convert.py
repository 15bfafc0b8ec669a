"""`trivium convert`: a model directory read, checked and written again, in the precision asked for."""

from pathlib import Path

from trivium.base.errors import InputError
from trivium.cli.arguments import Arguments, check_parent, print_json
from trivium.cli.invocation import Invocation

PRECISIONS = ("float32", "bfloat16", "float16")


def run(invocation: Invocation) -> int:
    """Copy a model directory."""
    description = (
        "Copy a Hugging Face model directory (Qwen3, Qwen2, Llama) into another: weights in one safetensors file, in "
        "the precision asked for. Model directories made here are Hugging Face directories already."
    )
    parser = Arguments("convert", description)
    parser.add_argument("source", type=Path, help="model directory")
    parser.add_argument("target", type=Path, help="directory to write; must not exist")
    parser.add_argument("--dtype", choices=PRECISIONS, default="float32", help="of the weights [%(default)s]")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.read(invocation.arguments)
    if options.target.exists():
        raise InputError(f"{options.target} exists already. Name a new directory.")
    check_parent(options.target)
    size = convert(options.source, options.target, options.dtype)
    if options.json:
        print_json({"path": str(options.target), "dtype": options.dtype, "bytes": size})
    else:
        print(f"{options.target}: {options.dtype}, {size / 1e6:.1f} MB")
    return 0


def convert(source: Path, target: Path, dtype: str) -> int:
    """Write `source` to `target` with weights in `dtype`; the bytes of its weights.

    Raises:
        ModelError: `source` is not a model directory that can be read.
    """
    from trivium.base.files import write_json
    from trivium.model import load_model, load_scorer, save_model
    from trivium.model.hf import is_classifier, read_hf_json
    from trivium.tokenizer import Tokenizer

    model = load_scorer(source) if is_classifier(source) else load_model(source)
    tokenizer = Tokenizer.load(source)
    eos = tokenizer.pad_id if tokenizer.eos_id is None else tokenizer.eos_id
    bos = eos if tokenizer.bos_id is None else tokenizer.bos_id
    save_model(model, target, pad_id=tokenizer.pad_id, bos_id=bos, eos_id=eos)
    tokenizer.save(target)
    if dtype != "float32":
        _cast(target / "model.safetensors", dtype)
        write_json(target / "config.json", {**read_hf_json(target), "dtype": dtype})
    return (target / "model.safetensors").stat().st_size


def _cast(path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from trivium.base.files import atomic_path

    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(path).items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
