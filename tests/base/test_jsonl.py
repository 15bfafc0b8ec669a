import gzip

import pytest

from trivium.base.errors import DataError
from trivium.base.jsonl import read_json_records, write_json_records


def test_lines_carry_their_number_and_broken_ones_their_reason(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a": \n"\xff"\n{"a": NaN}\n[1]\n')
    records = list(read_json_records(path))
    assert [record.where for record in records] == [f"{path}:{line}" for line in (1, 3, 4, 5, 6)]
    assert records[0].value == {"a": 1}
    assert "is not JSON" in records[1].problem
    assert "is not UTF-8 (byte 2)" in records[2].problem
    assert "NaN is no JSON number" in records[3].problem
    assert records[4].value == [1]


def test_json_file_may_hold_an_array_or_a_record_a_line(tmp_path):
    array, lines, broken = tmp_path / "array.json", tmp_path / "lines.json", tmp_path / "broken.json"
    array.write_text('[\n {"a": 1},\n {"a": 2}\n]')
    lines.write_text('{"a": 1}\n{"a": 2}\n')
    broken.write_text('[\n{"a": 1},\n{"a"}\n]')
    assert [record.value for record in read_json_records(array)] == [{"a": 1}, {"a": 2}]
    assert [record.where for record in read_json_records(array)] == [f"{array}, record 1", f"{array}, record 2"]
    assert [record.value for record in read_json_records(lines)] == [{"a": 1}, {"a": 2}]
    assert "line 3 column 5" in next(iter(read_json_records(broken))).problem


def test_half_a_surrogate_pair_is_no_text(tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        '{"a": "\\ud83d\\ude00", "b": "\\\\ud83d"}\n{"a": "x", "b": ["\\uD83D"]}\n["\\ude00"]\n'
    )
    good, bad, listed = read_json_records(tmp_path / "rows.jsonl")
    assert good.value == {"a": "\U0001f600", "b": "\\ud83d"}
    assert bad.problem.startswith("b: holds half a surrogate pair")
    assert listed.problem.startswith("holds half a surrogate pair")


def test_compressed_files_are_repeatable_and_read_back(tmp_path):
    rows = [{"text": "grüße\n"}, {"text": ""}]
    assert write_json_records(tmp_path / "a.jsonl.gz", rows) == 2
    write_json_records(tmp_path / "b.jsonl.gz", iter(rows))
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert [record.value for record in read_json_records(tmp_path / "a.jsonl.gz")] == rows


def test_zst_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    with pyarrow.output_stream(str(tmp_path / "a.jsonl.zst"), compression="zstd") as file:
        file.write(b'{"a": 1}\n{"a": 2}')
    assert [record.value["a"] for record in read_json_records(tmp_path / "a.jsonl.zst")] == [1, 2]


def test_missing_and_damaged_files_are_one_line(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        list(read_json_records(tmp_path / "none.jsonl"))
    whole = gzip.compress(b'{"a": 1}\n' * 1000)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "plain.jsonl.gz").write_bytes(b'{"a": 1}\n')
    for name in ("cut.jsonl.gz", "plain.jsonl.gz"):
        with pytest.raises(DataError, match="is damaged") as caught:
            list(read_json_records(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="is a folder, expected a file"):
        list(read_json_records(tmp_path))
