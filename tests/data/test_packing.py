import itertools
import random

import numpy as np
import pytest

from llm_jax.data import packing

BOS, EOS = 1, 2


def random_documents(seed, count):
    draw = random.Random(seed)
    return [[draw.randrange(3, 90) for _ in range(draw.randrange(0, 20))] for _ in range(count)]


def stream_of(documents):
    return np.array([t for d in documents for t in (BOS, *d, EOS)], np.uint16)


def padded(rows, width):
    lengths = np.array([len(row) for row in rows])
    full = np.full((len(rows), width), 7, np.uint16)
    for row, target in zip(rows, full):
        target[: len(row)] = row
    return full, lengths


def expected(documents, length):
    """The definition, one target at a time: which document and place each token has."""
    tokens, owners, places = [], [], []
    for owner, document in enumerate(documents):
        for place, token in enumerate((BOS, *document, EOS)):
            tokens.append(token)
            owners.append(owner)
            places.append(place)
    count = -(-(len(tokens) - 1) // length)
    batch = {
        name: np.zeros((count, length))
        for name in ("tokens", "targets", "weights", "segment_ids", "positions")
    }
    for index in range(len(tokens) - 1):
        row, column = divmod(index, length)
        first = row * length
        batch["tokens"][row, column] = tokens[index]
        batch["targets"][row, column] = tokens[index + 1]
        batch["weights"][row, column] = owners[index] == owners[index + 1]
        batch["segment_ids"][row, column] = owners[index] - owners[first] + 1
        batch["positions"][row, column] = min(places[index], index - first)
    return batch


@pytest.mark.parametrize("length", [1, 2, 7, 16, 1000])
def test_rows_equal_the_definition(length):
    documents = random_documents(0, 50)
    rows = list(packing.pack([stream_of(documents)], length + 1))
    batch = packing.unpack(*padded(rows, length + 1), bos_id=BOS, cross_document_attention=False)
    want = expected(documents, length)
    last = len(rows[-1]) - 1
    assert set(batch) == set(want)
    for name, value in batch.items():
        np.testing.assert_array_equal(value[:-1], want[name][:-1], err_msg=name)
        np.testing.assert_array_equal(value[-1, :last], want[name][-1, :last], err_msg=name)
        assert value.dtype == (np.float32 if name == "weights" else np.int32)
    assert batch["weights"].sum() == sum(len(d) + 1 for d in documents)
    for name in ("weights", "segment_ids", "positions"):
        assert not batch[name][-1, last:].any()


def test_pieces_of_any_size_give_the_same_rows(monkeypatch):
    stream = stream_of(random_documents(1, 60))
    want = [row.tolist() for row in packing.pack([stream], 10)]
    for flush in (1, 10, 1000):
        monkeypatch.setattr(packing, "_FLUSH_TOKENS", flush)
        for cut in (1, 5, 64):
            pieces = [stream[i : i + cut] for i in range(0, len(stream), cut)]
            assert [row.tolist() for row in packing.pack(pieces, 10)] == want


def test_rows_overlap_by_one_token():
    rows = list(packing.pack([np.arange(101)], 11))
    assert len(rows) == 10
    assert all(a[-1] == b[0] for a, b in itertools.pairwise(rows))
    assert sum(len(row) - 1 for row in rows) == 100
    assert [len(row) for row in packing.pack([np.arange(12)], 11)] == [11, 2]


def test_rows_without_overlap_hold_every_token_once(monkeypatch):
    for flush in (1, 1000):
        monkeypatch.setattr(packing, "_FLUSH_TOKENS", flush)
        rows = list(packing.pack([np.arange(13), np.arange(13, 33)], 10, 0))
        assert [len(row) for row in rows] == [10, 10, 10, 3]
        assert np.concatenate(rows).tolist() == list(range(33))
        assert len(list(packing.pack([np.arange(30)], 10, 0))) == 3


def test_nothing_gives_no_rows():
    assert list(packing.pack([], 4)) == []


def test_attention_across_documents_makes_a_row_one_sequence():
    rows = list(packing.pack([stream_of(random_documents(2, 10))], 17))
    apart, across = (
        packing.unpack(*padded(rows, 17), bos_id=BOS, cross_document_attention=cross)
        for cross in (False, True)
    )
    assert set(across) == {"tokens", "targets", "weights"}
    for name in ("tokens", "targets", "weights"):
        np.testing.assert_array_equal(across[name], apart[name])


def test_ids_take_two_bytes_while_they_fit():
    assert packing.token_dtype(65536).itemsize == 2
    assert packing.token_dtype(65537).itemsize == 4
