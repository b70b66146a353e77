"""Sentence pairs: hidden tokens, and whether the second part of a text belongs behind the first.

Next-sentence prediction (Devlin et al. 2018, arXiv:1810.04805, section 3.1) and sentence-order
prediction (ALBERT, Lan et al. 2019, arXiv:1909.11942, section 3.1).
"""

import dataclasses
from typing import ClassVar

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.objectives.masked_lm import MaskedLM
from llm_jax.data.objectives.text import Cut
from llm_jax.data.packing import HEADER


@dataclasses.dataclass(frozen=True)
class NextSentence(MaskedLM):
    """Masked language modelling over `[CLS] A [SEP] B [SEP]`, and one question about the pair.

    A and B are whole sentences of one document, which is cut between two of them. In half of the
    rows, by chance, B is replaced. It is as long as what it replaces, and where it has to be
    shorter the others are shortened alike: lengths say nothing about the label.

    Attributes:
      name: of the objective.
      pair_task: "next": a wrong B is of another document, and begins with a sentence of it;
        "order": A and B change places.
    """

    by_document: ClassVar[bool] = True

    name: str = "next_sentence"
    pair_task: str = "next"

    def __post_init__(self):
        super().__post_init__()
        if self.pair_task not in ("next", "order"):
            raise ConfigError(
                f"objective.pair_task is {self.pair_task!r}: choose 'next' or 'order'"
            )

    @property
    def needs_others(self) -> bool:
        """Whether an example takes a record of another document besides."""
        return self.pair_task == "next"

    def record_length(self, sequence_length: int) -> int:
        """Returns the tokens of a stored record: its document's number, and text without marks."""
        if sequence_length < 5:
            raise ConfigError(
                f"data.sequence_length is {sequence_length}: sentence pairs want 5 or more tokens"
            )
        return HEADER + sequence_length - 3

    def make(self, cut: Cut) -> dict[str, np.ndarray]:
        """Makes pairs.

        Returns:
          what `MaskedLM.hide` does, of `[CLS] A [SEP] B [SEP]`; token_types [n, T] int32, 1 on B
          and the mark behind it; segment_ids [n, T] int32, 1 where real; positions [n, T] int32;
          labels [n] int32, 0 where B belongs there and 1 where it does not. A record of less than
          two tokens has weight 0 throughout.
        """
        vocabulary, randoms = cut.vocabulary, list(cut.randoms)
        label, *chances = np.array([random.random(3) for random in randoms]).T
        rows, sizes = cut.rows[:, HEADER:], cut.lengths - HEADER
        others, other_sizes = rows, sizes
        if self.needs_others:
            others, other_sizes = cut.others[0][:, HEADER:], cut.others[1] - HEADER
        good = sizes >= 2

        # A has so many tokens; B takes up to what the row or the other one has.
        places = np.arange(rows.shape[1])
        ends = vocabulary.line_ends[rows]
        inside = (places > 0) & (places < sizes[:, None])
        sentence = inside & np.roll(ends, 1, axis=1)
        cuts = np.where(sentence.any(axis=1, keepdims=True), sentence, inside)
        first = _one_of(cuts, chances[0])
        second = np.minimum(sizes - first, other_sizes)
        wrong = label < 0.5
        starts = np.stack([np.zeros_like(first), first])
        counts = np.stack([first, second])
        if self.needs_others:
            begins = np.roll(vocabulary.line_ends[others], 1, axis=1) | (places == 0)
            begins &= places <= (other_sizes - second)[:, None]
            replaced = rows.shape[1] + _one_of(begins, chances[1])
            starts[1] = np.where(wrong, replaced, first)
        else:
            starts, counts = (np.where(wrong, x[::-1], x) for x in (starts, counts))
        tokens, lengths, types = _joined(
            np.concatenate([rows, others], axis=1), starts, np.where(good, counts, 0),
            cut.sequence_length, vocabulary,
        )  # fmt: skip
        lengths = np.where(good, lengths, 0)
        real = np.arange(cut.sequence_length) < lengths[:, None]
        return {
            **self.hide(tokens, lengths, randoms, vocabulary),
            "token_types": (types & real).astype(np.int32),
            "segment_ids": real.astype(np.int32),
            "positions": (np.arange(cut.sequence_length) * real).astype(np.int32),
            "labels": (wrong & good).astype(np.int32),
        }


def _one_of(places: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Returns [n]: in each row of bool `places [n, W]` a true one, all equally likely, or 0."""
    counts = places.cumsum(axis=1)
    number = 1 + (chance * counts[:, -1]).astype(np.int64)
    return (counts == number[:, None]).argmax(axis=1)


def _joined(source, starts, counts, length: int, vocabulary):
    """Returns `[CLS] A [SEP] B [SEP]` of two parts of each row.

    Args:
      source: int32 [n, W].
      starts, counts: [2, n], where A and B begin in a row, and their tokens.
      length: T.
      vocabulary: of the ids.

    Returns:
      tokens int32 [n, T], lengths [n], and bool [n, T], true behind A's mark.
    """
    (start_a, start_b), (a, b) = starts[..., None], counts[..., None]
    places = np.arange(length)
    behind = places >= a + 2
    place = np.where(behind, places - (a + 2) + start_b, places - 1 + start_a)
    tokens = np.take_along_axis(source, np.clip(place, 0, source.shape[1] - 1), 1)
    tokens = np.where(places == 0, vocabulary.bos_id, tokens)
    marks = (places == a + 1) | (places == a + b + 2)
    return np.where(marks, vocabulary.eos_id, tokens), (a + b + 3)[:, 0], behind
