"""Near-duplicates by MinHash-LSH: signatures, bands, candidates verified exactly, union-find.

1. Every document is read once, in order; its signature and its key in each band go to files.
2. Band by band, documents with equal keys form runs, and the pairs of a run are candidates. A pair
   whose signatures already say that it is far below the threshold is dropped, by four standard
   deviations of the estimate; any other one is read again and its Jaccard similarity computed.
3. Pairs at or above the threshold are joined; each component keeps its first document.

A run is resolved in rounds: its first document is compared with all others that are not yet in one
component with it and steps back, then the next one is, until all that are left are together. So a
pair is skipped only where it changes nothing: its documents are together already, an earlier band
has compared it, or one of them has exactly the shingles of another one that stands for it. The
result is the components of the graph of all candidate pairs at or above the threshold, whatever
the order and the memory.

The memory does not grow with the texts: a document takes 13 bytes (its parent, its words, a mark),
one block of about 130,000 words, or two longer documents, is held while pairs are verified, and
bands are sorted within `memory_bytes`. On disk a document takes 4 bytes a permutation and 8 a band.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.dedup import bands as banding
from llm_jax.data.dedup import minhash, shingles

# Characters that are read at a time for signatures, words for verification, pairs for estimates.
_READ_CHARACTERS = 1 << 18
_VERIFY_WORDS = 1 << 17
_ESTIMATE_PAIRS = 1 << 12


@dataclasses.dataclass(frozen=True)
class NearDuplicates:
    """What counts as a near-duplicate, and how it is looked for.

    Attributes:
      threshold: the Jaccard similarity of two documents' shingles from which on they are.
      num_permutations: places of a signature; more of them allow bands of more rows.
      ngram: words of a shingle (characters where a script has no spaces).
      seed: of the permutations.
    """

    threshold: float = 0.8
    num_permutations: int = 128
    ngram: int = 5
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold is {self.threshold}: give more than 0 and at most 1")
        if not 1 <= self.num_permutations <= 4096:
            raise ConfigError(f"num_permutations is {self.num_permutations}: give 1 to 4096")
        if self.ngram < 1:
            raise ConfigError(f"ngram is {self.ngram}: give 1 or more words")
        if not self.bands[0]:
            raise ConfigError(
                f"num_permutations is {self.num_permutations}, too few to find pairs at threshold "
                f"{self.threshold}: give more of them, or a larger threshold"
            )

    @property
    def bands(self) -> tuple[int, int]:
        """The number of bands, and of rows in each: see `bands.choose_bands`."""
        return banding.choose_bands(self.threshold, self.num_permutations)


def near_duplicates(
    count: int,
    read: Callable[[int], str],
    settings: NearDuplicates,
    directory: Path,
    *,
    memory_bytes: int = 1 << 24,
) -> np.ndarray:
    """Returns for each document the one that is kept for it.

    A document without words is nobody's near-duplicate.

    Args:
      count: the number of documents.
      read: gives the text of one; called for all in order, then again for candidates.
      settings: what counts.
      directory: for its files, about 700 bytes a document; they are removed at the end.
      memory_bytes: about what sorting a band may take; the result does not depend on it. With less
        than 64 bytes a document the band is read several times.

    Returns:
      int64 [count], the first document of each one's component (itself, if it is kept).
    """
    if not count:
        return np.zeros(0, np.int64)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    signature_file = directory / "signatures.u32"
    key_files = [directory / f"band{band:03}.u64" for band in range(settings.bands[0])]
    try:
        words = write_signatures(count, read, settings, signature_file, key_files)
        with signature_file.open("rb", buffering=0) as signatures:
            search = Search(read, settings, signatures, words)
            for band, path in enumerate(key_files):
                for documents, runs in banding.equal_runs(path, search.distinct, memory_bytes):
                    search.resolve(band, documents, runs)
    finally:
        for path in (signature_file, *key_files):
            path.unlink(missing_ok=True)
    return search.components.roots()


def write_signatures(
    count: int,
    read: Callable[[int], str],
    settings: NearDuplicates,
    signature_file: Path,
    key_files: list[Path],
) -> np.ndarray:
    """Writes uint32 [count, num_permutations], and the uint64 [count] keys of each band.

    Returns:
      int32 [count], the words of each document.
    """
    words = np.empty(count, np.int32)
    with ExitStack() as stack:
        signatures = stack.enter_context(signature_file.open("wb"))
        files = [stack.enter_context(path.open("wb")) for path in key_files]
        for start, counts, least, keys in signed(count, read, settings):
            words[start : start + len(counts)] = counts
            signatures.write(least.tobytes())
            for file, own in zip(files, keys):
                file.write(own.tobytes())
    return words


def signed(
    count: int, read: Callable[[int], str], settings: NearDuplicates
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields signatures and keys of some documents at a time, in order.

    Yields:
      the first document's number; int64 [n], the words of each; uint32 [n, num_permutations]; and
      uint64 [bands, n], the keys.
    """
    permutations = minhash.permutations(settings.num_permutations, settings.seed)
    for start, texts in _batches(count, read):
        hashes, counts = shingles.word_hashes(texts)
        least = minhash.minima(
            *shingles.shingle_hashes(hashes, counts, settings.ngram), *permutations
        )
        yield start, counts, least, banding.band_keys(least, *settings.bands)


def _batches(count: int, read: Callable[[int], str]) -> Iterator[tuple[int, list[str]]]:
    """Yields the first document's number and the texts of about _READ_CHARACTERS."""
    start, texts, held = 0, [], 0
    for document in range(count):
        texts.append(read(document))
        held += len(texts[-1])
        if held >= _READ_CHARACTERS:
            yield start, texts
            start, texts, held = document + 1, [], 0
    if texts:
        yield start, texts


class UnionFind:
    """Disjoint sets of 0 .. count - 1 (Galler and Fischer, 1964); a set's root is its smallest."""

    def __init__(self, count: int):
        self._parents = np.arange(count)

    def find(self, items: np.ndarray) -> np.ndarray:
        """Returns the roots of int64 `items`, of their shape."""
        roots = self._parents[items]
        while True:
            above = self._parents[roots]
            if np.array_equal(above, roots):
                self._parents[items] = roots
                return roots
            roots = above

    def roots(self) -> np.ndarray:
        """Returns the roots of all items, int64 [count]: its own array, no copy."""
        for start in range(0, len(self._parents), 1 << 16):
            self.find(np.arange(start, min(start + (1 << 16), len(self._parents))))
        return self._parents

    def join(self, first: int, second: int) -> None:
        """Makes one set of those of two items."""
        first, second = sorted((self._root(first), self._root(second)))
        self._parents[second] = first

    def _root(self, item: int) -> int:
        while (parent := int(self._parents[item])) != item:
            self._parents[item] = self._parents[parent]
            item = parent
        return item


class Search:
    """The state of a search: which documents are together, and which stand for themselves.

    Attributes:
      components: of the documents, what is similar joined.
      distinct: bool [documents], which of them still count: see `bands.equal_runs`.
    """

    def __init__(self, read, settings: NearDuplicates, signatures: BinaryIO, words: np.ndarray):
        """`read`, `settings` as for `near_duplicates`; the rest as `write_signatures` leaves it."""
        self._read = read
        self._settings = settings
        self._bands = settings.bands
        self._words = words
        self._signatures = signatures
        threshold = settings.threshold
        deviation = (threshold * (1 - threshold) / settings.num_permutations) ** 0.5
        self._least_estimate = threshold - 4 * deviation
        self.components = UnionFind(len(words))
        # False where there are no words, or where an earlier one has exactly the same shingles.
        self.distinct = words > 0

    def resolve(self, band: int, documents: np.ndarray, runs: np.ndarray) -> None:
        """Joins what belongs together within runs (see `bands.equal_runs`) of a band."""
        while documents.size:
            begins = np.flatnonzero(np.diff(runs, prepend=-1))
            lengths = np.diff(begins, append=len(runs))
            leaders = np.repeat(documents[begins], lengths)
            apart = self.components.find(leaders) != self.components.find(documents)
            unresolved = np.repeat(np.logical_or.reduceat(apart, begins), lengths)
            self._compare(band, leaders[apart], documents[apart])
            unresolved &= self.distinct[documents]
            unresolved[begins] = False
            documents, runs = documents[unresolved], runs[unresolved]

    def _compare(self, band: int, first: np.ndarray, second: np.ndarray) -> None:
        """Verifies those pairs of `band` that no earlier band has and that may be similar."""
        bands, rows = self._bands
        for start in range(0, len(first), _ESTIMATE_PAIRS):
            pairs = slice(start, start + _ESTIMATE_PAIRS)
            one, other = first[pairs], second[pairs]
            equal = self._signatures_of(one) == self._signatures_of(other)
            likely = equal.mean(axis=1) >= self._least_estimate
            in_band = equal[:, : bands * rows].reshape(-1, bands, rows).all(axis=2)
            likely &= in_band.argmax(axis=1) == band
            self._verify(one[likely], other[likely])

    def _signatures_of(self, documents: np.ndarray) -> np.ndarray:
        """Reads uint32 [n, num_permutations]; pages of a mapped file would count as memory."""
        size = 4 * self._settings.num_permutations
        file = self._signatures.fileno()
        rows = [os.pread(file, size, size * document) for document in documents.tolist()]
        return np.frombuffer(b"".join(rows), np.uint32).reshape(len(documents), -1)

    def _verify(self, first: np.ndarray, second: np.ndarray) -> None:
        """Joins the pairs whose shingles are similar enough, reading some documents at a time."""
        order = np.lexsort((second, first))
        first, second = first[order], second[order]
        block = (
            np.cumsum(self._words[first].astype(np.int64) + self._words[second]) // _VERIFY_WORDS
        )
        for pairs in np.split(np.arange(len(first)), np.flatnonzero(np.diff(block)) + 1):
            one, other = first[pairs], second[pairs]
            apart = self.components.find(one) != self.components.find(other)
            one, other = one[apart], other[apart]
            needed = np.unique(np.concatenate((one, other)))
            texts = [self._read(document) for document in needed.tolist()]
            sets = dict(zip(needed.tolist(), shingles.shingle_sets(texts, self._settings.ngram)))
            for left, right in zip(one.tolist(), other.tolist()):
                similarity = shingles.jaccard(sets[left], sets[right])
                if similarity >= self._settings.threshold:
                    self.components.join(left, right)
                if similarity == 1:
                    self.distinct[right] = False
