import itertools
import random

import numpy as np
import pytest

from llm_jax.data import best_fit, packing

BOS, EOS = 1, 2


def documents(seed, count, longest):
    draw = random.Random(seed)
    return [[draw.randrange(3, 90) for _ in range(draw.randrange(longest))] for _ in range(count)]


def in_parts(texts, size):
    for text in texts:
        pieces = [text[i : i + size] for i in range(0, len(text), size)] or [[]]
        yield from enumerate(pieces)


def packed(texts, length, eos=EOS, part=1000):
    return list(best_fit.pack(in_parts(texts, part), length, bos_id=BOS, eos_id=eos))


def unpacked(rows, length, eos=EOS):
    lengths = np.array([len(row) for row in rows])
    full = np.array([np.pad(row, (0, length - len(row))) for row in rows])
    return packing.unpack(full, lengths, bos_id=BOS, eos_id=eos, cross_document_attention=False)


@pytest.mark.parametrize("length", [2, 5, 32])
@pytest.mark.parametrize("eos", [EOS, BOS])
def test_every_token_is_predicted_once_within_its_document(length, eos):
    texts = documents(0, 80, 50)
    batch = unpacked(packed(texts, length, eos, part=7), length, eos)
    asked = sorted(batch["targets"][batch["weights"] > 0].tolist())
    assert asked == sorted([*itertools.chain(*texts), *[eos] * len(texts)])
    # What a token sees is the document's own text before it.
    whole = {tuple(text) for text in texts}
    for tokens, segments in zip(batch["tokens"], batch["segment_ids"]):
        for segment in range(1, segments.max() + 1):
            inside = [t for t in tokens[segments == segment].tolist() if t not in (BOS, EOS)]
            assert any(_within(inside, text) for text in whole)


def pieces_of(row):
    """A row's pieces without their BOS; ids are below 256."""
    return bytes(row.tolist()).split(bytes([BOS]))[1:]


def _within(inside, text):
    return any(list(text[i : i + len(inside)]) == inside for i in range(len(text) + 1))


def test_no_document_that_fits_is_cut():
    length = 33
    texts = documents(1, 300, length - 2)
    rows = packed(texts, length)
    found = [tuple(piece) for row in rows for piece in pieces_of(row)]
    assert sorted(found) == sorted((*text, EOS) for text in texts)


def test_the_worked_example():
    """The longest first, each into the fullest row that has room, by hand."""
    rows = packed([[9] * (size - 2) for size in (4, 8, 3, 5, 2)], 10)
    found = [[len(piece) + 1 for piece in pieces_of(row)] for row in rows]
    assert found == [[8, 2], [5, 4], [3]]


def test_rows_are_nearly_full_and_few():
    length = 257
    draw = np.random.default_rng(2)
    sizes = np.minimum(draw.lognormal(4, 1, 4000).astype(int), 2000)
    texts = [[5] * size for size in sizes.tolist()]
    rows = packed(texts, length)
    assert sum(map(len, rows)) / (len(rows) * length) > 0.99


def test_windows_only_cost_their_ends(monkeypatch):
    texts = documents(3, 500, 40)
    whole = packed(texts, 33)
    monkeypatch.setattr(best_fit, "_WINDOW_TOKENS", 500)
    parts = packed(texts, 33)
    everything = sorted(itertools.chain(*whole))
    assert sorted(itertools.chain(*parts)) == everything
    assert len(whole) < len(parts) < 1.25 * len(whole)
