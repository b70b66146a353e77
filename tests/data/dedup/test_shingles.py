import numpy as np
import pytest

from llm_jax.data.dedup import shingles
from tests.data.dedup import synthetic


def words(text):
    hashes, counts = shingles.word_hashes([text])
    assert counts.tolist() == [len(hashes)]
    return hashes.tolist()


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("The cat, sat.", "the\tCAT (sat)"),
        ("x_1 = 2", "x_1 2"),
        ("caf\u00e9", "CAFE\u0301"),
        ("天地玄黄", "天 地、玄 黄"),
        ("用Python写", "用 python 写"),
        ("สวัสดี", "ส ว ั ส ด ี"),
        ("हिन्दी!", " हिन्दी"),
        ("안녕하세요 여러분", "안녕하세요, 여러분"),
        ("\U00020000\U00020001", "\U00020000 \U00020001"),
        ("a\ud800b", "a b"),
    ],
)
def test_words(text, same):
    assert words(text) == words(same)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        (" .,;! \n", 0),
        ("天地玄黄", 4),
        ("안녕하세요 여러분", 2),
        ("हिन्दी", 1),
        ("a-b c", 3),
    ],
)
def test_number_of_words(text, count):
    assert len(words(text)) == count


def test_order_case_and_letters_make_different_words():
    given = ["ab", "ba", "a", "aa", "b", "0", "_", "天", "地", "ab0", "é", "e"]
    assert len({words(text)[0] for text in given}) == len(given)


def test_equal_words_equal_hashes_wherever_they_stand():
    random = np.random.default_rng(0)
    known = synthetic.vocabulary(random, 500)
    texts = [" ".join(random.choice(known, random.integers(0, 40))) for _ in range(300)]
    hashes, counts = shingles.word_hashes(texts)
    plain = [word for text in texts for word in text.split()]
    assert counts.tolist() == [len(text.split()) for text in texts]
    assert len(set(zip(plain, hashes.tolist()))) == len(set(plain)) == len(set(hashes.tolist()))


@pytest.mark.parametrize("piece", [64, 1000])
def test_pieces_do_not_change_words(piece, monkeypatch):
    random = np.random.default_rng(0)
    known = synthetic.vocabulary(random, 500)
    texts = [" ".join(random.choice(known, size)) for size in (0, 1, 500, 3, 0, 20)] + ["天" * 999]
    want = shingles.word_hashes(texts)
    monkeypatch.setattr(shingles, "_PIECE", piece)
    got = shingles.word_hashes(texts)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


def test_a_long_run_without_white_space_is_read_to_its_end():
    assert len(words("天" * 200_000)) == 200_000
    assert 1 < len(words("a" * 200_000)) < 8


@pytest.mark.parametrize("ngram", [1, 2, 5])
def test_sets_equal_the_definition(ngram):
    random = np.random.default_rng(1)
    texts = [" ".join(random.choice(list("abc"), random.integers(0, 30))) for _ in range(100)]
    want = [synthetic.shingle_set(text, ngram) for text in texts]
    got = shingles.shingle_sets(texts, ngram)
    # Equal shingles have equal hashes in all texts, and different ones different hashes.
    assert [len(own) for own in got] == [len(own) for own in want]
    numbers = {}
    for plain, own in zip(texts, got):
        for shingle in synthetic.shingle_set(plain, ngram):
            alone = shingles.shingle_sets([" ".join(shingle)], ngram)[0]
            assert alone.size == 1
            assert alone[0] in own
            assert numbers.setdefault(shingle, alone[0]) == alone[0]
    assert len(set(numbers.values())) == len(numbers)


def test_a_short_text_is_no_prefix_of_a_longer_one():
    one, other = shingles.shingle_sets(["a b c", "a b c d"], 5)
    assert shingles.jaccard(one, other) == 0


def test_jaccard_equals_the_definition():
    texts, owners = synthetic.families(2, 60)
    sets = shingles.shingle_sets(texts, 5)
    plain = [synthetic.shingle_set(text) for text in texts]
    for one in range(60):
        other = int(np.flatnonzero(owners == owners[one])[-1])
        assert shingles.jaccard(sets[one], sets[other]) == synthetic.jaccard(
            plain[one], plain[other]
        )
    assert shingles.jaccard(sets[0][:0], sets[0]) == 0
    assert shingles.jaccard(sets[0][:0], sets[0][:0]) == 0
    assert shingles.shingle_sets([], 5) == []
