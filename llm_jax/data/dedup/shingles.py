"""Words and their n-grams (shingles) as 64-bit hashes, for many documents at a time.

A word is a run of letters, digits, combining marks and underscores, in NFC and lower case; white
space and punctuation only separate. Scripts that write no spaces between words (Han, kana, Thai,
Lao, Burmese, Khmer) give one word a character, so that shingles there are of characters. A
document with fewer words than a shingle has one shingle, of all its words; without words, none.

The text of many documents is one array of code points. A word's hash is the polynomial
`sum(c_i * B^i)` modulo 2^64 (Karp and Rabin, 1987), summed for all words at once with the powers
counted from the array's start and divided out again (B is odd, so it has an inverse), and then
mixed by the finalizer of SplitMix64 (Steele, Lea and Flood, 2014). Nothing depends on Python's
hash seed or on the machine.
"""

import functools
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

# Characters that are hashed at a time: the arrays then stay in the processor's cache.
_PIECE = 1 << 16
_BASE = 0x9E3779B97F4A7C15
_ALONE = np.uint32(1 << 31)
_CODE_POINT = np.uint32((1 << 21) - 1)
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # iteration mark, zero
    (0x3040, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # half-width kana
    (0x1AFF0, 0x1B16F),
    (0x20000, 0x3FFFF),
)


def mix(hashes: np.ndarray) -> np.ndarray:
    """Returns a bijection of uint64 in which every bit depends on every bit (SplitMix64)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns B^0 .. B^(count - 1) and their inverses modulo 2^64, both uint64 [count]."""
    tables = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        table = np.full(count, base, np.uint64)
        table[:1] = 1
        tables.append(np.cumprod(table, dtype=np.uint64))
    return tables[0], tables[1]


def word_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes the words of each text.

    Of a text with more than 65,536 characters on end without white space, a word that lies across
    that limit counts as two.

    Args:
      texts: n texts.

    Returns:
      uint64 [words], those of one text after the other; int64 [n], the words of each.
    """
    hashes, counts = [], np.zeros(len(texts), np.int64)
    for parts, owners in _blocks(texts):
        block, words = _hash_block(parts)
        hashes.append(block)
        np.add.at(counts, owners, words)
    return np.concatenate(hashes) if hashes else np.zeros(0, np.uint64), counts


def shingle_hashes(
    words: np.ndarray, counts: np.ndarray, ngram: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hashes every run of `ngram` words within a document.

    Args:
      words: uint64 [words], of documents one after the other.
      counts: int64 [n], the words of each.
      ngram: words of a shingle, 1 or more.

    Returns:
      uint64 [shingles], in order, repeated ones included; int64 [n], the shingles of each document.
    """
    kept = np.minimum(np.maximum(counts - ngram + 1, 1), counts)
    ends = np.cumsum(counts)
    shift = (ends - counts) - (np.cumsum(kept) - kept)
    first = np.arange(kept.sum()) + np.repeat(shift, kept)
    short = bool(((counts > 0) & (counts < ngram)).any())
    end = np.repeat(ends, kept) if short else None
    hashes = words[first]
    for step in range(1, ngram):
        following = words.take(first + step, mode="clip")
        if short:
            following[first + step >= end] = 0
        hashes = hashes * np.uint64(_BASE) + following
    return mix(hashes), kept


def shingle_sets(texts: Sequence[str], ngram: int) -> list[np.ndarray]:
    """Returns for each text the hashes of its shingles, sorted, each once: uint64 arrays."""
    hashes, counts = shingle_hashes(*word_hashes(texts), ngram)
    sets = []
    for own in np.split(hashes, np.cumsum(counts)[:-1]) if len(texts) else []:
        own = np.sort(own)
        fresh = np.ones(len(own), bool)
        np.not_equal(own[1:], own[:-1], out=fresh[1:])
        sets.append(own[fresh])
    return sets


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Returns |A and B| / |A or B| of two of `shingle_sets`; 0 where both are empty."""
    both = np.concatenate((first, second))
    if not both.size:
        return 0.0
    both.sort()
    common = np.count_nonzero(both[1:] == both[:-1])
    return common / (both.size - common)


def _blocks(texts: Sequence[str]) -> Iterator[tuple[list[str], list[int]]]:
    """Yields parts of texts, at most _PIECE characters in all, and whose they are."""
    parts, owners, held = [], [], 0
    for owner, text in enumerate(texts):
        for part in _parts(_folded(text)):
            if held + len(part) + 1 > _PIECE and parts:
                yield parts, owners
                parts, owners, held = [], [], 0
            parts.append(part)
            owners.append(owner)
            held += len(part) + 1
    if parts:
        yield parts, owners


def _folded(text: str) -> str:
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).lower()


def _parts(text: str) -> Iterator[str]:
    """Cuts a long text after white space, so that a word stays whole."""
    start, limit = 0, _PIECE - 1
    while len(text) - start > limit:
        stop = start + limit
        cut = 1 + max(text.rfind(" ", start, stop), text.rfind("\n", start, stop))
        cut = cut or stop
        yield text[start:cut]
        start = cut
    yield text[start:]


def _hash_block(parts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    text = "\n".join((*parts, ""))
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    letters = _letters().take(codes, mode="clip")
    inside = letters != 0
    alone = letters >= _ALONE
    begins = inside.copy()
    begins[1:] &= ~inside[:-1] | alone[1:] | alone[:-1]
    begins = np.flatnonzero(begins)
    power, inverse = _block_powers()
    sums = np.cumsum(power[: len(letters)] * (letters & _CODE_POINT))
    # All that stands between a word and the next one is 0: it ends where that begins.
    sums = np.append(sums[begins[1:] - 1], sums[-1])
    hashes = mix(np.diff(sums, prepend=np.uint64(0)) * inverse[begins])
    ends = np.cumsum([len(part) + 1 for part in parts])
    return hashes, np.diff(np.searchsorted(begins, ends), prepend=0)


@functools.cache
def _block_powers() -> tuple[np.ndarray, np.ndarray]:
    return powers(_PIECE)


@functools.cache
def _letters() -> np.ndarray:
    """Returns uint32 [0x110000]: a character of words as itself, marked if alone; another as 0."""
    table = np.zeros(0x110000, np.uint32)
    word = [code for code in range(0x40000) if unicodedata.category(chr(code))[0] in "LMN"]
    table[[*word, ord("_")]] = [*word, ord("_")]
    for first, last in _UNSPACED:
        table[first : last + 1][table[first : last + 1] > 0] |= _ALONE
    return table
