"""Which tokens of a row are hidden together: each alone, whole words, or spans of words.

The units of a row are laid behind one another in random order, as a ring that is turned by chance;
those that begin in its first `budget` places are hidden. So every token is hidden with probability
`budget / tokens`, however long its unit is, and their mean number is the budget itself.
"""

import numpy as np

from llm_jax.data.objectives.vocabulary import Vocabulary

# Pieces of the longest word that is hidden. A span also ends before a word that begins so far on.
_WORD = 16
# Tokens of the longest unit.
LONGEST = {"token": 1, "word": _WORD, "span": 2 * _WORD - 1}
# Words of a span, SpanBERT's: geometric with p = 0.2, of those up to 10; 3.8 on average.
SPAN_LENGTHS = 0.2 * 0.8 ** np.arange(10)
SPAN_LENGTHS /= SPAN_LENGTHS.sum()


def num_draws(unit: str, length: int) -> int:
    """Returns the numbers from [0, 1) that `hidden` takes for a row of `length` tokens."""
    return {"token": length, "word": length + 1, "span": 2 * length + 1}[unit]


def hidden(
    unit: str,
    rows: np.ndarray,
    allowed: np.ndarray,
    budgets: np.ndarray,
    draws: np.ndarray,
    vocabulary: Vocabulary,
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses the tokens to hide.

    Args:
      unit: a key of `LONGEST`.
      rows: int32 [n, T].
      allowed: bool [n, T], the tokens that may be hidden; words longer than 16 are never.
      budgets: [n] how many are hidden, on average; of single tokens exactly.
      draws: float [n, num_draws(unit, T)], uniform.
      vocabulary: of the rows.

    Returns:
      bool [n, T], true on hidden tokens, at most `budget + LONGEST[unit] - 1` of a row; and
      int [n, T], where each one's unit begins.
    """
    places = np.arange(rows.shape[1])
    begins, start = allowed, np.broadcast_to(places, rows.shape)
    order, turn, lengths = np.split(draws, [len(places), len(places) + 1], axis=1)
    if unit != "token":
        begins, allowed = _words(rows, allowed, vocabulary)
        if unit == "span":
            begins = _spans(begins, allowed, lengths)
        start = _latest(begins)
        order = np.take_along_axis(order, start, 1)
    # Whole numbers, none of which comes twice, are sorted fast and in one way only.
    keys = (order * 2.0**42).astype(np.int64) * len(places) + places
    line = np.argsort(np.where(allowed, keys, np.iinfo(np.int64).max), axis=1)
    sizes = allowed.sum(axis=1, keepdims=True)
    ring = np.broadcast_to(places, line.shape)
    if unit != "token":  # where all are as long as each other, a turn changes nothing
        ring = _latest(np.take_along_axis(begins, line, 1)) + (turn * sizes).astype(np.int64)
        ring = np.where(ring < sizes, ring, ring - sizes)
    taken = (ring < budgets[:, None]) & (places < sizes)
    chosen = np.zeros(rows.shape, bool)
    np.put_along_axis(chosen, line, taken, 1)
    return chosen, start


def _words(rows, allowed, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Returns where words begin and which tokens are of words that are not too long."""
    joined = ~vocabulary.ends_word[rows[:, :-1]] & ~vocabulary.begins_word[rows[:, 1:]]
    begins = allowed.copy()
    begins[:, 1:] &= ~(joined & allowed[:, :-1])
    start = _latest(begins)
    number = np.arange(len(rows))[:, None] * rows.shape[1] + start
    sizes = np.bincount(number[allowed], minlength=rows.size)
    allowed = allowed & (sizes[number] <= _WORD)
    return begins & allowed, allowed


def _spans(words, allowed, draws) -> np.ndarray:
    """Returns where spans begin, of words that begin at `words`; no span crosses a gap."""
    count, length = words.shape
    sizes = 1 + np.searchsorted(SPAN_LENGTHS.cumsum()[:-1], draws, side="right")
    first = np.zeros((count, length + 1), bool)
    first[:, 0] = True
    np.put_along_axis(first, np.minimum(sizes.cumsum(axis=1), length), True, 1)
    begins = words & np.take_along_axis(first, np.maximum(words.cumsum(axis=1) - 1, 0), 1)
    begins[:, 1:] |= allowed[:, 1:] & ~allowed[:, :-1]
    part = (np.arange(length) - _latest(begins)) // _WORD
    before = np.take_along_axis(part, _latest(words)[:, :-1], 1)
    begins[:, 1:] |= words[:, 1:] & (part[:, 1:] != before)
    return begins


def _latest(begins: np.ndarray) -> np.ndarray:
    """Returns [n, T]: the last true place of `begins` up to each, 0 before the first."""
    return np.maximum.accumulate(np.where(begins, np.arange(begins.shape[1]), 0), axis=1)
