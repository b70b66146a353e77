"""Spans of a large file give together what the file does, whatever their size."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_jax.data.readers import Bad, Limits, files_of, read_file, read_span, spans_of


def whole_and_parts(path, size, limits=Limits()):
    (file,) = files_of(path)
    spans = list(spans_of(file, size))
    assert sum(span.size for span in spans) == path.stat().st_size
    parts = [list(read_span(span, limits=limits)) for span in spans]
    return list(read_file(file, limits=limits)), parts


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n", "\r\n"])
def test_json_lines_are_cut_behind_lines_at_every_size(tmp_path, end):
    lines = [json.dumps({"text": "é" * (7 * number % 23)}) for number in range(12)]
    lines[3:3] = ["", "no json", "  "]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines) + end)
    counts = set()
    for size in range(1, path.stat().st_size + 2):
        whole, parts = whole_and_parts(path, size)
        assert [item for part in parts for item in part] == whole
        counts.add(len(parts))
    assert 1 in counts
    assert max(counts) >= 14
    assert sum(isinstance(item, Bad) for item in whole) == 1


def test_a_line_longer_than_a_span_is_told_once(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + b"x" * 5000 + b'\n{"text": "b"}\n')
    whole, parts = whole_and_parts(path, 100, Limits(max_record_bytes=1000))
    assert [len(part) for part in parts] == [2, 1]
    assert [item for part in parts for item in part] == whole


def test_parquet_is_cut_between_row_groups(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(50)]}), path, row_group_size=8)
    for size, count in ((1, 7), (path.stat().st_size // 2, 2), (1 << 20, 1)):
        whole, parts = whole_and_parts(path, size)
        assert [item for part in parts for item in part] == whole
        assert len(parts) == count
    path.write_bytes(path.read_bytes()[:-20])
    whole, parts = whole_and_parts(path, 1)
    assert parts == [whole]
    assert isinstance(whole[0], Bad)


def test_what_has_no_safe_place_is_one_span(tmp_path):
    for name, content in (("a.csv", 'text\n"one\ntwo"\n'), ("a.txt", "one\ntwo\nthree\n")):
        (tmp_path / name).write_text(content)
        whole, parts = whole_and_parts(tmp_path / name, 1)
        assert parts == [whole]
        assert len(whole) == 1
