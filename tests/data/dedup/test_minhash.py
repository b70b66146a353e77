import numpy as np
import pytest

from llm_jax.data.dedup import minhash, shingles
from tests.data.dedup import synthetic


def unmixed(number):
    """The inverse of MurmurHash3's 32-bit finalizer, with which datasketch begins."""
    number ^= number >> 16
    number = number * pow(0xC2B2AE35, -1, 1 << 32) % (1 << 32)
    number ^= number >> 13 ^ number >> 26
    number = number * pow(0x85EBCA6B, -1, 1 << 32) % (1 << 32)
    return number ^ number >> 16


def test_signatures_equal_those_of_datasketch():
    datasketch = pytest.importorskip("datasketch")
    texts = [*synthetic.families(0, 30)[0], "", "one", "a b c d e"]
    got = minhash.signatures(texts, num_permutations=64, seed=3)
    drawn = np.stack(minhash.permutations(64, 3))
    for text, own in zip(texts, got):
        reference = datasketch.MinHash(64, permutations=drawn, scheme="affine32", hashfunc=unmixed)
        reference.update_batch([int(h) >> 32 for h in shingles.shingle_sets([text], 5)[0]])
        np.testing.assert_array_equal(own, reference.hashvalues)


@pytest.mark.parametrize("target", [0.2, 0.5, 0.8])
def test_estimates_are_unbiased_and_as_precise_as_independent_ones(target):
    random = np.random.default_rng(0)
    known = synthetic.vocabulary(random)
    pairs, places = 300, 128
    first = [random.choice(known, 200) for _ in range(pairs)]
    second = [synthetic.edited(random, words, known, target) for words in first]
    one, other = ([" ".join(words) for words in side] for side in (first, second))
    true = np.array(
        [synthetic.jaccard(*map(synthetic.shingle_set, pair)) for pair in zip(one, other)]
    )
    equal = minhash.signatures(one) == minhash.signatures(other)
    assert equal.shape == (pairs, places)
    error = (equal.mean(axis=1) - true) / np.sqrt(true * (1 - true) / places)
    assert abs(error.mean()) < 3 / np.sqrt(pairs)
    assert abs(error.var() - 1) < 3 * np.sqrt(2 / pairs)
    # No place of the signature is worse than the others.
    by_place = (equal.mean(axis=0) - true.mean()) / np.sqrt((true * (1 - true)).mean() / pairs)
    assert abs(by_place).max() < 4.5


def test_seed_and_number_of_permutations():
    texts = ["the quick brown fox jumps over the lazy dog"]
    many = minhash.signatures(texts, num_permutations=64, seed=1)
    np.testing.assert_array_equal(
        minhash.signatures(texts, num_permutations=16, seed=1), many[:, :16]
    )
    assert (minhash.signatures(texts, num_permutations=64, seed=2) != many).all()
    multipliers, offsets = minhash.permutations(1000, 0)
    assert (multipliers % 2 == 1).all()
    assert len(set(multipliers)) == len(set(offsets)) == 1000


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_chunks_do_not_change_signatures(chunk, monkeypatch):
    texts = ["", *synthetic.families(1, 20)[0], "", "one", "." * 9, "a b c d e f", ""]
    want = minhash.signatures(texts, num_permutations=8)
    for index, text in enumerate(texts):
        alone = minhash.signatures([text], num_permutations=8)
        np.testing.assert_array_equal(alone[0], want[index])
    monkeypatch.setattr(minhash, "_CHUNK", chunk)
    np.testing.assert_array_equal(minhash.signatures(texts, num_permutations=8), want)


def test_texts_without_words_have_the_largest_number():
    got = minhash.signatures(["", "...", "word"], num_permutations=4)
    assert (got[:2] == 2**32 - 1).all()
    assert (got[2] < 2**32 - 1).all()
    assert minhash.signatures([], num_permutations=4).shape == (0, 4)
