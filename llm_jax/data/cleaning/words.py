"""Word lists: which of many thousand listed terms stand in a text, English and Chinese.

A term stands in a text where its characters do, whatever their case, and where no word goes on at
either of its ends: `class` is not in "classic". Chinese writes no spaces, so that a term of Chinese
characters stands anywhere, but inside an allowed, longer word. Lists are the user's own files.

Search: the first characters of every place are hashed with numpy into one table of the terms'
beginnings; the few places that fit are looked up. With 5,000 terms this is some 7 times as fast on
English text as Aho-Corasick in Python, and 15 times on Chinese.
"""

import dataclasses
import functools
from bisect import bisect
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.cleaning.personal import Span

# A term is looked up by as many of its first characters as it has.
_PREFIXES = (1, 2, 4, 8)
_TABLE_BITS = 20
# From here on scripts write no spaces between words (Chinese, Japanese).
_WITHOUT_SPACES = 0x2E80
_IN_WORD = np.array([chr(c).isalnum() or c == ord("_") for c in range(_WITHOUT_SPACES)] + [False])


@dataclasses.dataclass(frozen=True)
class WordList:
    """Terms, and allowed words in which they may stand.

    Attributes:
      terms: what is looked for.
      allow: words that only contain a term: wholly inside one of them it does not count.
    """

    terms: frozenset[str]
    allow: frozenset[str] = frozenset()

    def __post_init__(self):
        for name in ("terms", "allow"):
            folded = frozenset(fold(term.strip()) for term in getattr(self, name))
            object.__setattr__(self, name, folded - {""})

    @classmethod
    def load(cls, paths: Iterable[str | Path], allow: Iterable[str] = ()) -> "WordList":
        """Reads terms from UTF-8 files, one a line; lines that begin with `#` are comments.

        Raises:
          ConfigError: a file that cannot be read or is not UTF-8, or no term in all of them.
        """
        paths, terms = [Path(path) for path in paths], []
        for path in paths:
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except OSError as error:
                raise ConfigError(
                    f"the word list {path} cannot be read ({error.strerror}): give a file with one "
                    "term a line"
                ) from None
            except UnicodeDecodeError as error:
                raise ConfigError(
                    f"the word list {path} is not UTF-8 (byte {error.start}): convert it to UTF-8"
                ) from None
            terms += [line for line in lines if not line.lstrip().startswith("#")]
        words = cls(frozenset(terms), frozenset(allow))
        if not words.terms:
            raise ConfigError(
                f"the word lists ({', '.join(map(str, paths))}) hold no terms: give files with one "
                "term a line"
            )
        return words

    def find(self, text: str) -> list[Span]:
        """Returns where terms stand in `text`, in order; each span's kind is its term, folded.

        Of those that overlap the longest stays, of equal ones the first.
        """
        folded = fold(text)
        found = self._term_index.search(folded)
        if not found:
            return []
        allowed = self._allow_index.search(folded) if self.allow else []
        # The end that allowed words reach which begin at or before a place.
        starts = [start for start, _ in allowed]
        reach = np.maximum.accumulate([end for _, end in allowed]) if allowed else []
        kept: list[Span] = []
        for start, end in sorted(found, key=lambda span: (span[0] - span[1], span[0])):
            before = bisect(starts, start)
            if before and reach[before - 1] >= end:
                continue
            span = Span(start, end, folded[start:end])
            place = bisect(kept, span)
            free_before = not place or kept[place - 1].end <= start
            if free_before and (place == len(kept) or end <= kept[place].start):
                kept.insert(place, span)
        return kept

    def rejects(
        self, text: str, *, max_hits: int | None = None, max_share: float | None = None
    ) -> bool:
        """Whether `text` has more terms than a document may.

        Args:
          text: the document.
          max_hits: the most terms that it may have, each place counted.
          max_share: the largest share of its characters that may be terms; at least one is given.
        """
        if max_hits is None and max_share is None:
            raise ConfigError("max_hits and max_share are both None: give one of them")
        spans = self.find(text)
        if max_hits is not None and len(spans) > max_hits:
            return True
        covered = sum(span.end - span.start for span in spans)
        return max_share is not None and covered > max_share * len(text)

    @functools.cached_property
    def _term_index(self) -> "_Index":
        return _Index(self.terms)

    @functools.cached_property
    def _allow_index(self) -> "_Index":
        return _Index(self.allow)


def fold(text: str) -> str:
    """Returns `text` without case and line breaks; the length, and so each place, stays."""
    # The one character whose lower case is two.
    return text.replace("\u0130", "i").lower().replace("\n", " ").replace("\t", " ")


class _Index:
    """Finds every place of every term."""

    def __init__(self, terms: frozenset[str]):
        self._terms = terms
        # Of each prefix the lengths of its terms.
        self._lengths: dict[str, list[int]] = {}
        sizes = {term: max(size for size in _PREFIXES if size <= len(term)) for term in terms}
        for length, prefix in sorted({(len(t), t[:size]) for t, size in sizes.items()}):
            self._lengths.setdefault(prefix, []).append(length)
        self._tables = {size: np.zeros(1 << _TABLE_BITS, bool) for size in sizes.values()}
        for prefix in self._lengths:
            *_, (size, place) = _hashes(_codes(prefix))
            self._tables[size][place] = True

    def search(self, text: str) -> list[tuple[int, int]]:
        """Returns (start, end) of all terms in the folded `text`, in order."""
        codes = _codes(text)
        in_word = _IN_WORD[np.minimum(codes, _WITHOUT_SPACES)]
        # Whether a word goes on from the character before a place.
        inside = np.zeros(len(codes) + 1, bool)
        inside[1:-1] = in_word[1:] & in_word[:-1]
        found = []
        for size, places in _hashes(codes):
            if size not in self._tables:
                continue
            fits = self._tables[size][places] & ~inside[: len(places)]
            for start in np.flatnonzero(fits).tolist():
                for length in self._lengths.get(text[start : start + size], ()):
                    end = start + length
                    if end <= len(text) and not inside[end] and text[start:end] in self._terms:
                        found.append((start, end))
        return sorted(found)


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _hashes(codes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (size, hashes below 2**_TABLE_BITS of each `size` codes in a row) for _PREFIXES."""
    mixed = codes * np.uint32(0x9E3779B1)
    for size in _PREFIXES:
        if len(codes) < size:
            return
        if size > 1:
            mixed = mixed[: -size // 2] * np.uint32(0x85EBCA6B) + mixed[size // 2 :]
        yield size, mixed >> np.uint32(32 - _TABLE_BITS)
