import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.dedup import EvaluationIndex, contamination


def grams(text, ngram):
    words = text.lower().replace(".", " ").replace(",", " ").split()
    return {tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)}


def random_texts(random, count, longest):
    return [" ".join(random.choice(list("abc"), random.integers(0, longest))) for _ in range(count)]


@pytest.mark.parametrize("ngram", [1, 3, 6, 13])
def test_equals_brute_force(ngram):
    random = np.random.default_rng(0)
    sets = {
        name: random_texts(random, count, 25) for name, count in (("x", 20), ("y", 1), ("z", 9))
    }
    texts = random_texts(random, 60, 40)
    index = EvaluationIndex.of(sets, ngram)
    items = [grams(text, ngram) for items in sets.values() for text in items]
    want = [
        [number, item]
        for number, text in enumerate(texts)
        for item, own in enumerate(items)
        if grams(text, ngram) & own
    ]
    pairs = index.overlaps(texts)
    assert pairs.tolist() == want
    assert want or ngram == 13
    first = 0
    for name, members in sets.items():
        own = [pair for pair in want if first <= pair[1] < first + len(members)]
        assert index.report(pairs)[name] == {
            "items": len(members),
            "too_short": sum(not grams(text, ngram) for text in members),
            "contaminated": len({item for _, item in own}),
            "documents": len({document for document, _ in own}),
        }
        first += len(members)


def test_thirteen_words_in_another_hand():
    item = "Once upon a time, in a land far away, there lived a very old king."
    index = EvaluationIndex.of({"tales": ["short", item]})
    texts = [
        "x. ONCE upon a  time in a land far away there lived a... very small mouse",
        "Once upon a time, in a land far away, there was a very old king.",
        "upon a time in a land far away there lived a VERY\nold queen",
    ]
    assert index.overlaps(texts).tolist() == [[0, 1], [2, 1]]
    assert index.report(index.overlaps(texts)) == {
        "tales": {"items": 2, "too_short": 1, "contaminated": 1, "documents": 2}
    }


@pytest.mark.parametrize("sets", [{}, {"x": []}, {"x": ["", "few words"]}])
def test_nothing_to_match(sets):
    index = EvaluationIndex.of(sets)
    assert index.overlaps(["few words", "", "many words " * 9]).shape == (0, 2)
    assert all(counts["documents"] == 0 for counts in index.report(np.zeros((0, 2), int)).values())
    assert index.overlaps([]).shape == (0, 2)


def test_no_documents():
    index = EvaluationIndex.of({"x": ["a b c"]}, ngram=2)
    assert index.overlaps([]).shape == (0, 2)
    assert index.overlaps(["", "c"]).shape == (0, 2)


@pytest.mark.parametrize(
    ("lengths", "want"), [([3] * 50, 8), ([40] * 50, 13), ([10] * 50, 10), ([], 13)]
)
def test_ngram_for_short_sets(lengths, want):
    assert contamination.ngram_for([" ".join("w" * length) for length in lengths]) == want


def test_bad_ngram():
    with pytest.raises(ConfigError, match="ngram is 0"):
        EvaluationIndex.of({"x": ["a"]}, ngram=0)
