import random

import numpy as np
import pytest

from llm_jax.data.dedup import content_hash, exact, first_occurrences


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a b", "  a \t\n b\r\n"),
        ("caf\u00e9", "cafe\u0301"),
        ("a\u3000b\u00a0c", "a b c"),
        ("", " \n\t"),
    ],
)
def test_white_space_and_unicode_form_do_not_count(one, other):
    assert content_hash(one) == content_hash(other)
    assert len(content_hash(one)) == 16


@pytest.mark.parametrize(
    ("one", "other"), [("a b", "ab"), ("a", "A"), ("a", "a."), ("\uff21", "A"), ("\ud800", "")]
)
def test_everything_else_counts(one, other):
    assert content_hash(one) != content_hash(other)


def test_first_occurrence_is_kept():
    random = np.random.default_rng(0)
    texts = [f"text {number}" for number in random.integers(0, 300, 1000)]
    first = {}
    want = [first.setdefault(text, index) for index, text in enumerate(texts)]
    assert first_occurrences(map(content_hash, texts)).tolist() == want


@pytest.mark.parametrize("differs_at", [0, 7, 8, 15])
def test_all_sixteen_bytes_count_zeros_too(differs_at):
    base, other = bytearray(16), bytearray(16)
    other[differs_at] = 1
    digests = np.array([bytes(d) for d in (base, other, base, other)], "V16")
    assert first_occurrences(digests).tolist() == [0, 1, 0, 1]


def test_none():
    assert first_occurrences([]).shape == (0,)


@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
def test_sorting_in_parts_changes_nothing(monkeypatch, at_once):
    monkeypatch.setattr(exact, "_SORTED_AT_ONCE", at_once)
    drawn = random.Random(0)
    texts = [str(drawn.randrange(60)) for _ in range(100)]
    found = first_occurrences(map(content_hash, texts))
    assert found.tolist() == [texts.index(text) for text in texts]
