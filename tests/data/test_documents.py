"""Documents on disk: written one at a time, read back in their order."""

import dataclasses
import errno
import json
import tracemalloc

import numpy as np
import pytest

from llm_jax.data import cleaned, documents, packing
from llm_jax.data.sources import Document


@dataclasses.dataclass
class Source:
    """Documents of 100 KB, each held by nobody else."""

    count: int

    def documents(self, split):
        for number in range(self.count if split == "train" else 2):
            yield Document(f"{split}{number}", f"{number:010} é\n" * 7_700)


def test_writing_holds_one_document_not_all(tmp_path):
    documents.write_documents(Source(1), tmp_path / "first")  # what is imported counts no more
    tracemalloc.start()
    try:
        documents.write_documents(Source(150), tmp_path / "all")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4e6
    texts = [text for _, text in documents.read_documents(tmp_path / "all", "train")]
    assert texts == [document.text for document in Source(150).documents("train")]
    assert len(list(documents.read_documents(tmp_path / "all", "validation"))) == 2


def test_a_full_disk_is_an_error_of_the_system(tmp_path):
    (tmp_path / "rows").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        packing.write_rows(tmp_path / "rows", [np.arange(9)], np.dtype("<u2"))
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "rows")


@pytest.mark.parametrize("known", [False, True])
def test_more_files_than_are_held_open(tmp_path, monkeypatch, known):
    from array_record.python import array_record_module

    monkeypatch.setattr(cleaned, "_OPEN", 2)
    paths, counts = [tmp_path / f"{number}" for number in range(5)], [2, 0, 3, 1, 2]
    for path, count in zip(paths, counts):
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for number in range(count):
            writer.write(json.dumps({"id": f"{path.name}.{number}", "text": ""}).encode())
        writer.close()
    records = cleaned.DocumentRecords(iter(paths), counts if known else None)
    assert len(records) == 8
    names = [record["id"] for record in records]
    assert names == ["0.0", "0.1", "2.0", "2.1", "2.2", "3.0", "4.0", "4.1"]
    assert [record["id"] for record in records.read([1, 2, 5, 7])] == ["0.1", "2.0", "3.0", "4.1"]
    assert [record["id"] for record in records.read([0])] == ["0.0"]
