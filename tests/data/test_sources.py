import gzip
import json
import os
import sys
import types
from importlib.metadata import distribution

import pyarrow
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from trivium.base.errors import DataError
from trivium.data import DataConfig, Drops, SourceConfig
from trivium.data.sources import installed, read_source
from trivium.data.sources.builtin import _runtime_docstrings


def read(path, drops=None, **options):
    return list(read_source(SourceConfig(path=str(path), **options), drops or Drops()))


def write_lines(path, *records):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def test_a_folder_is_read_by_suffix_in_a_fixed_order(tmp_path):
    for name, text in [
        ("b.py", "b"),
        ("a/z.md", "z"),
        ("a.py", "a"),
        ("a/c.rs", "c"),
        (".git/x.py", "x"),
        ("i.png", "p"),
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "empty.py").write_text(" \n")
    drops = Drops()
    found = read(tmp_path, drops, license="MIT", name="mine")
    assert [(d.text, d.language, d.license, d.source) for d in found] == [
        ("c", "rust", "MIT", "mine"),
        ("z", "english", "MIT", "mine"),
        ("a", "python", "MIT", "mine"),
        ("b", "python", "MIT", "mine"),
    ]
    assert found[0].path.endswith("a/c.rs")
    assert dict(drops.counts) == {"suffix": 1, "empty": 1}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xef\xbb\xbfx = 1\r\n", "x = 1\n"),
        ("x = 'é'".encode("utf-16"), "x = 'é'"),
        (b"# -*- coding: latin-1 -*-\nx = '\xe9'\n", "# -*- coding: latin-1 -*-\nx = 'é'\n"),
        (
            b"#!/bin/python\n# vim: set fileencoding=koi8-r :\n\xc1",
            "#!/bin/python\n# vim: set fileencoding=koi8-r :\nа",
        ),
        (b"a\rb\r\n", "a\nb\n"),
    ],
)
def test_encodings_that_say_what_they_are_are_read(tmp_path, data, text):
    (tmp_path / "x.py").write_bytes(data)
    assert [document.text for document in read(tmp_path)] == [text]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"ab\xff", r"is not utf-8 text \(byte 3\)"),
        (b"a\0b", "holds NUL bytes"),
        (b"# coding: klingon\n", "declares the unknown encoding 'klingon'"),
        (b"\x1f\x8b\x08\x00", "is not utf-8 text"),
    ],
)
def test_files_that_are_no_text_stop_or_are_counted(tmp_path, data, reason):
    (tmp_path / "bad.py").write_bytes(data)
    (tmp_path / "good.py").write_text("x")
    with pytest.raises(DataError, match=rf"bad\.py: {reason}.*on_error"):
        read(tmp_path)
    drops = Drops("skip")
    assert [document.text for document in read(tmp_path, drops)] == ["x"]
    assert drops.counts["bad"] == 1 and drops.rows[0]["where"].endswith("bad.py")


def test_odd_files_in_a_folder(tmp_path):
    (tmp_path / "weird é.py").write_text("x")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / os.fsdecode(b"bytes\xff.py")).write_text("y")
    drops = Drops("skip")
    found = read(tmp_path, drops)
    assert [document.text for document in found] == ["y", "x"]
    assert found[0].path.endswith("bytes\\xff.py")
    assert [row["reason"] for row in drops.rows] == ["is not a regular file"] * 2


def test_text_files_plain_and_compressed(tmp_path):
    (tmp_path / "a.txt").write_text("plain é")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"one ") + gzip.compress(b"two"))
    with pyarrow.output_stream(str(tmp_path / "c.md.zst"), compression="zstd") as stream:
        stream.write(b"zst")
    for name, text in [("a.txt", "plain é"), ("b.txt.gz", "one two"), ("c.md.zst", "zst")]:
        (document,) = read(tmp_path / name)
        assert (document.text, document.language) == (text, "english")
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    with pytest.raises(DataError, match=r"d\.txt\.gz: is damaged"):
        read(tmp_path / "d.txt.gz")


def test_jsonl_plain_and_compressed(tmp_path):
    record = {"text": "x = 1", "language": "python", "license": "MIT", "path": "x.py", "stars": 3}
    write_lines(tmp_path / "a.jsonl", record, "", {"text": "y"})
    content = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(content))
    with pyarrow.output_stream(str(tmp_path / "c.jsonl.zst"), compression="zstd") as stream:
        stream.write(content)
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst"):
        first, second = read(tmp_path / name)
        assert (first.text, first.language, first.license, first.path) == ("x = 1", "python", "MIT", "x.py")
        assert second.path.endswith(f"{name}:3")
    assert len(read(tmp_path, kind="jsonl")) == 6
    assert read(tmp_path / "a.jsonl", language="c")[0].language == "c"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "cut', "is not JSON"),
        ("[1, 2]", "is a list, expected an object with a field 'text'"),
        ("null", "is null"),
        ('{"source": "s"}', r"has no field 'text' \(fields: 'source'\); text_column names another"),
        ('{"text": null}', "has null in field 'text', expected text"),
        ('{"text": 1}', "has a number in field 'text', expected text"),
        ('{"text": ["a"]}', "has a list in field 'text', expected text"),
        ('{"text": "x", "language": 3}', "has a number in field 'language', expected text"),
        ('{"text": "x\\ud800"}', "surrogate"),
        ('{"text": "x", "score": NaN}', "NaN"),
    ],
)
def test_bad_records_stop_with_their_place_or_are_counted(tmp_path, line, reason):
    file = write_lines(tmp_path / "a.jsonl", {"text": "fine"}, line, {"text": "too"})
    with pytest.raises(DataError, match=rf"a\.jsonl:2: .*{reason}") as caught:
        read(file)
    assert "\n" not in str(caught.value)
    drops = Drops("skip")
    assert [document.text for document in read(file, drops)] == ["fine", "too"]
    assert dict(drops.counts) == {"bad": 1}


def test_another_text_column(tmp_path):
    file = write_lines(tmp_path / "a.jsonl", {"content": "x"})
    assert read(file, text_column="content")[0].text == "x"


def test_parquet(tmp_path):
    table = pyarrow.table({"body": ["x", None, "y"], "language": ["python", "c", None], "n": [1, 2, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"has no column 'text' \(columns: body, language, n\)"):
        read(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 2: has null in field 'body'"):
        read(tmp_path / "a.parquet", text_column="body")
    drops = Drops("skip")
    found = read(tmp_path / "a.parquet", drops, text_column="body")
    assert [(document.text, document.language) for document in found] == [("x", "python"), ("y", "")]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"b\.parquet cannot be read as Parquet"):
        read(tmp_path / "b.parquet")


def test_missing_and_empty_corpora_are_told_in_one_line(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no documents\. Give"):
        read(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 left out, the first: .*a\.bin: has the unknown suffix '\.bin'"):
        read(tmp_path)
    with pytest.raises(DataError, match="holds no \\*.jsonl files"):
        read(tmp_path, kind="jsonl")
    (tmp_path / "e.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no documents"):
        read(tmp_path / "e.jsonl")
    with pytest.raises(DataError, match="is not a folder"):
        read(tmp_path / "e.jsonl", kind="folder")
    with pytest.raises(DataError, match="is not a file"):
        read(tmp_path, kind="text")


def test_configs_take_shorthands_and_refuse_nonsense(tmp_path):
    config = DataConfig.model_validate({"sources": ["builtin_code", str(tmp_path), {"path": "a.jsonl", "weight": 2}]})
    assert [source.label for source in config.sources] == ["builtin_code", tmp_path.name, "a"]
    assert DataConfig.model_validate({"sources": "x.txt"}).sources[0].path == "x.txt"
    for sources, reason in [
        ([], "sources is empty"),
        ([{"weight": 1}], "needs a path"),
        ([{"kind": "builtin_code", "path": "x"}], "takes no path"),
        (["a/x.txt", "b/x.txt"], "two sources are called 'x'"),
        ([{"path": "x", "weight": 0}], "greater than 0"),
        ([{"path": "x", "wieght": 1}], "wieght"),
    ]:
        with pytest.raises(ValidationError, match=reason):
            DataConfig.model_validate({"sources": sources})


def test_the_built_in_english_is_documentation(monkeypatch):
    documents = {
        document.path: document.text for document in read_source(SourceConfig(kind="builtin_english"), Drops())
    }
    assert "JSON (JavaScript Object Notation)" in documents["python/json/__init__.py"]
    assert "def " not in documents["python/json/__init__.py"].replace(">>> def", "")
    assert "while" in documents["python/pydoc_data/while"]
    assert sum(map(len, documents.values())) > 1_000_000
    # What a session changes in the running interpreter is no part of the corpus.
    monkeypatch.setattr(sys, "excepthook", print)
    monkeypatch.setattr(sys, "marker", types.SimpleNamespace(__doc__="x" * 99), raising=False)
    assert "\n\n".join(_runtime_docstrings(sys)) == documents["python/builtins/sys"]


def test_the_built_in_code_is_the_library_without_its_tests():
    paths = [document.path for document in read_source(SourceConfig(kind="builtin_code"), Drops())]
    assert {"python/argparse.py", "python/json/decoder.py"} <= set(paths)
    assert not [path for path in paths if "/test/" in path or "site-packages" in path or "lib2to3" in path]
    assert paths == sorted(paths)


def test_installed_code_is_the_packages_source_with_their_licences(monkeypatch):
    some = [distribution(name) for name in ("pydantic", "jinja2", "pytest")]  # all of them take half a minute
    monkeypatch.setattr(installed, "distributions", lambda: some)
    drops = Drops()
    documents = {document.path: document for document in read_source(SourceConfig(kind="installed_code"), drops)}
    assert {"pydantic/pydantic/main.py", "jinja2/jinja2/lexer.py"} <= set(documents)
    assert documents["pydantic/pydantic/main.py"].license == "MIT"
    parts = {part for path in documents for part in path.split("/")[1:]}
    assert not parts & {"tests", "test", "_vendor", "conftest.py"} and all(path.endswith(".py") for path in documents)
    assert all(len(document.text) <= 1_000_000 for document in documents.values())
    assert list(documents) == sorted(documents, key=lambda path: (path.split("/")[0], path))
    assert [each.split(" ")[0] for each in installed.installed_versions()] == ["jinja2", "pydantic", "pytest"]
