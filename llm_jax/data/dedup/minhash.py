"""MinHash signatures (Broder, 1997, "On the resemblance and containment of documents").

The share of equal places in two signatures estimates the Jaccard similarity of the two documents'
sets of shingles, without bias and with the variance J(1 - J) / num_permutations. Permutation k of
the 32-bit numbers is `a_k * x + b_k` modulo 2^32 with an odd `a_k`, a bijection that unsigned
overflow computes for nothing; `x` is the upper half of a shingle's mixed 64-bit hash. (Broder's
reference family is modulo a prime; for mixed inputs the estimates are as good, see the tests, and
datasketch 2.0 does the same.)
"""

from collections.abc import Sequence

import numpy as np

from llm_jax.data.dedup.shingles import mix, shingle_hashes, word_hashes

_CHUNK = 1 << 15


def permutations(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns odd multipliers and offsets, both uint32 [count]; the first ones for any count."""
    key = int(mix(np.array([seed % (1 << 64)], np.uint64))[0])
    drawn = mix(np.arange(2 * count, dtype=np.uint64) + np.uint64(key)) >> np.uint64(32)
    return (drawn[0::2] | np.uint64(1)).astype(np.uint32), drawn[1::2].astype(np.uint32)


def signatures(
    texts: Sequence[str], *, ngram: int = 5, num_permutations: int = 128, seed: int = 0
) -> np.ndarray:
    """Returns the signatures of n texts.

    Args:
      texts: n texts.
      ngram: words of a shingle.
      num_permutations: places of a signature.
      seed: of the permutations.

    Returns:
      uint32 [n, num_permutations]; a text without words has the largest number everywhere.
    """
    hashes, counts = shingle_hashes(*word_hashes(texts), ngram)
    return minima(hashes, counts, *permutations(num_permutations, seed))


def minima(
    hashes: np.ndarray, counts: np.ndarray, multipliers: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Returns under each permutation the smallest of each document's shingles.

    Args:
      hashes: uint64 [shingles], of documents one after the other.
      counts: int64 [n], the shingles of each.
      multipliers, offsets: uint32 [P], the permutations.

    Returns:
      uint32 [n, P].
    """
    least = np.full((len(multipliers), len(counts)), np.iinfo(np.uint32).max, np.uint32)
    # An empty document would take another's shingle from `reduceat`.
    filled = np.flatnonzero(counts)
    ends = np.cumsum(counts)[filled]
    begins = ends - counts[filled]
    for start in range(0, len(hashes), _CHUNK):
        numbers = (hashes[start : start + _CHUNK] >> np.uint64(32)).astype(np.uint32)
        here = slice(
            np.searchsorted(ends, start, side="right"),
            np.searchsorted(begins, start + len(numbers)),
        )
        first = np.maximum(begins[here] - start, 0)
        documents = filled[here]
        permuted = np.empty_like(numbers)
        for own, multiplier, offset in zip(least, multipliers, offsets):
            np.multiply(numbers, multiplier, out=permuted)
            permuted += offset
            own[documents] = np.minimum(own[documents], np.minimum.reduceat(permuted, first))
    return np.ascontiguousarray(least.T)
