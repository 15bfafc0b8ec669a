"""Runs that cannot be gone on with: folders of something else, other settings, damaged manifests, checkpoints, shards."""

from bench import add, case, copy, cut, edit, folder, link, put, remove

R = "runs/mine"


CASES = [
    case(
        "a file in the run's place",
        "cannot write to the run directory runs/taken: File exists. Choose another place.",
        "run mine.toml --name taken",
        put("runs/taken", ""),
    ),
    case(
        "a link that leads nowhere in the run's place",
        "cannot write to the run directory runs/taken: File exists. Choose another place.",
        "run mine.toml --name taken",
        link("runs/taken", "gone"),
    ),
    case(
        "a folder of something else",
        "runs/taken/tokenizer holds notes.txt but no manifest.json, so it is not this stage's work. "
        "Delete the folder with --force, or give the run another name.",
        "run mine.toml --name taken",
        put("runs/taken/tokenizer/notes.txt", "mine"),
    ),
    case(
        "a file in a stage's place",
        "runs/taken/tokenizer is not a folder, so the stage cannot be there. Give the run another name.",
        "run mine.toml --name taken",
        put("runs/taken/tokenizer", "mine"),
    ),
    case(
        "a stage made otherwise",
        "runs/mine/pretrain holds a stage (done) made otherwise: config.steps: 2 → 3. Start it again "
        "with --force, or give this run another name.",
        "pretrain mine.toml --pretrain.steps 3",
    ),
    case(
        "a run made otherwise",
        "runs/mine/tokenizer holds a stage (done) made otherwise: seed: 0 → 1. Start it again with "
        "--force, or give this run another name.",
        "run mine.toml --seed 1",
    ),
    case(
        "another number of threads",
        "runs/mine/tokenizer holds a stage (done) made otherwise: config.compute.threads: 1 → 2. Start "
        "it again with --force, or give this run another name.",
        "run mine.toml --compute.threads 2",
    ),
    case(
        "another corpus",
        "runs/mine/tokenizer holds a stage (done) made otherwise: input source corpus changed. Start it "
        "again with --force, or give this run another name.",
        "run mine.toml",
        put("corpus/more.py", "x = 1\n"),
    ),
    case(
        "other answers",
        "runs/mine/sft holds a stage (done) made otherwise: input examples changed. Start it again with "
        "--force, or give this run another name.",
        "run mine.toml",
        add("answers.jsonl", {"prompt": "a", "response": "b"}),
    ),
    case(
        "an altered model",
        "runs/mine/M0 was altered since the stage pretrain made it. Make it again with --force, or give "
        "the run another name to keep it.",
        "run mine.toml",
        cut(f"{R}/M0/README.md"),
    ),
    case(
        "an altered tokenizer",
        "runs/mine/tokenizer/tokenizer_config.json was altered since the stage tokenizer made it. Make "
        "it again with --force, or give the run another name to keep it.",
        "run mine.toml",
        edit(f"{R}/tokenizer/tokenizer_config.json", eos_token="<|pad|>"),
    ),
    case(
        "an altered shard",
        "runs/mine/data/shards was altered since the stage data made it. Make it again with --force, or "
        "give the run another name to keep it.",
        "run mine.toml",
        cut(f"{R}/data/shards/corpus-train.bin"),
    ),
    case(
        "a damaged shard",
        "runs/mine/data/shards/corpus-train.bin is missing or damaged. Prepare the data again.",
        "pretrain mine.toml --force",
        cut(f"{R}/data/shards/corpus-train.bin"),
    ),
    case(
        "a damaged index of shards",
        "runs/mine/data/shards is damaged (…). Prepare the data again.",
        "pretrain mine.toml --force",
        cut(f"{R}/data/shards/corpus-train.docs.npy"),
    ),
    case(
        "a damaged manifest of shards",
        "runs/mine/data/shards/manifest.json is damaged (…). Prepare the data again.",
        "pretrain mine.toml --force",
        cut(f"{R}/data/shards/manifest.json"),
    ),
    case(
        "a manifest of shards without sources",
        "runs/mine/data/shards is damaged (…). Prepare the data again.",
        "pretrain mine.toml --force",
        edit(f"{R}/data/shards/manifest.json", sources=...),
    ),
    case(
        "shards without byte counts",
        "runs/mine/data/shards is damaged (…). Prepare the data again.",
        "pretrain mine.toml --force",
        remove(f"{R}/data/shards/token_bytes.npy"),
    ),
    case(
        "byte counts that are pickled",
        "runs/mine/data/shards is damaged (…). Prepare the data again.",
        "pretrain mine.toml --force",
        put(f"{R}/data/shards/token_bytes.npy", b"\x80\x04"),
    ),
    case(
        "shards of another tokenizer",
        "runs/mine/data/shards holds the tokens of another tokenizer than runs/mine/tokenizer. Make them "
        "anew: the stage data.",
        "pretrain mine.toml --force",
        edit(f"{R}/data/shards/manifest.json", tokenizer="other"),
    ),
    case(
        "no shards",
        "pretrain needs corpus, but runs/mine/data/shards does not exist. Run the stages before it first.",
        "pretrain mine.toml --force",
        remove(f"{R}/data/shards"),
    ),
    case(
        "a manifest cut off",
        "runs/mine/pretrain/manifest.json is not a manifest (Invalid JSON: …). Start the stage again "
        "with --force, or give the run another name.",
        "run mine.toml",
        cut(f"{R}/pretrain/manifest.json"),
    ),
    case(
        "an empty manifest",
        "runs/mine/pretrain/manifest.json is not a manifest (Invalid JSON: …). Start the stage again "
        "with --force, or give the run another name.",
        "run mine.toml",
        put(f"{R}/pretrain/manifest.json", ""),
    ),
    case(
        "a manifest that is a list",
        "runs/mine/pretrain/manifest.json is not a manifest (Input should be an object). Start the stage "
        "again with --force, or give the run another name.",
        "run mine.toml",
        put(f"{R}/pretrain/manifest.json", "[]"),
    ),
    case(
        "a manifest that is a folder",
        "runs/mine/pretrain/manifest.json cannot be read: Is a directory. Look at what stands there.",
        "run mine.toml",
        folder(f"{R}/pretrain/manifest.json"),
    ),
    case(
        "a manifest without a status",
        "runs/mine/pretrain/manifest.json is not a manifest (status: Field required). Start the stage "
        "again with --force, or give the run another name.",
        "run mine.toml",
        edit(f"{R}/pretrain/manifest.json", status=...),
    ),
    case(
        "a manifest with an unknown status",
        "runs/mine/pretrain/manifest.json is not a manifest (status: Input should be 'running', 'done', "
        "'interrupted' or 'failed'). Start the stage again with --force, or give the run another name.",
        "run mine.toml",
        edit(f"{R}/pretrain/manifest.json", status="ok"),
    ),
    case(
        "a manifest edited by hand",
        "runs/mine/pretrain holds a stage (done) made otherwise: its manifest was edited. Start it again "
        "with --force, or give this run another name.",
        "run mine.toml",
        edit(f"{R}/pretrain/manifest.json", fingerprint="0"),
    ),
    case(
        "a manifest with a broken time",
        "runs/mine/pretrain/manifest.json is not a manifest (session_started: Value error, Invalid "
        "isoformat string: 'yesterday'). Start the stage again with --force, or give the run another "
        "name.",
        "run mine.toml",
        edit(f"{R}/pretrain/manifest.json", status="running", session_started="yesterday"),
    ),
    case(
        "a manifest of another stage",
        'runs/mine/pretrain holds a stage (done) made otherwise: config.path: "answers.jsonl" → '
        '(absent); config.tasks: 8500 → (absent); config.parent: "" → (absent); config.init: "parent" → '
        "(absent); config.epochs: 1.0 → (absent); config.batch_size: 32 → 4; config.micro_batch_size: 32 "
        "→ 64; config.seq_len: 128 → 64; and 21 more. Start it again with --force, or give this run "
        "another name.",
        "run mine.toml",
        remove(f"{R}/pretrain/manifest.json"),
        copy(f"{R}/sft/manifest.json", f"{R}/pretrain/manifest.json"),
    ),
    case(
        "runs with a damaged manifest",
        "runs/mine/pretrain/manifest.json is not a manifest (Invalid JSON: …). Start the stage again "
        "with --force, or give the run another name.",
        f"runs {R}",
        cut(f"{R}/pretrain/manifest.json"),
    ),
    case(
        "a record of precision cut off",
        "runs/mine/compute.json does not hold the precision that the run was begun with. Set "
        "compute.precision and pass --force, or give the run another name.",
        "run mine.toml",
        cut(f"{R}/compute.json"),
    ),
    case(
        "a record of precision that is a list",
        "runs/mine/compute.json does not hold the precision that the run was begun with. Set "
        "compute.precision and pass --force, or give the run another name.",
        "run mine.toml",
        put(f"{R}/compute.json", "[]"),
    ),
    case(
        "a record of precision with unknown fields",
        "runs/mine/compute.json does not hold the precision that the run was begun with. Set "
        "compute.precision and pass --force, or give the run another name.",
        "run mine.toml",
        edit(f"{R}/compute.json", speed=3),
    ),
    case(
        "no M1 before R",
        "reward needs M1, but runs/mine/M1 does not exist. Run the stages before it first.",
        "reward mine.toml --force",
        remove(f"{R}/M1"),
    ),
    case(
        "no R before RL",
        "rl needs R, but runs/mine/R does not exist. Run the stages before it first.",
        "rl mine.toml --force",
        remove(f"{R}/R"),
    ),
    case(
        "no M2 before evaluation",
        "evaluate needs M2, but runs/mine/M2 does not exist. Run the stages before it first.",
        "evaluate mine.toml --force",
        remove(f"{R}/M2"),
    ),
    case(
        "no comparisons before R",
        "reward needs comparisons, but runs/mine/collect/samples/preferences.jsonl does not exist. Run "
        "the stages before it first.",
        "reward mine.toml --force",
        remove(f"{R}/collect/samples"),
    ),
    case(
        "M0 that is a file",
        "runs/mine/M0 is not a model directory: it has no config.json. Give the path of one.",
        "sft mine.toml --force",
        remove(f"{R}/M0"),
        put(f"{R}/M0", ""),
    ),
]
