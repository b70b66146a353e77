"""Near-duplicates where no machine holds all documents: a shuffle of band keys between two maps.

`sign` runs once for each block of documents (those that follow each other) and deals their keys out
to partitions, so that equal keys of a band meet in one; `join` runs once for each partition and
returns what is similar there; `merge` puts these together. The graph is that of
`llm_jax.data.dedup.lsh`: a pair with equal keys in several bands belongs to the first of them, the
partition of that key compares it or finds its documents together already, and the components of
all that is found are the components of the graph. So the result is that of `near_duplicates`,
however many blocks and partitions there are.

A block takes memory for its signatures while it is signed. A partition takes 32 bytes a key and a
signature for each document in it that shares a key. `merge` takes 8 bytes a document.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from llm_jax.data.dedup import bands as banding
from llm_jax.data.dedup.lsh import NearDuplicates, Search, UnionFind, signed

KEY = np.dtype([("key", "<u8"), ("document", "<i8"), ("words", "<i4"), ("band", "<u2")])


def sign(
    documents: Sequence[int],
    read: Callable[[int], str],
    settings: NearDuplicates,
    partitions: int,
    file: Path,
) -> list[np.ndarray]:
    """Signs one block.

    Args:
      documents: their numbers, ascending.
      read: gives the text of one by its number.
      settings: what counts.
      partitions: how many there are.
      file: is written: uint32 [n, num_permutations], the signatures.

    Returns:
      for each partition its records of KEY; documents without words have none.
    """
    numbers = np.asarray(documents, np.int64)
    dealt = [[np.zeros(0, KEY)] for _ in range(partitions)]

    def own_read(place: int) -> str:
        return read(int(numbers[place]))

    with file.open("wb") as signatures:
        for start, words, least, keys in signed(len(numbers), own_read, settings):
            signatures.write(least.tobytes())
            filled = words > 0
            block = np.zeros((len(keys), int(filled.sum())), KEY)
            block["key"] = keys[:, filled]
            block["document"] = numbers[start : start + len(words)][filled]
            block["words"] = words[filled]
            block["band"] = np.arange(len(keys))[:, None]
            block = block.ravel()
            owners = block["key"] % np.uint64(partitions)
            for partition, own in enumerate(dealt):
                own.append(block[owners == partition])
    return [np.concatenate(own) for own in dealt]


def join(
    dealt: Iterable[np.ndarray],
    read: Callable[[int], str],
    signatures_of: Callable[[np.ndarray], np.ndarray],
    settings: NearDuplicates,
) -> np.ndarray:
    """Finds what is similar within one partition.

    Args:
      dealt: what `sign` returned for it, of all blocks.
      read: gives the text of a document by its number.
      signatures_of: gives uint32 [n, num_permutations] of ascending numbers.
      settings: what counts.

    Returns:
      int64 [pairs, 2]: documents that belong together, the smaller number first.
    """
    records = np.concatenate(list(dealt) or [np.zeros(0, KEY)])
    records = records[np.lexsort((records["document"], records["key"], records["band"]))]
    same = np.zeros(len(records) + 1, bool)
    same[1:-1] = (records["key"][1:] == records["key"][:-1]) & (
        records["band"][1:] == records["band"][:-1]
    )
    records = records[same[1:] | same[:-1]]
    numbers, first, places = np.unique(records["document"], return_index=True, return_inverse=True)
    with TemporaryFile() as file:
        for start in range(0, len(numbers), 1 << 12):
            file.write(signatures_of(numbers[start : start + (1 << 12)]).tobytes())
        file.flush()
        search = Search(lambda n: read(int(numbers[n])), settings, file, records["words"][first])
        for band in range(settings.bands[0]):
            mine = records["band"] == band
            keys, documents = records["key"][mine], places[mine]
            distinct = search.distinct[documents]
            search.resolve(band, *banding.runs_of(keys[distinct], documents[distinct]))
    roots = search.components.roots()
    moved = np.flatnonzero(roots != np.arange(len(roots)))
    return np.stack((numbers[roots[moved]], numbers[moved]), axis=1)


def merge(count: int, pairs: Iterable[np.ndarray]) -> np.ndarray:
    """Returns for each of `count` documents the one that is kept for it, as `near_duplicates`."""
    components = UnionFind(count)
    for some in pairs:
        for first, second in some.tolist():
            components.join(first, second)
    return components.roots()
