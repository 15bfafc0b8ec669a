"""Checkpoints that cannot be gone on from: a run whose first stage of training failed after its first step."""

from bench import STOPPED, case, cut, edit, folder, put, remove

C = "runs/stopped/pretrain/checkpoints/step-00000001"
GO_ON = f"pretrain {STOPPED}"


CASES = [
    case(
        "tensors cut off",
        "checkpoint runs/stopped/pretrain/checkpoints/step-00000001 is damaged (…",
        GO_ON,
        cut(f"{C}/tensors.safetensors"),
    ),
    case(
        "no tensors",
        "checkpoint runs/stopped/pretrain/checkpoints/step-00000001 is damaged (…",
        GO_ON,
        remove(f"{C}/tensors.safetensors"),
    ),
    case(
        "tensors that are pickled",
        "checkpoint runs/stopped/pretrain/checkpoints/step-00000001 is damaged (…",
        GO_ON,
        put(f"{C}/tensors.safetensors", b"\x80\x04"),
    ),
    case(
        "tensors that are a folder",
        "checkpoint runs/stopped/pretrain/checkpoints/step-00000001 is damaged (…",
        GO_ON,
        folder(f"{C}/tensors.safetensors"),
    ),
    case(
        "no state",
        "checkpoint runs/stopped/pretrain/checkpoints/step-00000001 is damaged (…",
        GO_ON,
        remove(f"{C}/state.json"),
    ),
    case(
        "a state cut off",
        "checkpoint runs/stopped/pretrain/checkpoints/step-00000001 is damaged (…",
        GO_ON,
        cut(f"{C}/state.json"),
    ),
    case(
        "a state that is a list",
        "checkpoint runs/stopped/pretrain/checkpoints/step-00000001 is damaged (…",
        GO_ON,
        put(f"{C}/state.json", "[]"),
    ),
    case(
        "a state of no step",
        "checkpoint runs/stopped/pretrain/checkpoints/step-00000001 is damaged (…",
        GO_ON,
        edit(f"{C}/state.json", step="many"),
    ),
    case(
        "a state without a checksum",
        "checkpoint runs/stopped/pretrain/checkpoints/step-00000001 is damaged (…",
        GO_ON,
        edit(f"{C}/state.json", tensors=...),
    ),
    case(
        "another checksum",
        "checkpoint runs/stopped/pretrain/checkpoints/step-00000001 is damaged (…",
        GO_ON,
        edit(f"{C}/state.json", tensors="0" * 64),
    ),
    case(
        "metrics that are damaged",
        "runs/stopped/pretrain/metrics.jsonl line 1 is not JSON (…). Mend or delete the line, or use --force.",
        GO_ON,
        put("runs/stopped/pretrain/metrics.jsonl", "x\ny\n"),
    ),
    case(
        "metrics without steps",
        "runs/stopped/pretrain/metrics.jsonl line 1 has no integer `step`. Mend or delete the line, or use --force.",
        GO_ON,
        put("runs/stopped/pretrain/metrics.jsonl", '{"loss": 1}\n'),
    ),
    case(
        "other settings",
        "runs/stopped/pretrain holds a stage (failed) made otherwise: config.seq_len: 64 → 32. Start it "
        "again with --force, or give this run another name.",
        GO_ON + " --pretrain.seq_len 32",
    ),
    case(
        "another seed",
        "runs/stopped/pretrain holds a stage (failed) made otherwise: seed: 0 → 1. Start it again with "
        "--force, or give this run another name.",
        GO_ON + " --seed 1",
    ),
]
