"""Files of prompts and responses (`sft.path`) that cannot be learned from."""

from bench import ANSWER, add, case, copy, edit, fifo, folder, lines, put, remove

RUN = "run mine.toml --name fresh"

CASES = [
    case("a file that is not there", "answers.jsonl does not exist. Check the path.", RUN, remove("answers.jsonl")),
    case("a folder", "answers.jsonl is a folder, expected a file. Name a file in it.", RUN, folder("answers.jsonl")),
    case(
        "a pipe",
        "answers.jsonl is a pipe or a device, which cannot be read twice. Write its content to a file first.",
        RUN,
        fifo("answers.jsonl"),
    ),
    case(
        "an empty file",
        'answers.jsonl holds no usable example. Expected records such as {"prompt", "response"}, '
        '{"instruction", "input", "output"}, {"question", "answer"} or {"messages"}.',
        RUN,
        put("answers.jsonl", ""),
    ),
    case(
        "a line that is no JSON",
        'answers.jsonl:25: is not JSON: …. Repair it, or leave such records out with on_error = "skip".',
        RUN,
        add("answers.jsonl", "prompt: a"),
    ),
    case(
        "a line cut off",
        'answers.jsonl:25: is not JSON: …. Repair it, or leave such records out with on_error = "skip".',
        RUN,
        add("answers.jsonl", '{"prompt": "a", "resp'),
    ),
    case(
        "a list",
        'answers.jsonl:25: is a list, expected an object such as {"prompt", "response"}, {"instruction", '
        '"input", "output"}, {"question", "answer"} or {"messages"}. Repair it, or leave such records '
        'out with on_error = "skip".',
        RUN,
        add("answers.jsonl", ["a", "b"]),
    ),
    case(
        "null",
        'answers.jsonl:25: is null, expected an object such as {"prompt", "response"}, {"instruction", '
        '"input", "output"}, {"question", "answer"} or {"messages"}. Repair it, or leave such records '
        'out with on_error = "skip".',
        RUN,
        add("answers.jsonl", None),
    ),
    case(
        "no response",
        "answers.jsonl:25: has no field 'response' (fields: 'prompt'). Repair it, or leave such records "
        'out with on_error = "skip".',
        RUN,
        add("answers.jsonl", {"prompt": "a"}),
    ),
    case(
        "a misspelt field",
        "answers.jsonl:25: has no field 'response' (fields: 'prompt', 'reponse'). Repair it, or leave "
        'such records out with on_error = "skip".',
        RUN,
        add("answers.jsonl", {"prompt": "a", "reponse": "b"}),
    ),
    case(
        "fields of something else",
        'answers.jsonl:25: has the fields \'text\', expected {"prompt", "response"}, {"instruction", '
        '"input", "output"}, {"question", "answer"} or {"messages"}. Repair it, or leave such records '
        'out with on_error = "skip".',
        RUN,
        add("answers.jsonl", {"text": "a"}),
    ),
    case(
        "an empty record",
        'answers.jsonl:25: has the fields none, expected {"prompt", "response"}, {"instruction", '
        '"input", "output"}, {"question", "answer"} or {"messages"}. Repair it, or leave such records '
        'out with on_error = "skip".',
        RUN,
        add("answers.jsonl", {}),
    ),
    case(
        "an empty response",
        "answers.jsonl:25: has an empty field 'response'. Repair it, or leave such records out with "
        'on_error = "skip".',
        RUN,
        add("answers.jsonl", {"prompt": "a", "response": " "}),
    ),
    case(
        "a response that is a number",
        "answers.jsonl:25: has a number in field 'response', expected text. Repair it, or leave such "
        'records out with on_error = "skip".',
        RUN,
        add("answers.jsonl", {"prompt": "a", "response": 3}),
    ),
    case(
        "a prompt that is null",
        "answers.jsonl:25: has null in field 'prompt', expected text. Repair it, or leave such records "
        'out with on_error = "skip".',
        RUN,
        add("answers.jsonl", {"prompt": None, "response": "b"}),
    ),
    case(
        "an instruction without output",
        "answers.jsonl:25: has no field 'response' (fields: 'instruction', 'input'). Repair it, or leave "
        'such records out with on_error = "skip".',
        RUN,
        add("answers.jsonl", {"instruction": "a", "input": "b"}),
    ),
    case(
        "an input that is a list",
        "answers.jsonl:25: has a list in field 'input', expected text. Repair it, or leave such records "
        'out with on_error = "skip".',
        RUN,
        add("answers.jsonl", {"instruction": "a", "input": ["b"], "output": "c"}),
    ),
    case(
        "a question without an answer",
        "answers.jsonl:25: has no field 'answer' (fields: 'question'). Repair it, or leave such records "
        'out with on_error = "skip".',
        RUN,
        add("answers.jsonl", {"question": "a"}),
    ),
    case(
        "messages that are text",
        "answers.jsonl:25: has a text in field 'messages', expected a list of turns. Repair it, or leave "
        'such records out with on_error = "skip".',
        RUN,
        add("answers.jsonl", {"messages": "hello"}),
    ),
    case(
        "no messages",
        "answers.jsonl:25: has a list in field 'messages', expected a list of turns. Repair it, or leave "
        'such records out with on_error = "skip".',
        RUN,
        add("answers.jsonl", {"messages": []}),
    ),
    case(
        "a message that is text",
        "answers.jsonl:25: has a text in messages[0], expected an object with role and content. Repair "
        'it, or leave such records out with on_error = "skip".',
        RUN,
        add("answers.jsonl", {"messages": ["hello"]}),
    ),
    case(
        "a message without content",
        "answers.jsonl:25: has no field 'content' (fields: 'role') of messages[0]. Repair it, or leave "
        'such records out with on_error = "skip".',
        RUN,
        add("answers.jsonl", {"messages": [{"role": "user"}]}),
    ),
    case(
        "an unknown role",
        "answers.jsonl:25: has the role 'bot' in messages[0]; known are: system, user, assistant. Repair "
        'it, or leave such records out with on_error = "skip".',
        RUN,
        add("answers.jsonl", {"messages": [{"role": "bot", "content": "a"}]}),
    ),
    case(
        "nobody answers",
        "answers.jsonl:25: has no assistant turn in 'messages', so nothing to learn. Repair it, or leave "
        'such records out with on_error = "skip".',
        RUN,
        add("answers.jsonl", {"messages": [{"role": "user", "content": "a"}]}),
    ),
    case(
        "half a surrogate pair",
        "answers.jsonl:25: response: holds half a surrogate pair (\\ud800 to \\udfff), which is no text. "
        'Repair it, or leave such records out with on_error = "skip".',
        RUN,
        add("answers.jsonl", '{"prompt": "a", "response": "\\udc00"}'),
    ),
    case(
        "an example longer than a row",
        "answers.jsonl:25 has 604 tokens, but a row holds seq_len = 128. Raise seq_len, shorten it, or "
        'leave such examples out with on_error = "skip".',
        "sft mine.toml --force",
        add("answers.jsonl", {"prompt": "a", "response": "xyz " * 200}),
    ),
    case(
        "every example longer than a row",
        "There is no example to train on (1 given, all too long or none).",
        "sft mine.toml --force --sft.on_error skip",
        put("answers.jsonl", lines({"prompt": "a", "response": "xyz " * 200})),
    ),
    case(
        "a parent with a shorter context",
        "sft.seq_len = 512 exceeds the context of runs/mine/M0 = 256. Lower it.",
        f"{RUN} --sft.parent runs/mine/M0 --model.max_seq_len 512 --sft.seq_len 512",
    ),
    case(
        "a parent with a tokenizer of another model",
        "m: eos_token '<end>' of tokenizer_config.json is not in tokenizer.json. Correct either.",
        f"{RUN} --sft.parent m",
        copy("runs/mine/M0", "m"),
        edit("m/tokenizer_config.json", eos_token="<end>"),
    ),
    case(
        "everything held out",
        "answers.jsonl: no example is left to train on. Lower sft.heldout_fraction.",
        f"{RUN} --sft.heldout_fraction 0.9999",
        put("answers.jsonl", lines(ANSWER)),
    ),
    case(
        "every record left out",
        "answers.jsonl holds no usable example. The first of 2 left out: answers.jsonl:1. Expected "
        'records such as {"prompt", "response"}, {"instruction", "input", "output"}, {"question", '
        '"answer"} or {"messages"}.',
        f"{RUN} --sft.on_error skip",
        put("answers.jsonl", "1\n2\n"),
    ),
    case(
        "a bad record for a stage alone",
        "answers.jsonl:25: has no field 'response' (fields: 'prompt'). Repair it, or leave such records "
        'out with on_error = "skip".',
        "sft mine.toml --force",
        add("answers.jsonl", {"prompt": "a"}),
    ),
    case(
        "a parent that is not there",
        "nowhere is not a model directory: it has no config.json. Give the path of one.",
        f"{RUN} --sft.parent nowhere",
    ),
    case(
        "a parent that is no model",
        "corpus is not a model directory: it has no config.json. Give the path of one.",
        f"{RUN} --sft.parent corpus",
    ),
    case(
        "doctor on a bad record",
        "answers.jsonl holds no usable example. The first of 1 left out: answers.jsonl:1. Expected "
        'records such as {"prompt", "response"}, {"instruction", "input", "output"}, {"question", '
        '"answer"} or {"messages"}.',
        "doctor data answers.jsonl --model runs/mine/M0",
        put("answers.jsonl", "1\n"),
    ),
]
