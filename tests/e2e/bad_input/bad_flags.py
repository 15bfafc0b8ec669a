"""Command lines that cannot be meant."""

from bench import case, put

CASES = [
    case("an unknown command", "there is no command 'trian'. Did you mean `trivium pretrain`?", "trian"),
    case("a near miss of a command", "there is no command 'pretrian'. Did you mean `trivium pretrain`?", "pretrian"),
    case("a command in capitals", "there is no command 'RUN'. `trivium --help` lists the commands.", "RUN"),
    case(
        "an option instead of a command",
        "there is no command '--pretrain.steps'. Did you mean `trivium pretrain`?",
        "--pretrain.steps 3",
    ),
    case("an empty command", "there is no command ''. `trivium --help` lists the commands.", "''"),
    case(
        "a misspelt option",
        "--pretrain.stpes: no such option. Did you mean --pretrain.steps?",
        "run mine.toml --pretrain.stpes 3",
    ),
    case(
        "an option without its section", "--steps: no such option. Did you mean --rl.steps?", "run mine.toml --steps 3"
    ),
    case(
        "an option with one dash",
        "unexpected argument '-seed'. Options are written --section.field value.",
        "run mine.toml -seed 3",
    ),
    case(
        "a section as an option",
        "--pretrain is a section. Name one of its fields, for example --pretrain.checkpoint_every.",
        "run mine.toml --pretrain 3",
    ),
    case(
        "an option that is nothing",
        "unexpected argument '--'. Options are written --section.field value.",
        "run mine.toml --",
    ),
    case(
        "an option with an empty name",
        "--: no such option. `trivium run --help` lists all options.",
        "run mine.toml --=3",
    ),
    case(
        "an option in the middle of nowhere",
        "--pretrain..steps: no such option. Did you mean --pretrain.steps?",
        "run mine.toml --pretrain..steps 3",
    ),
    case("an option without a value", "--seed needs a value.", "run mine.toml --seed"),
    case("an option whose value is the next option", "--seed needs a value.", "run mine.toml --seed --name x"),
    case("an empty value", "--seed: expected a whole number, got ''.", "run mine.toml --seed="),
    case(
        "an empty name",
        "--name: '' cannot name a run: it takes up to 100 letters, digits, '.', '_' and '-', the first a "
        "letter or digit.",
        "run mine.toml --name ''",
    ),
    case(
        "a value too many",
        "unexpected argument '2'. Options are written --section.field value.",
        "run mine.toml --seed 1 2",
    ),
    case(
        "two recipes",
        "unexpected argument 'quickstart'. Options are written --section.field value.",
        "run mine.toml quickstart",
    ),
    case(
        "text for a count",
        "--pretrain.steps: expected a whole number, got 'many'.",
        "run mine.toml --pretrain.steps many",
    ),
    case(
        "a count with a unit",
        "--pretrain.steps: expected a whole number, got '10k'.",
        "run mine.toml --pretrain.steps 10k",
    ),
    case(
        "a negative count",
        "--pretrain.steps: expected a value greater than or equal to 1, got '-3'.",
        "run mine.toml --pretrain.steps -3",
    ),
    case(
        "a count of thousands of digits",
        "--pretrain.steps: expected a whole number of at most 64 bits, got one of 30 digits.",
        f"run mine.toml --pretrain.steps {'9' * 30}",
    ),
    case("NaN", "--pretrain.optim.lr: expected a finite number, got 'nan'.", "run mine.toml --pretrain.optim.lr nan"),
    case(
        "infinity", "--rl.learner.gamma: expected a finite number, got 'inf'.", "run mine.toml --rl.learner.gamma inf"
    ),
    case(
        "neither true nor false",
        "--reward.allow_chance: expected true or false, got 'maybe'.",
        "run mine.toml --reward.allow_chance=maybe",
    ),
    case(
        "neither true nor false, apart",
        "unexpected argument 'maybe'. Options are written --section.field value.",
        "run mine.toml --reward.allow_chance maybe",
    ),
    case(
        "a list that is no JSON", "--data.sources [corpus: not valid JSON: ….", "run mine.toml --data.sources '[corpus'"
    ),
    case(
        "a near miss of an adapter's targets",
        "--rl.lora.targets: a block has no linear map 'qproj'. Did you mean q_proj?",
        "run mine.toml --rl.lora.rank 2 --rl.lora.targets qproj v_proj",
    ),
    case(
        "one of two betas",
        "--pretrain.optim.betas: expected more than 1 values.",
        "run mine.toml --pretrain.optim.betas 0.9",
    ),
    case(
        "betas that are no numbers",
        "--pretrain.optim.betas.0: expected a number, got 'a' (1 more like this).",
        "run mine.toml --pretrain.optim.betas a b",
    ),
    case(
        "an object for sources",
        "--data.sources.path: expected a text, got 3.",
        "run mine.toml --data.sources '{\"path\": 3}'",
    ),
    case(
        "an unknown judge",
        "--collect.judge.type: expected 'execution', 'simulated' or 'http', got 'human'.",
        "run mine.toml --collect.judge.type human",
    ),
    case("none for what must be set", "--seed: expected a whole number, got 'none'.", "run mine.toml --seed none"),
    case(
        "a stage's option of another kind",
        "--json: no such option. `trivium run --help` lists all options.",
        "pretrain mine.toml --json=yes",
    ),
    case(
        "a stage before what it needs",
        "sft needs parent, but runs/fresh/M0 does not exist. Run the stages before it first.",
        "sft mine.toml --name fresh",
    ),
    case(
        "evaluation of nothing",
        "evaluate needs M0, but runs/fresh/M0 does not exist. Run the stages before it first.",
        "evaluate mine.toml --name fresh",
    ),
    case(
        "reward before answers are collected",
        "reward needs M1, but runs/fresh/M1 does not exist. Run the stages before it first.",
        "reward mine.toml --name fresh",
    ),
    case(
        "a name that leads elsewhere",
        "--name: '../mine' cannot name a run: it takes up to 100 letters, digits, '.', '_' and '-', the "
        "first a letter or digit.",
        "run mine.toml --name ../mine",
    ),
    case(
        "runs below a file",
        "cannot write to the run directory mine.toml/mine: Not a directory. Choose another place.",
        "run mine.toml --runs_dir mine.toml",
    ),
    case(
        "runs in a folder of the system",
        "cannot write to the run directory /proc/runs/mine: No such file or directory. Choose another place.",
        "run mine.toml --runs_dir /proc/runs",
    ),
    case(
        "generate without a model",
        "the following arguments are required: model. `trivium generate --help` shows how it is used.",
        "generate",
    ),
    case(
        "generate without a prompt",
        "there is no prompt. Give one, name a --file, or - for one a line from standard input.",
        "generate runs/mine/M2",
    ),
    case(
        "generate with two prompts",
        "b: unexpected argument. `trivium generate --help` shows how it is used.",
        "generate runs/mine/M2 a b",
    ),
    case(
        "generate with a prompt and a file",
        "give a prompt or --file, not both.",
        "generate runs/mine/M2 a --file mine.toml",
    ),
    case(
        "generate from a file that is not there",
        "none.txt: No such file or directory. Name a text file that holds the prompt.",
        "generate runs/mine/M2 --file none.txt",
    ),
    case(
        "generate from a folder",
        "corpus: Is a directory. Name a text file that holds the prompt.",
        "generate runs/mine/M2 --file corpus",
    ),
    case(
        "generate from a file that is not text",
        "blob: not UTF-8 text. Name a text file that holds the prompt.",
        "generate runs/mine/M2 --file blob",
        put("blob", b"\xff\xfe\x00"),
    ),
    case(
        "generate from an empty file",
        "blank holds no prompt. Write one into it.",
        "generate runs/mine/M2 --file blank",
        put("blank", ""),
    ),
    case("generate with an empty prompt", "there is no prompt in an empty text. Give one.", "generate runs/mine/M2 ''"),
    case(
        "generate into a gap and in a conversation",
        "--suffix-file fills a gap in a text, --chat and --system ask in a conversation. Give one.",
        "generate runs/mine/M2 a --suffix-file mine.toml --system b",
    ),
    case(
        "generate before a file that is not there",
        "none.txt: No such file or directory. Name a text file that holds what comes after the gap.",
        "generate runs/mine/M2 a --suffix-file none.txt",
    ),
    case(
        "generate with a prompt beyond the context",
        "prompt 0 has 902 tokens; this model takes 1 to 255. Shorten the prompt.",
        f"generate runs/mine/M2 '{'x y ' * 300}'",
    ),
    case(
        "generate no answers",
        "argument --n: expected a whole number from 1 to 1000000, got '0'. `trivium generate --help` "
        "shows how it is used.",
        "generate runs/mine/M2 a --n 0",
    ),
    case(
        "generate answers without end",
        "argument --n: expected a whole number, got '99999999999999999999'. `trivium generate --help` "
        "shows how it is used.",
        "generate runs/mine/M2 a --n 99999999999999999999",
    ),
    case(
        "generate at a negative temperature",
        "argument --temperature: expected a number of at least 0, got '-1'. `trivium generate --help` "
        "shows how it is used.",
        "generate runs/mine/M2 a --temperature -1",
    ),
    case(
        "generate at no temperature",
        "argument --temperature: expected a number of at least 0, got 'nan'. `trivium generate --help` "
        "shows how it is used.",
        "generate runs/mine/M2 a --temperature nan",
    ),
    case(
        "generate without tokens",
        "argument --max-new-tokens: expected a whole number from 1 to 1000000, got '0'. `trivium "
        "generate --help` shows how it is used.",
        "generate runs/mine/M2 a --max-new-tokens 0",
    ),
    case(
        "generate beyond the context",
        "argument --max-new-tokens: expected a whole number, got '99999999999999999999'. `trivium "
        "generate --help` shows how it is used.",
        "generate runs/mine/M2 a --max-new-tokens 99999999999999999999",
    ),
    case(
        "generate with a word for a seed",
        "argument --seed: expected a whole number, got 'x'. `trivium generate --help` shows how it is used.",
        "generate runs/mine/M2 a --seed x",
    ),
    case(
        "generate with a misspelt option",
        "--temprature: no such option. Did you mean --temperature?",
        "generate runs/mine/M2 a --temprature 1",
    ),
    case(
        "generate with half an option",
        "--temp: no such option. Did you mean --temperature?",
        "generate runs/mine/M2 a --temp 1",
    ),
    case(
        "chat with an unknown mode",
        "argument --mode: invalid choice: 'talk' (choose from …). `trivium chat --help` shows how it is used.",
        "chat runs/mine/M2 --mode talk",
    ),
    case(
        "convert to an unknown precision",
        "argument --dtype: invalid choice: 'int4' (choose from …). `trivium convert --help` shows how it is used.",
        "convert runs/mine/M0 copy --dtype int4",
    ),
    case("convert onto what exists", "corpus exists already. Name a new directory.", "convert runs/mine/M0 corpus"),
    case(
        "convert nothing",
        "none is not a model directory: it has no config.json. Give the path of one.",
        "convert none copy",
    ),
    case(
        "convert below a file",
        "mine.toml/copy cannot be written: mine.toml is not a folder. Name another place.",
        "convert runs/mine/M0 mine.toml/copy",
    ),
    case(
        "an unknown action on preferences",
        "argument import|export|stats|judge|label: invalid choice: 'delete' (choose from …). `trivium prefs "
        "--help` shows how it is used.",
        "prefs delete",
    ),
    case(
        "no action on preferences",
        "the following arguments are required: import|export|stats|judge|label. `trivium prefs --help` shows how it is used.",
        "prefs",
    ),
    case(
        "preferences of an unknown form",
        "argument --form: invalid choice: 'csv' (choose from …). `trivium prefs export --help` shows how it is used.",
        "prefs export out.jsonl --store runs/mine/preferences.db --form csv",
    ),
    case(
        "preferences of an unknown split",
        "argument --split: invalid choice: 'test' (choose from …). `trivium prefs export --help` shows how it is used.",
        "prefs export out.jsonl --store runs/mine/preferences.db --split test",
    ),
    case(
        "preferences of a source that is not there",
        "runs/mine/preferences.db holds no judgements of source 'nobody': ['']. Name one.",
        "prefs export out.jsonl --store runs/mine/preferences.db --source nobody",
    ),
    case(
        "preferences of an annotator who judged nothing",
        "runs/mine/preferences.db holds no judgements of annotator 'eve': ['']. Name one.",
        "prefs export out.jsonl --store runs/mine/preferences.db --annotator eve",
    ),
    case(
        "preferences under guidelines that nobody judged by",
        "runs/mine/preferences.db holds no judgements under guideline 3: []. Name one.",
        "prefs export out.jsonl --store runs/mine/preferences.db --guideline 3",
    ),
    case(
        "a version of guidelines that is no number",
        "argument --guideline: expected a whole number, got 'v3'. `trivium prefs export --help` shows how it is used.",
        "prefs export out.jsonl --store runs/mine/preferences.db --guideline v3",
    ),
    case(
        "an agreement above one",
        "argument --min-agreement: expected a share from 0 to 1, got '80'. `trivium prefs export --help` shows how it is used.",
        "prefs export out.jsonl --store runs/mine/preferences.db --min-agreement 80",
    ),
    case(
        "ties neither kept nor dropped",
        "argument --ties: invalid choice: 'some' (choose from …). `trivium prefs export --help` shows how it is used.",
        "prefs export out.jsonl --store runs/mine/preferences.db --ties some",
    ),
    case(
        "pairs as CSV",
        "out.csv: the log is written as CSV, other forms as JSON lines or Parquet. Name a .jsonl or .parquet file, or another form.",
        "prefs export out.csv --store runs/mine/preferences.db --form pairs",
    ),
    case(
        "the log as Parquet",
        "out.parquet: the log is written as CSV, other forms as JSON lines or Parquet. Name a .csv file, or another form.",
        "prefs export out.parquet --store runs/mine/preferences.db --form log",
    ),
    case(
        "preferences exported onto a folder",
        "corpus is a folder. Name a file to write.",
        "prefs export corpus --store runs/mine/preferences.db",
    ),
    case(
        "preferences exported below a file",
        "mine.toml/x.jsonl cannot be written: mine.toml is not a folder. Name another place.",
        "prefs export mine.toml/x.jsonl --store runs/mine/preferences.db",
    ),
    case(
        "answers to label that are not there",
        "nowhere/preferences.db does not exist. Collect or import preferences first.",
        "prefs label nowhere",
    ),
    case(
        "runs of a file",
        "mine.toml is not a folder of runs. Name one, or make the first run with `trivium run`.",
        "runs mine.toml",
    ),
    case(
        "runs that are not there",
        "nowhere is not a folder of runs. Name one, or make the first run with `trivium run`.",
        "runs nowhere",
    ),
    case("runs with an unknown option", "--jsn: no such option. Did you mean --json?", "runs --jsn"),
    case(
        "a report on nothing", "nowhere is not a run directory. `trivium runs` lists those there are.", "report nowhere"
    ),
    case(
        "a report on a folder without a run",
        "corpus holds no run to report on. `trivium runs` lists those there are.",
        "report corpus",
    ),
    case(
        "a report on a file",
        "mine.toml is not a run directory. `trivium runs` lists those there are.",
        "report mine.toml",
    ),
    case(
        "doctor on an unknown recipe",
        "none.toml: cannot read the recipe: No such file or directory. Did you mean mine.toml?",
        "doctor none.toml",
    ),
    case(
        "doctor on a misspelt subject",
        "modle: no such recipe file. Built in are: gpu, quickstart/exact, quickstart.",
        "doctor modle runs/mine/M0",
    ),
    case(
        "doctor on a data set without a tokenizer",
        "the following arguments are required: --model. `trivium doctor data --help` shows how it is used.",
        "doctor data answers.jsonl",
    ),
    case(
        "doctor on data that is not there",
        "none.jsonl does not exist. Check the path.",
        "doctor data none.jsonl --model runs/mine/M0",
    ),
    case(
        "doctor on no rows",
        "argument --rows: expected a whole number from 1 to 1000000, got '0'. `trivium doctor data "
        "--help` shows how it is used.",
        "doctor data answers.jsonl --model runs/mine/M0 --rows 0",
    ),
    case("doctor with an unknown option", "--jsn: no such option. Did you mean --json?", "doctor --jsn"),
]
