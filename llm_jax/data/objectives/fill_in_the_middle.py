"""Fill in the middle: a document's middle moves to its end, where a decoder learns to write it.

Bavarian et al. 2022 (arXiv:2207.14255), at context level: the documents are cut to rows first. The
places to cut are between tokens, not between characters.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data import packing
from llm_jax.data.objectives.text import Cut, TextObjective
from llm_jax.data.objectives.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class FillInTheMiddle(TextObjective):
    """Next-token prediction in which some documents have their middle moved to the end.

    With P, S, M for the three symbols, a document `prefix middle suffix` becomes
    `P prefix S suffix M middle` ("PSM"), or `P S suffix M prefix middle` ("SPM").

    Attributes:
      name: of the objective.
      rate: share of the documents (or of a document's parts in different rows) that are changed.
      spm_rate: share of these that become SPM.
    """

    overlap: ClassVar[int] = 1

    name: str = "fill_in_the_middle"
    rate: float = 0.5
    spm_rate: float = 0.5

    def __post_init__(self):
        for name in ("rate", "spm_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"objective.{name} is {getattr(self, name)}: give a share from 0 to 1"
                )

    @property
    def symbols(self) -> tuple[str, ...]:
        """Special pieces that the tokenizer must have."""
        return ("<fim_prefix>", "<fim_middle>", "<fim_suffix>")

    def record_length(self, sequence_length: int) -> int:
        """Returns the tokens of a stored row: its last is a target only."""
        return sequence_length + 1

    def lengths(self, sequence_length: int) -> dict[str, int]:
        """Returns T of every array."""
        return {"tokens": sequence_length}

    def make(self, cut: Cut) -> dict[str, np.ndarray]:
        """Moves middles.

        Returns:
          what `packing.unpack` does. A row is not longer than it was: what the symbols push out is
          lost at its end.
        """
        rows, lengths, randoms, vocabulary, _, cross_document_attention, _ = cut
        symbols = vocabulary.symbol_ids(self.symbols)
        changed = np.zeros_like(rows)
        for row, length, random, target in zip(rows, lengths, randoms, changed):
            if length:
                target[:length] = self._row(row[:length], symbols, vocabulary, random)[:length]
        return packing.unpack(
            changed,
            lengths,
            bos_id=vocabulary.bos_id,
            eos_id=vocabulary.eos_id,
            cross_document_attention=cross_document_attention,
        )

    def _row(self, row, symbols, vocabulary: Vocabulary, random) -> np.ndarray:
        """Returns `row` with its documents changed, longer by three symbols each."""
        pieces = []
        for part in np.split(row, np.flatnonzero(row == vocabulary.bos_id)):
            text = part[~vocabulary.special[part]]
            changed, spm = random.random(2) < (self.rate, self.spm_rate)
            if not (len(text) and changed):
                pieces.append(part)
                continue
            first = int(part[0] == vocabulary.bos_id)
            prefix, middle, suffix = np.split(text, np.sort(random.integers(len(text) + 1, size=2)))
            p, m, s = np.split(symbols, 3)
            order = (p, s, suffix, m, prefix, middle) if spm else (p, prefix, s, suffix, m, middle)
            pieces += [part[:first], *order, part[first + len(text) :]]
        return np.concatenate(pieces)
