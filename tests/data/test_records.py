import csv
import dataclasses
import json

import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, load_manifest, open_split, prepare
from llm_jax.data.records import open_records
from llm_jax.data.sources import SPLITS

TEXTS = [f"record {n} is about {n % 7} and {n * n}\nand ends here" for n in range(120)]


def write(folder, format):
    rows = [{"body": text, "text": "another column"} for text in TEXTS]
    rows.insert(5, {"body": " ", "text": "white space alone"})
    path = folder / f"records.{format}"
    if format == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif format == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["body", "text"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=11)
    return DataConfig("records", str(path), text="body", sequence_length=32)


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_a_named_column_is_the_text(tmp_path, format):
    source = open_records(write(tmp_path, format))
    found = {split: [one.text for one in source.documents(split)] for split in SPLITS}
    assert sorted(found["train"] + found["validation"]) == sorted(TEXTS)
    assert 0 < len(found["validation"]) < 20
    assert found["train"] == [text for text in TEXTS if text in found["train"]]  # their order


def test_rows_are_those_of_the_same_texts_in_any_format(tmp_path):
    manifests = []
    for format in ("jsonl", "parquet"):
        config = write(tmp_path, format)
        prepare(config, vocab_size=320, directory=tmp_path / format)
        manifests.append(load_manifest(tmp_path / format))
    assert manifests[0].tokens_sha256 == manifests[1].tokens_sha256
    assert sum(manifests[0].documents.values()) == 120
    assert manifests[0].hold_out == "texts"
    # Another column is other data.
    other = dataclasses.replace(write(tmp_path, "jsonl"), text="text")
    with pytest.raises(ConfigError, match="too few records"):
        open_records(other)
    (tmp_path / "more.jsonl").write_text(
        "".join(json.dumps({"a": text, "b": text}) + "\n" for text in TEXTS)
    )
    first, second = (
        open_records(DataConfig("records", str(tmp_path / "more.jsonl"), text=column))
        for column in "ab"
    )
    assert first.content_sha256 != second.content_sha256


def test_equal_texts_stand_in_one_split(tmp_path):
    path = tmp_path / "twice.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 2))
    source = open_records(DataConfig("records", str(path)))
    train, held_out = ({one.text for one in source.documents(split)} for split in SPLITS)
    assert not train & held_out


def test_a_part_of_a_mixture(tmp_path):
    records = write(tmp_path, "jsonl")
    config = DataConfig(
        source="mixture",
        sequence_length=32,
        mixture={
            "mine": {"source": "records", "path": records.path, "text": "body"},
            "again": {"source": "records", "path": records.path, "text": "body", "weight": 2.0},
        },
    )
    prepare(config, vocab_size=320, directory=tmp_path / "data")
    rows = open_split(tmp_path / "data", "train")
    assert rows.parts["mine"].tokens == rows.parts["again"].tokens > 1000


def test_bad_input_is_one_line(tmp_path):
    config = write(tmp_path, "jsonl")
    with pytest.raises(ConfigError, match="data.text is empty"):
        dataclasses.replace(config, text="")
    missing = dataclasses.replace(config, text="boddy")
    with pytest.raises(ConfigError, match=r"records.jsonl at 0: .*boddy"):
        open_records(missing)
    path = tmp_path / "records.jsonl"
    path.write_text(path.read_text() + "{no json\n")
    with pytest.raises(ConfigError, match=r"records.jsonl at \d{4,}.*prepare_data"):
        prepare(config, vocab_size=320, directory=tmp_path / "data")
    assert not (tmp_path / "data").exists()
    with pytest.raises(ConfigError, match="not there"):
        open_records(dataclasses.replace(config, path=str(tmp_path / "nowhere.jsonl")))
