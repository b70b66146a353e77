import itertools

import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.dedup import cut, repeated_spans, substrings


def brute_force(texts, length):
    """The definition, window by window: which characters are cut."""
    marks = [[False] * len(text) for text in texts]
    seen = {}
    for number, text in enumerate(texts):
        for at in range(len(text) - length + 1):
            first = seen.setdefault(text[at : at + length], (number, at))
            if first[0] < number or first[1] + length <= at:
                marks[number][at : at + length] = [True] * length
    return marks


def marked(texts, spans):
    marks = [[False] * len(text) for text in texts]
    for text, start, stop in spans.tolist():
        assert stop > start
        marks[text][start:stop] = [True] * (stop - start)
    return marks


def random_texts(seed, letters="ab", count=12):
    random = np.random.default_rng(seed)
    return ["".join(random.choice(list(letters), random.integers(0, 40))) for _ in range(count)]


@pytest.mark.parametrize("length", [1, 2, 5, 8, 39, 60])
@pytest.mark.parametrize("letters", ["ab", "a", "aé天\U0001f600\ud800", "abcdefgh"])
def test_equals_brute_force(length, letters):
    for seed in range(10):
        texts = random_texts(seed, letters)
        spans = repeated_spans(texts, length=length)
        assert marked(texts, spans) == brute_force(texts, length)
        assert [tuple(s) for s in spans] == sorted(tuple(s) for s in spans)
        for one, other in itertools.pairwise(spans):
            assert one[0] < other[0] or one[2] < other[1]


@pytest.mark.parametrize("memory_bytes", [600, 5000])
@pytest.mark.parametrize(("block", "compare"), [(5, 1), (100, 40)])
def test_memory_and_blocks_do_not_change_the_result(memory_bytes, block, compare, monkeypatch):
    texts = random_texts(0)
    want = repeated_spans(texts, length=6)
    assert len(want)
    monkeypatch.setattr(substrings, "_BLOCK", block)
    monkeypatch.setattr(substrings, "_COMPARE", compare)
    sorted_at_once = []
    mark = substrings._mark_repeated
    monkeypatch.setattr(
        substrings, "_mark_repeated", lambda *a: sorted_at_once.append(len(a[1])) or mark(*a)
    )
    got = repeated_spans(texts, length=6, memory_bytes=memory_bytes)
    np.testing.assert_array_equal(got, want)
    assert max(sorted_at_once) < 0.6 * sum(map(len, texts))


@pytest.mark.parametrize("hashes", [1, 5])
def test_windows_with_the_same_hash_are_compared(hashes, monkeypatch):
    texts = random_texts(1, "abc")
    want = brute_force(texts, 4)
    true = substrings.window_hashes
    monkeypatch.setattr(substrings, "window_hashes", lambda *args: true(*args) % np.uint64(hashes))
    assert marked(texts, repeated_spans(texts, length=4)) == want


def test_first_occurrence_stays():
    shared = "This notice is on every page of the site."
    texts = [f"One. {shared} Two.", f"{shared} Six.", "Four.", f"Five {shared}"]
    spans = repeated_spans(texts, length=20)
    left = [cut(text, spans[spans[:, 0] == number, 1:]) for number, text in enumerate(texts)]
    # The blank after the notice is also repeated.
    assert left == [texts[0], "Six.", "Four.", "Five"]
    assert repeated_spans(["ab" * 50], length=10).tolist() == [[0, 10, 100]]


def test_nothing_to_find():
    assert repeated_spans([]).shape == (0, 3)
    assert repeated_spans(["", "short", "short"]).shape == (0, 3)
    assert repeated_spans(["abcdef", "abcxef"], length=4).shape == (0, 3)
    with pytest.raises(ConfigError, match="length is 0"):
        repeated_spans(["a"], length=0)
