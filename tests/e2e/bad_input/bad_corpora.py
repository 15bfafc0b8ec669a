"""Corpora that cannot be read."""

import gzip

from bench import Arrange, case, copy, fifo, folder, lines, link, put

RUN = "run mine.toml --name fresh --data.sources"
GOOD = {"text": "def f(x):\n    return x\n"}


def record(*rows: object) -> Arrange:
    """A good record and others behind it."""
    return put("c.jsonl", lines(GOOD, *rows))


CASES = [
    case(
        "a folder that is not there",
        "tokenizer needs source nowhere, but nowhere does not exist. Check the path.",
        f"{RUN} nowhere",
    ),
    case(
        "a file that is not there",
        "tokenizer needs source none, but none.jsonl does not exist. Check the path.",
        f"{RUN} none.jsonl",
    ),
    case(
        "a link that leads nowhere",
        "tokenizer needs source c, but c.txt does not exist. Check the path.",
        f"{RUN} c.txt",
        link("c.txt", "gone"),
    ),
    case(
        "a link to itself",
        "tokenizer needs source c, but c.txt does not exist. Check the path.",
        f"{RUN} c.txt",
        link("c.txt", "c.txt"),
    ),
    case(
        "an empty folder",
        "The corpus empty holds no documents. Give one with text in it.",
        f"{RUN} empty",
        folder("empty"),
    ),
    case(
        "a folder without known files",
        "The corpus pictures holds no documents (1 left out, the first: pictures/a.png: has the unknown "
        "suffix '.png'). Give one with text in it.",
        f"{RUN} pictures",
        put("pictures/a.png", b"\x89PNG"),
    ),
    case(
        "an empty file",
        "The corpus c.txt holds no documents (1 left out, the first: c.txt: is empty). Give one with text in it.",
        f"{RUN} c.txt",
        put("c.txt", ""),
    ),
    case(
        "an empty JSONL file",
        "The corpus c.jsonl holds no documents. Give one with text in it.",
        f"{RUN} c.jsonl",
        put("c.jsonl", ""),
    ),
    case(
        "blank lines only",
        "The corpus c.jsonl holds no documents. Give one with text in it.",
        f"{RUN} c.jsonl",
        put("c.jsonl", "\n \n\n"),
    ),
    case(
        "whitespace only",
        "The corpus c.txt holds no documents (1 left out, the first: c.txt: is empty). Give one with text in it.",
        f"{RUN} c.txt",
        put("c.txt", " \n\t\n"),
    ),
    case(
        "a pipe",
        "c.txt is a pipe or a device, which cannot be read twice. Write its content to a file first.",
        f"{RUN} c.txt",
        fifo("c.txt"),
    ),
    case(
        "a pipe of records",
        "c.jsonl is a pipe or a device, which cannot be read twice. Write its content to a file first.",
        f"{RUN} c.jsonl",
        fifo("c.jsonl"),
    ),
    case(
        "a pipe in a folder",
        'corpus/pipe.txt: is not a regular file. Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} corpus",
        fifo("corpus/pipe.txt"),
    ),
    case(
        "a folder called as a file",
        "The corpus c.jsonl holds no documents. Give one with text in it.",
        f"{RUN} c.jsonl",
        folder("c.jsonl"),
    ),
    case(
        "a folder read as text",
        "corpus is not a file. Set the source's kind to what it is, or leave it at 'auto'.",
        f'{RUN} \'{{"path": "corpus", "kind": "text"}}\'',
    ),
    case(
        "a folder read as records",
        "The folder corpus holds no *.jsonl files. Check the path or the source's kind.",
        f'{RUN} \'{{"path": "corpus", "kind": "jsonl"}}\'',
    ),
    case(
        "a file read as a folder",
        "answers.jsonl is not a folder. Set the source's kind to what it is, or leave it at 'auto'.",
        f'{RUN} \'{{"path": "answers.jsonl", "kind": "folder"}}\'',
    ),
    case(
        "text read as Parquet",
        "c.parquet cannot be read as Parquet: …. Fetch or write it again.",
        f"{RUN} c.parquet",
        put("c.parquet", "text\n"),
    ),
    case(
        "text read as records",
        'c.jsonl:1: is not JSON: …. Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} c.jsonl",
        put("c.jsonl", "hello\n"),
    ),
    case(
        "a line cut off",
        'c.jsonl:2: is not JSON: …. Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} c.jsonl",
        record('{"text": "a'),
    ),
    case(
        "a list",
        "c.jsonl:2: is a list, expected an object with a field 'text'. Repair it, or leave such records "
        'out with on_error = "skip".',
        f"{RUN} c.jsonl",
        record([1]),
    ),
    case(
        "a number",
        "c.jsonl:2: is a number, expected an object with a field 'text'. Repair it, or leave such "
        'records out with on_error = "skip".',
        f"{RUN} c.jsonl",
        record(3),
    ),
    case(
        "null",
        "c.jsonl:2: is null, expected an object with a field 'text'. Repair it, or leave such records "
        'out with on_error = "skip".',
        f"{RUN} c.jsonl",
        record(None),
    ),
    case(
        "a text",
        'c.jsonl:2: is not JSON: …. Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} c.jsonl",
        record("a"),
    ),
    case(
        "a text in quotes",
        "c.jsonl:2: is a text, expected an object with a field 'text'. Repair it, or leave such records "
        'out with on_error = "skip".',
        f"{RUN} c.jsonl",
        record('"a"'),
    ),
    case(
        "no text",
        "c.jsonl:2: has no field 'text' (fields: 'body'); text_column names another. Repair it, or leave "
        'such records out with on_error = "skip".',
        f"{RUN} c.jsonl",
        record({"body": "a"}),
    ),
    case(
        "text that is null",
        "c.jsonl:2: has null in field 'text', expected text. Repair it, or leave such records out with "
        'on_error = "skip".',
        f"{RUN} c.jsonl",
        record({"text": None}),
    ),
    case(
        "text that is a list",
        "c.jsonl:2: has a list in field 'text', expected text. Repair it, or leave such records out with "
        'on_error = "skip".',
        f"{RUN} c.jsonl",
        record({"text": ["a"]}),
    ),
    case(
        "a language that is a number",
        "c.jsonl:2: has a number in field 'language', expected text. Repair it, or leave such records "
        'out with on_error = "skip".',
        f"{RUN} c.jsonl",
        record({"text": "a", "language": 3}),
    ),
    case(
        "half a surrogate pair",
        "c.jsonl:2: text: holds half a surrogate pair (\\ud800 to \\udfff), which is no text. Repair it, "
        'or leave such records out with on_error = "skip".',
        f"{RUN} c.jsonl",
        record('{"text": "a\\ud800"}'),
    ),
    case(
        "NaN in a record",
        'c.jsonl:2: is not JSON: …. Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} c.jsonl",
        record('{"text": "a", "score": NaN}'),
    ),
    case(
        "a number of thousands of digits",
        'c.jsonl:2: is not JSON: …. Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} c.jsonl",
        record('{"text": "a", "n": ' + "9" * 5000 + "}"),
    ),
    case(
        "nesting without end",
        'c.jsonl:2: is nested too deeply. Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} c.jsonl",
        record("[" * 100000),
    ),
    case(
        "two records on a line",
        'c.jsonl:2: is not JSON: …. Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} c.jsonl",
        record('{"text": "a"} {"text": "b"}'),
    ),
    case(
        "a comma at the end",
        'c.jsonl:2: is not JSON: …. Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} c.jsonl",
        record('{"text": "a",}'),
    ),
    case(
        "bytes that are no UTF-8",
        'c.jsonl:2: is not UTF-8 (byte 11). Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} c.jsonl",
        put("c.jsonl", lines(GOOD).encode() + b'{"text": "\xff"}\n'),
    ),
    case(
        "UTF-16 records",
        'c.jsonl:1: is not UTF-8 (byte 1). Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} c.jsonl",
        put("c.jsonl", lines(GOOD).encode("utf-16")),
    ),
    case(
        "a JSON array cut off",
        'c.json: is not JSON: …. Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} c.json",
        put("c.json", '[{"text": "a"},'),
    ),
    case(
        "a JSON object that is no record",
        'c.json:1: is not JSON: …. Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} c.json",
        put("c.json", '{\n "rows": [\n  {"text": "a"}\n ]\n}\n'),
    ),
    case(
        "bytes in a Python file",
        'corpus/blob.py: is not utf-8 text (byte 6). Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} corpus",
        put("corpus/blob.py", b"x = '\xff'\n"),
    ),
    case(
        "NUL bytes in a text",
        "corpus/blob.txt: holds NUL bytes, so it is not text. Repair it, or leave such records out with "
        'on_error = "skip".',
        f"{RUN} corpus",
        put("corpus/blob.txt", b"a\0b"),
    ),
    case(
        "a declared encoding that is unknown",
        "corpus/odd.py: declares the unknown encoding 'klingon'. Repair it, or leave such records out "
        'with on_error = "skip".',
        f"{RUN} corpus",
        put("corpus/odd.py", "# coding: klingon\nx = 1\n"),
    ),
    case(
        "a declared encoding that is no text encoding",
        "corpus/odd.py: declares the unknown encoding 'rot13'. Repair it, or leave such records out with "
        'on_error = "skip".',
        f"{RUN} corpus",
        put("corpus/odd.py", "# coding: rot13\nx = 1\n"),
    ),
    case(
        "a declared encoding that is binary",
        "corpus/odd.py: declares the unknown encoding 'hex'. Repair it, or leave such records out with "
        'on_error = "skip".',
        f"{RUN} corpus",
        put("corpus/odd.py", "# coding: hex\nx = 1\n"),
    ),
    case(
        "UTF-16 without a mark",
        "corpus/odd.txt: holds NUL bytes, so it is not text. Repair it, or leave such records out with "
        'on_error = "skip".',
        f"{RUN} corpus",
        put("corpus/odd.txt", "text".encode("utf-16-le")),
    ),
    case(
        "UTF-16 cut off",
        'corpus/odd.txt: is not utf-16-le text (byte 7). Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} corpus",
        put("corpus/odd.txt", "text".encode("utf-16")[:-1]),
    ),
    case(
        "a link in a folder that leads nowhere",
        'corpus/gone.py: is not a regular file. Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} corpus",
        link("corpus/gone.py", "nowhere.py"),
    ),
    case(
        "gzip that is none",
        "c.jsonl.gz is damaged: …. Fetch or compress it again.",
        f"{RUN} c.jsonl.gz",
        put("c.jsonl.gz", lines(GOOD)),
    ),
    case(
        "gzip cut off",
        "c.jsonl.gz is damaged: …. Fetch or compress it again.",
        f"{RUN} c.jsonl.gz",
        put("c.jsonl.gz", gzip.compress(lines(*[GOOD] * 40).encode())[:-12]),
    ),
    case(
        "gzip with a wrong checksum",
        "c.jsonl.gz is damaged: …. Fetch or compress it again.",
        f"{RUN} c.jsonl.gz",
        put("c.jsonl.gz", gzip.compress(lines(GOOD).encode())[:-8] + bytes(8)),
    ),
    case(
        "an empty gzip file",
        "The corpus c.jsonl.gz holds no documents. Give one with text in it.",
        f"{RUN} c.jsonl.gz",
        put("c.jsonl.gz", b""),
    ),
    case(
        "Zstandard that is none",
        "c.jsonl.zst cannot be read: ZSTD…. Check path and permissions.",
        f"{RUN} c.jsonl.zst",
        put("c.jsonl.zst", lines(GOOD)),
    ),
    case(
        "an empty Zstandard file",
        "The corpus c.jsonl.zst holds no documents. Give one with text in it.",
        f"{RUN} c.jsonl.zst",
        put("c.jsonl.zst", b""),
    ),
    case(
        "a text file that is no gzip",
        'c.txt.gz: is damaged: …. Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} c.txt.gz",
        put("c.txt.gz", "text"),
    ),
    case(
        "Zstandard text that is none",
        'c.txt.zst: is damaged: …. Repair it, or leave such records out with on_error = "skip".',
        f"{RUN} c.txt.zst",
        put("c.txt.zst", "text"),
    ),
    case(
        "an empty Parquet file",
        "c.parquet cannot be read as Parquet: …. Fetch or write it again.",
        f"{RUN} c.parquet",
        put("c.parquet", b""),
    ),
    case(
        "Parquet cut off",
        "c.parquet cannot be read as Parquet: …. Fetch or write it again.",
        f"{RUN} c.parquet",
        put("c.parquet", b"PAR1abcdPAR1"),
    ),
    case(
        "a source that repeats another",
        "Every text of source 'again' is in the sources before it. Leave it out.",
        f"{RUN} corpus again",
        copy("corpus", "again"),
    ),
    case(
        "every record left out",
        "The corpus c.jsonl holds no documents (1 left out, the first: c.jsonl:1: is not JSON: …). Give "
        "one with text in it.",
        f"{RUN} c.jsonl --data.on_error skip",
        put("c.jsonl", "hello\n"),
    ),
]
