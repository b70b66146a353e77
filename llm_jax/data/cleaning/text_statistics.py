"""What the quality rules measure in a document: each statistic when it is asked for, and once.

Tokens. A word is a run of letters, digits and underscores, with a point, comma or apostrophe inside
it ("3.14", "don't"); a Han or kana character is a word by itself, since Chinese and Japanese write
no blanks; any other character but a blank is a sign, and so is a run of hyphens or points. `tokens`
holds words and signs: what spaCy's English tokenizer, which datatrove uses, does in more detail.

Definitions are those of datatrove 0.10.1 (`GopherQualityFilter`, `GopherRepetitionFilter`,
`FineWebQualityFilter`), so that verdicts agree; papers leave most of them open.

n-grams are compared exactly, without hashing: an n-gram that occurs twice begins and ends with
(n-1)-grams that do, so each length is looked for only where the one before was found.
"""

# ruff: noqa: RUF001 (full-width punctuation belongs to Chinese text)

import re
from collections import Counter
from functools import cached_property

import numpy as np

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
TERMINAL_PUNCTUATION = frozenset(".?!。！？．｡‼⁇⁈⁉؟۔।॥።។")
SHORT_LINE_CHARACTERS = 30

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_CJK_CHARACTER = re.compile(f"[{_CJK}]")
TOKEN = re.compile(rf"[^\W{_CJK}]+(?:['’.,][^\W{_CJK}]+)*|-+|\.+|\S")
# The same of ASCII text, in half the time.
_ASCII_TOKEN = re.compile(r"\w+(?:['.,]\w+)*|-+|\.+|\S", re.ASCII)
_LINE_ENDS = re.compile("\n+")
_PARAGRAPH_ENDS = re.compile("\n{2,}")
# Where a sentence ends and another begins in the same line.
SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*[^\S\n]+(?=\S)|[。！？][\"'”’）」』]*(?=[^\s。！？])")
_BULLETS = ("•", "-")
_ELLIPSES = ("...", "…")


def cjk_characters(text: str) -> int:
    """Returns how many Han and kana characters `text` has."""
    return 0 if text.isascii() else len(_CJK_CHARACTER.findall(text))


def tokenize(text: str) -> list[str]:
    """Returns the words and signs of `text` in order."""
    return (_ASCII_TOKEN if text.isascii() else TOKEN).findall(text)


class Statistics:
    """The statistics of one document; a fraction of nothing is 0."""

    def __init__(self, text: str):
        self.text = text

    @cached_property
    def tokens(self) -> list[str]:
        """Words and signs in order."""
        return tokenize(self.text)

    @cached_property
    def _counts(self) -> Counter:
        return Counter(self.tokens)

    @cached_property
    def _lines(self) -> list[str]:
        """The lines that are not blank."""
        return [line for line in self.text.split("\n") if line and not line.isspace()]

    @cached_property
    def _all_lines(self) -> list[str]:
        return self.text.splitlines()

    # C4.

    @property
    def lorem_ipsum(self) -> int:
        """How often "lorem ipsum" stands in the text, in any case."""
        return self.text.lower().count("lorem ipsum")

    @property
    def curly_brackets(self) -> int:
        """How many "{" the text has."""
        return self.text.count("{")

    @property
    def sentences(self) -> int:
        """Sentences: each line that is not blank ends one; so does terminal punctuation in it."""
        return len(self._lines) + len(SENTENCE_END.findall(self.text))

    # Gopher, quality.

    @cached_property
    def words(self) -> int:
        """Tokens with a letter or a digit."""
        return sum(count for token, count in self._counts.items() if _has(str.isalnum, token))

    @property
    def mean_word_length(self) -> float:
        """Characters of a word."""
        counts = self._counts.items()
        length = sum(len(token) * count for token, count in counts if _has(str.isalnum, token))
        return _fraction(length, self.words)

    @property
    def hashes_per_token(self) -> float:
        """The signs "#" for each token."""
        return _fraction(self.text.count("#"), len(self.tokens))

    @property
    def ellipses_per_token(self) -> float:
        """Ellipses ("..." or "…") for each token."""
        return _fraction(sum(map(self.text.count, _ELLIPSES)), len(self.tokens))

    @property
    def bullet_lines(self) -> float:
        """The fraction of lines, blank ones counted, that begin with a bullet ("•" or "-")."""
        bullets = sum(line.lstrip().startswith(_BULLETS) for line in self._all_lines)
        return _fraction(bullets, len(self._all_lines))

    @property
    def ellipsis_lines(self) -> float:
        """The fraction of lines, blank ones counted, that end with an ellipsis."""
        ellipses = sum(line.rstrip().endswith(_ELLIPSES) for line in self._all_lines)
        return _fraction(ellipses, len(self._all_lines))

    @property
    def alphabetic_tokens(self) -> float:
        """The fraction of tokens with a letter."""
        counts = self._counts.items()
        alphabetic = sum(count for token, count in counts if _has(str.isalpha, token))
        return _fraction(alphabetic, len(self.tokens))

    @property
    def stop_words(self) -> int:
        """How many of Gopher's eight stop words the text has, as they are written there."""
        return sum(word in self._counts for word in STOP_WORDS)

    # Gopher, repetition: fractions of the lines or paragraphs, and of the text's characters.

    @cached_property
    def _line_repeats(self) -> tuple[float, float]:
        return self._repeats(_LINE_ENDS.split(self.text))

    @cached_property
    def _paragraph_repeats(self) -> tuple[float, float]:
        return self._repeats(_PARAGRAPH_ENDS.split(self.text.strip()))

    def _repeats(self, parts: list[str]) -> tuple[float, float]:
        count, characters = _repeated(parts)
        return _fraction(count, len(parts)), _fraction(characters, len(self.text))

    @property
    def duplicate_paragraphs(self) -> float:
        """The fraction of paragraphs that stood before."""
        return self._paragraph_repeats[0]

    @property
    def duplicate_paragraph_characters(self) -> float:
        """The fraction of the text's characters in paragraphs that stood before."""
        return self._paragraph_repeats[1]

    @property
    def duplicate_lines(self) -> float:
        """The fraction of lines that stood before."""
        return self._line_repeats[0]

    @property
    def duplicate_line_characters(self) -> float:
        """The fraction of the text's characters in lines that stood before."""
        return self._line_repeats[1]

    @cached_property
    def _token_ends(self) -> np.ndarray:
        """[tokens + 1] int64: the characters of all tokens before each, and of all."""
        lengths = np.fromiter(map(len, self.tokens), np.int64, len(self.tokens))
        return np.concatenate(([0], np.cumsum(lengths)))

    @cached_property
    def _n_grams(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """By n: where the n-grams that occur more than once begin, and a number for each kind."""
        number = dict(zip(self._counts, range(len(self._counts))))
        kinds = np.fromiter(map(number.__getitem__, self.tokens), np.int64, len(self.tokens))
        return {1: (np.arange(len(kinds)), kinds)}

    def _repeated_n_grams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        if n not in self._n_grams:
            begins, kinds = self._repeated_n_grams(n - 1)
            if len(begins):
                follow = np.flatnonzero(begins[1:] == begins[:-1] + 1)
                keys = kinds[follow] * (kinds.max() + 1) + kinds[follow + 1]
                repeated, kinds = _recurring(keys)
                begins = begins[follow[repeated]]
            self._n_grams[n] = begins, kinds
        return self._n_grams[n]

    def top_n_gram(self, n: int) -> float:
        """The fraction of characters in the most frequent n-gram, single blanks inside it counted.

        Of several as frequent it is the first.
        """
        if len(self.tokens) < n:
            return 0.0
        begins, kinds = self._repeated_n_grams(n)
        begin, count = 0, 1
        if len(begins):
            counts = np.bincount(kinds)
            count = int(counts.max())
            begin = int(begins[np.argmax(counts[kinds] == count)])
        length = int(self._token_ends[begin + n] - self._token_ends[begin]) + n - 1
        return _fraction(length * count, len(self.text))

    def duplicate_n_grams(self, n: int) -> float:
        """The fraction of characters in n-grams that stood before, none counted twice."""
        begins, kinds = self._repeated_n_grams(n)
        ends, seen, characters, free = self._token_ends, set(), 0, 0
        for begin, kind in zip(begins.tolist(), kinds.tolist()):
            if begin < free:
                continue
            if kind in seen:
                characters += int(ends[begin + n] - ends[begin])
                free = begin + n
            else:
                seen.add(kind)
        return _fraction(characters, len(self.text))

    # FineWeb: lines that are not blank.

    @property
    def punctuated_lines(self) -> float:
        """The fraction of lines that end with terminal punctuation, of any script."""
        ended = sum(line[-1] in TERMINAL_PUNCTUATION for line in self._lines)
        return _fraction(ended, len(self._lines))

    @property
    def short_lines(self) -> float:
        """The fraction of lines of at most SHORT_LINE_CHARACTERS."""
        short = sum(len(line) <= SHORT_LINE_CHARACTERS for line in self._lines)
        return _fraction(short, len(self._lines))

    @property
    def repeated_line_characters(self) -> float:
        """The fraction of characters, line ends left out, in lines that stood before."""
        characters = len(self.text) - self.text.count("\n")
        return _fraction(_repeated(self._lines)[1], characters)

    @property
    def line_ends_per_token(self) -> float:
        """Line ends for each token."""
        return _fraction(self.text.count("\n"), len(self.tokens))


def _has(kind, token: str) -> bool:
    return kind(token) or any(map(kind, token))


def _fraction(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _recurring(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the keys stand that occur more than once, ascending, and their ranks [same]."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    new = np.ones(len(keys) + 1, bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:-1])
    again = np.flatnonzero(~(new[:-1] & new[1:]))
    if not len(again):
        return again, again
    ranks = np.empty(len(keys), np.int64)
    ranks[order] = np.cumsum(new[:-1]) - 1
    places = np.sort(order[again])
    return places, ranks[places]


def _repeated(parts: list[str]) -> tuple[int, int]:
    """Returns how many `parts` are equal to an earlier one, and their characters."""
    unique = set(parts)
    if len(unique) == len(parts):
        return 0, 0
    return len(parts) - len(unique), sum(map(len, parts)) - sum(map(len, unique))
