import csv
import json
import re

import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.labelled import read_labelled
from llm_jax.data.splits import split

ROWS = [(f"review {n} of many", ("good", "bad", "fair")[n % 3]) for n in range(30)]


def write(folder, format, rows=ROWS):
    path = folder / f"reviews.{format}"
    if format == "jsonl":
        path.write_text("".join(json.dumps({"body": t, "stars": n}) + "\n" for t, n in rows))
    elif format == "csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("body", "stars"), *rows])
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = {"body": [t for t, _ in rows], "stars": [n for _, n in rows]}
        pq.write_table(pa.table(table), path)
    return path


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_columns_of_a_table(tmp_path, format):
    found = read_labelled(write(tmp_path, format), text="body", label="stars")
    assert found.texts == [text for text, _ in ROWS]
    assert found.names == ("bad", "fair", "good")
    assert [found.names[label] for label in found.labels] == [name for _, name in ROWS]
    parts = split(found.labels, {"train": 0.8, "test": 0.2}, seed=0)
    assert len(parts["test"]) == 6


@pytest.mark.parametrize("format", ["csv", "parquet", "jsonl"])
def test_numbers_are_ordered_by_their_value(tmp_path, format):
    rows = [(f"text {n}", n % 12) for n in range(24)]
    found = read_labelled(write(tmp_path, format, rows), text="body", label="stars")
    assert found.names == tuple(map(str, range(12)))
    assert found.labels.tolist() == [n % 12 for n in range(24)]


def test_folders_of_text_files(tmp_path):
    for number, (text, name) in enumerate(ROWS):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{number}.txt").write_text(text)
    (tmp_path / ".cache").mkdir()
    found = read_labelled(tmp_path)
    assert found.names == ("bad", "fair", "good")
    assert sorted(zip(found.texts, map(found.names.__getitem__, found.labels))) == sorted(ROWS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="/empty holds no files"):
        read_labelled(tmp_path)


def test_bad_input_is_one_line(tmp_path):
    path = write(tmp_path, "csv")
    for columns, said in (
        ({"text": "bdy", "label": "stars"}, "bdy"),
        ({"text": "body", "label": "star"}, "star"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_labelled(path, **columns)
    with pytest.raises(ConfigError, match="has the classes good: give two"):
        read_labelled(write(tmp_path, "jsonl", [("a b", "good")] * 3), text="body", label="stars")
    empty = write(tmp_path, "jsonl", [*ROWS[:2], (" ", "good")])
    with pytest.raises(ConfigError, match=r"reviews.jsonl at \d+ has no text"):
        read_labelled(empty, text="body", label="stars")
    empty.write_text("{no json")
    with pytest.raises(ConfigError, match=re.escape("reviews.jsonl at 0")):
        read_labelled(empty, text="body", label="stars")
