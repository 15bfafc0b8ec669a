"""Tokenizers that cannot be loaded, or that belong to another model."""

from bad_models import spoilt, weights
from bench import cut, edit, folder, put, remove

CASES = [
    spoilt(
        "no tokenizer.json", "m has no tokenizer.json. Give a model or tokenizer directory.", remove("m/tokenizer.json")
    ),
    spoilt(
        "tokenizer.json cut off",
        "m/tokenizer.json is not a tokenizer: …. Write it anew or give another directory.",
        cut("m/tokenizer.json"),
    ),
    spoilt(
        "tokenizer.json that is empty",
        "m/tokenizer.json is not a tokenizer: …. Write it anew or give another directory.",
        put("m/tokenizer.json", ""),
    ),
    spoilt(
        "tokenizer.json that is another JSON",
        "m/tokenizer.json is not a tokenizer: …. Write it anew or give another directory.",
        put("m/tokenizer.json", "{}"),
    ),
    spoilt(
        "tokenizer.json that is no text",
        "m/tokenizer.json is not a tokenizer: …. Write it anew or give another directory.",
        put("m/tokenizer.json", b"\xff\xfe"),
    ),
    spoilt(
        "tokenizer.json that is a folder",
        "m has no tokenizer.json. Give a model or tokenizer directory.",
        folder("m/tokenizer.json"),
    ),
    spoilt(
        "a vocabulary of nothing",
        "m: bos_token '<|bos|>' of tokenizer_config.json is not in tokenizer.json. Correct either.",
        put(
            "m/tokenizer.json",
            '{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null, "model": {"type": "BPE", "vocab": {}, "merges": []}}',
        ),
    ),
    spoilt(
        "no tokenizer_config.json",
        "m has no tokenizer_config.json, which names bos, eos and pad. Add it.",
        remove("m/tokenizer_config.json"),
    ),
    spoilt(
        "tokenizer_config.json that is a list",
        "m/tokenizer_config.json must hold one JSON object. Copy it again.",
        put("m/tokenizer_config.json", "[]"),
    ),
    spoilt(
        "tokenizer_config.json cut off",
        "m/tokenizer_config.json is not JSON: …. Copy it again.",
        cut("m/tokenizer_config.json"),
    ),
    spoilt(
        "tokenizer_config.json that is no text",
        "m/tokenizer_config.json is not JSON: …. Copy it again.",
        put("m/tokenizer_config.json", b"\xff\xfe"),
    ),
    spoilt(
        "no end token",
        "m names no eos_token. Add it to its tokenizer_config.json.",
        edit("m/tokenizer_config.json", eos_token=...),
    ),
    spoilt(
        "an end token that the vocabulary does not have",
        "m: eos_token '<end>' of tokenizer_config.json is not in tokenizer.json. Correct either.",
        edit("m/tokenizer_config.json", eos_token="<end>"),
    ),
    spoilt(
        "an end token that is a number",
        "m: eos_token 2 of tokenizer_config.json is no text. Correct it.",
        edit("m/tokenizer_config.json", eos_token=2),
    ),
    spoilt(
        "an end token that is a list",
        "m: eos_token ['<|eos|>'] of tokenizer_config.json is no text. Correct it.",
        edit("m/tokenizer_config.json", eos_token=["<|eos|>"]),
    ),
    spoilt(
        "a pad token that the vocabulary does not have",
        "m: pad_token '<pad>' of tokenizer_config.json is not in tokenizer.json. Correct either.",
        edit("m/tokenizer_config.json", pad_token="<pad>"),
    ),
    spoilt(
        "a chat template that is broken",
        "The chat template of m fails: …. Correct chat_template in its tokenizer_config.json.",
        edit("m/tokenizer_config.json", chat_template="{% for"),
        put("answers.jsonl", '{"question": "a", "answer": "b"}\n'),
        command="doctor data answers.jsonl --model m",
    ),
    spoilt(
        "a chat template that fails",
        "The chat template of m fails: …. Correct chat_template in its tokenizer_config.json.",
        edit("m/tokenizer_config.json", chat_template="{{ 1 // 0 }}"),
        put("answers.jsonl", '{"question": "a", "answer": "b"}\n'),
        command="doctor data answers.jsonl --model m",
    ),
    spoilt(
        "a chat template that is a number",
        "m has no chat template. Add chat_template to its tokenizer_config.json.",
        edit("m/tokenizer_config.json", chat_template=3),
        put("answers.jsonl", '{"question": "a", "answer": "b"}\n'),
        command="doctor data answers.jsonl --model m",
    ),
    spoilt(
        "no chat template",
        "m has no chat template. Add chat_template to its tokenizer_config.json.",
        edit("m/tokenizer_config.json", chat_template=...),
        put("answers.jsonl", '{"question": "a", "answer": "b"}\n'),
        command="doctor data answers.jsonl --model m",
    ),
    spoilt(
        "a tokenizer with more tokens than the model",
        "m has 280 tokens, but the model's vocab_size is 279: it belongs to another model. Copy the "
        "right tokenizer files, or make the model larger.",
        edit("m/config.json", vocab_size=279),
        weights(lambda t: {k: (v[:279] if v.shape[0] == 280 else v) for k, v in t.items()}),
    ),
]
