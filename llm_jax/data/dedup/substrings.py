"""Repeated substrings: text that stands in a corpus before, at least some length of it.

Lee et al., 2022 ("Deduplicating Training Data Makes Language Models Better", arXiv:2107.06499)
find them with a suffix array. Here every window of exactly that length is hashed (Karp and Rabin,
1987) and the hashes are sorted, which is the same question: a longer repeated substring is one all
of whose windows are repeated. Equal hashes are compared as text, so the answer is exact.
"""

from collections.abc import Sequence

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.dedup.shingles import mix, powers

# Windows that are hashed at a time, and characters that are compared at a time.
_BLOCK = 1 << 16
_COMPARE = 1 << 17
# Bytes for each window while those of one part are sorted: twice its key, then hash and place.
_SORT_BYTES = 32


def repeated_spans(
    texts: Sequence[str], *, length: int = 100, memory_bytes: int = 1 << 28
) -> np.ndarray:
    """Finds what to cut so that the first occurrence of every repeated substring stays.

    A character is in a span if some window of `length` characters around it, within its text,
    stands in the texts before, at a place that it does not overlap: in an earlier text, or
    `length` or more characters earlier in its own. (So of "abababab" one period stays whole.)

    It holds the joined text with 5 bytes a character, and `memory_bytes` for sorting: more text is
    hashed several times, each time for a part of the hashes.

    Args:
      texts: the corpus, in the order in which first occurrences are kept.
      length: characters, 1 or more.
      memory_bytes: about what sorting may take; the result does not depend on it.

    Returns:
      int64 [spans, 3]: text, first character, and the one after the last; ascending, apart.

    Raises:
      ConfigError: the length is less than 1.
    """
    if length < 1:
        raise ConfigError(f"length is {length}: give 1 or more characters")
    lengths = np.array([len(text) for text in texts], np.int64)
    ends = np.cumsum(lengths)
    characters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
    if len(characters) < length:
        return np.zeros((0, 3), np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(characters, length)
    repeated = np.zeros(len(windows), bool)
    parts = max(1, -(-len(windows) * _SORT_BYTES // memory_bytes))
    for part in range(parts):
        _mark_repeated(windows, *_shared_hashes(characters, ends, length, part, parts), repeated)
    return _spans(np.flatnonzero(repeated), ends, lengths, length)


def cut(text: str, spans) -> str:
    """Returns `text` without `spans`: pairs of (first character, the one after the last)."""
    kept, at = [], 0
    for start, stop in spans:
        kept.append(text[at:start])
        at = stop
    return "".join((*kept, text[at:]))


def window_hashes(characters: np.ndarray, length: int) -> np.ndarray:
    """Hashes every window of `length` characters: uint32 [n] to uint64 [n - length + 1]."""
    power, inverse = powers(len(characters))
    sums = np.zeros(len(characters) + 1, np.uint64)
    np.cumsum(power * characters, out=sums[1:])
    return mix((sums[length:] - sums[:-length]) * inverse[: len(sums) - length])


def _shared_hashes(characters, ends, length, part, parts) -> tuple[np.ndarray, np.ndarray]:
    """Returns hashes and places of the windows of a part that are not alone with their hash.

    Windows within one text count. Both are in the order of the hash and then the place: sorted as
    one number, the place in the lowest bits, so that fewer are left for the hash.
    """
    low = np.uint64((1 << len(characters).bit_length()) - 1)
    keys = []
    for start in range(0, len(characters) - length + 1, _BLOCK):
        hashes = window_hashes(characters[start : start + _BLOCK + length - 1], length)
        places = np.arange(start, start + len(hashes))
        inside = places + length <= ends[np.searchsorted(ends, places, side="right")]
        inside &= hashes % np.uint64(parts) == part
        keys.append((hashes[inside] & ~low) | places[inside].astype(np.uint64))
    keys = np.concatenate(keys)
    keys.sort()
    same = np.zeros(len(keys) + 1, bool)
    # Neighbours with one hash differ in the lowest bits only.
    np.less_equal(keys[1:] ^ keys[:-1], low, out=same[1:-1])
    keys = keys[same[1:] | same[:-1]]
    return keys & ~low, (keys & low).astype(np.int64)


def _mark_repeated(windows, hashes, places, repeated) -> None:
    """Sets `repeated` at windows that stand at an earlier place, given sorted hashes."""
    while len(hashes):
        begins = np.ones(len(hashes), bool)
        begins[1:] = hashes[1:] != hashes[:-1]
        first = places[begins][np.cumsum(begins) - 1]
        equal = _equal(windows, first, places)
        repeated[places[equal & (places - first >= windows.shape[1])]] = True
        # What differs from the first of its hash may equal another one of it.
        hashes, places = hashes[~equal], places[~equal]


def _equal(windows: np.ndarray, first: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns whether the windows at these places are the same text."""
    equal = first == places
    others = np.flatnonzero(~equal)
    step = max(1, _COMPARE // windows.shape[1])
    for start in range(0, len(others), step):
        some = others[start : start + step]
        equal[some] = (windows[first[some]] == windows[places[some]]).all(axis=1)
    return equal


def _spans(places, ends, lengths, length) -> np.ndarray:
    """Returns the spans that windows at these ascending places cover."""
    texts = np.searchsorted(ends, places, side="right")
    begins = np.ones(len(places), bool)
    begins[1:] = (np.diff(places) > length) | (np.diff(texts) > 0)
    last = np.roll(begins, -1)
    texts = texts[begins]
    offsets = (ends - lengths)[texts]
    return np.stack((texts, places[begins] - offsets, places[last] + length - offsets), axis=1)
