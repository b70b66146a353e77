"""Locality-sensitive hashing by bands (Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", section 3.4): documents whose signatures are equal in all rows of a band are candidates.

The keys of a band are one file of uint64, the document's number being the place in it, so that a
million documents take 8 MB a band, and no band needs another's keys.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llm_jax.data.dedup.shingles import mix

# A pair exactly at the threshold becomes a candidate with at least this probability.
RECALL = 0.99
_BLOCK = 1 << 16
# Bytes for each key while a band is sorted: key, document, order, the sort's own, the results.
_SORT_BYTES = 64


def s_curve(similarity, bands: int, rows: int):
    """Returns `1 - (1 - s^r)^b`: how probably a pair of that Jaccard similarity is a candidate."""
    return 1 - (1 - similarity**rows) ** bands


def choose_bands(threshold: float, num_permutations: int) -> tuple[int, int]:
    """Returns (bands, rows): the most rows, so the fewest candidates, that still find the pairs.

    Candidates are verified, so a false one costs time only, while a missed one is lost: the curve
    is held to RECALL at the threshold itself rather than weighed as areas on both sides of it.
    0.8 with 128 permutations gives 21 bands of 6 rows, and there 0.998.

    Returns:
      (0, 0) where even bands of one row miss too many.
    """
    for rows in range(num_permutations, 0, -1):
        bands = num_permutations // rows
        if s_curve(threshold, bands, rows) >= RECALL:
            return bands, rows
    return 0, 0


def band_keys(signatures: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """Hashes each band of each signature.

    Args:
      signatures: uint32 [n, P], P at least bands * rows.
      bands, rows: which of its columns are a band: the first `rows`, the next ones, and so on.

    Returns:
      uint64 [bands, n].
    """
    columns = signatures[:, : bands * rows].reshape(len(signatures), bands, rows)
    keys = np.zeros((len(signatures), bands), np.uint64)
    for row in range(rows):
        keys = mix(keys + columns[:, :, row])
    return np.ascontiguousarray(keys.T)


def equal_runs(
    path: Path, candidates: np.ndarray, memory_bytes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Finds the documents that share their key with others.

    A file too large to be sorted at once is read several times, each time for a part of the keys
    (they are uniform hashes). Documents that all share one key are sorted together in any case,
    which takes 64 bytes for each.

    Args:
      path: uint64 keys, of as many documents as `candidates` has.
      candidates: bool [documents], which of them count; read anew for every part.
      memory_bytes: about what sorting may take.

    Yields:
      documents int64 [m], run by run, ascending within each; runs int64 [m], ascending, which run
      each of them is in.
    """
    parts = max(1, -(-len(candidates) * _SORT_BYTES // memory_bytes))
    for part in range(parts):
        keys, documents = _keys_of_part(path, candidates, part, parts)
        found, runs = runs_of(keys, documents)
        if found.size:
            yield found, runs


def runs_of(keys: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns those of `documents` that share their key, and runs, as `equal_runs` yields them.

    Args:
      keys: uint64 [n].
      documents: int64 [n], ascending.
    """
    order = np.argsort(keys, kind="stable")
    keys, documents = keys[order], documents[order]
    same = np.zeros(len(keys) + 1, bool)
    np.equal(keys[1:], keys[:-1], out=same[1:-1])
    shared = same[1:] | same[:-1]
    return documents[shared], np.cumsum(~same[:-1])[shared]


def _keys_of_part(path, candidates, part, parts) -> tuple[np.ndarray, np.ndarray]:
    keys, documents = [], []
    for start in range(0, len(candidates), _BLOCK):
        block = np.fromfile(path, np.uint64, _BLOCK, offset=8 * start)
        wanted = candidates[start : start + _BLOCK]
        if parts > 1:
            wanted = wanted & (block % np.uint64(parts) == part)
        chosen = np.flatnonzero(wanted)
        keys.append(block[chosen])
        documents.append(chosen + start)
    return np.concatenate(keys), np.concatenate(documents)
