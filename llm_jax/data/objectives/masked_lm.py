"""Masked language modelling: some tokens are hidden, and asked for where they stood.

Devlin et al. 2018 (arXiv:1810.04805), with masks drawn anew each time that a row is read, as in
RoBERTa (Liu et al. 2019, arXiv:1907.11692), or kept, as BERT's own were; of tokens, of whole words
(BERT's release of 2019) or of spans of words (SpanBERT, Joshi et al. 2019, arXiv:1907.10529).
"""

import dataclasses
import math

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data import packing
from llm_jax.data.objectives import units
from llm_jax.data.objectives.text import Cut, TextObjective
from llm_jax.data.objectives.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class MaskedLM(TextObjective):
    """Some tokens of a row are hidden; the encoder predicts them.

    Attributes:
      name: of the objective.
      mask_rate: share of a row's tokens that are predicted; of words and spans the mean share.
      mask_token_rate: share of these that become "<mask>".
      random_token_rate: share of these that become a random piece; the others stay as they are.
      unit: what is hidden together: a "token", a whole "word", or a "span" of 1 to 10 words, all
        of which become the same (masks, random pieces, or what they were).
      static_copies: 0 draws masks anew each time that a row is read. A number: each row has so
        many masks for good, which its epochs take in turn; BERT's data had 10.
    """

    name: str = "masked_lm"
    mask_rate: float = 0.15
    mask_token_rate: float = 0.8
    random_token_rate: float = 0.1
    unit: str = "token"
    static_copies: int = 0

    def __post_init__(self):
        if not 0 < self.mask_rate < 1:
            raise ConfigError(
                f"objective.mask_rate is {self.mask_rate}: give a share between 0 and 1"
            )
        rates = (self.mask_token_rate, self.random_token_rate)
        if min(rates) < 0 or sum(rates) > 1 + 1e-9:
            raise ConfigError(
                f"objective.mask_token_rate and random_token_rate are {rates[0]} and {rates[1]}: "
                "give shares of 0 or more with a sum of at most 1"
            )
        if self.unit not in units.LONGEST:
            raise ConfigError(
                f"objective.unit is {self.unit!r}: choose one of {', '.join(units.LONGEST)}"
            )
        if self.static_copies < 0:
            raise ConfigError(f"objective.static_copies is {self.static_copies}: give 0 or more")

    @property
    def symbols(self) -> tuple[str, ...]:
        """Special pieces that the tokenizer must have."""
        return ("<mask>",)

    def record_length(self, sequence_length: int) -> int:
        """Returns the tokens of a stored row."""
        return sequence_length

    def lengths(self, sequence_length: int) -> dict[str, int]:
        """Returns T of tokens, segment_ids and positions, P of picked, targets and weights."""
        picked = math.ceil(self.mask_rate * sequence_length) + units.LONGEST[self.unit] - 1
        return {"tokens": sequence_length, "picked": min(max(1, picked), sequence_length)}

    def make(self, cut: Cut) -> dict[str, np.ndarray]:
        """Hides tokens of rows.

        Returns:
          what `hide` does; segment_ids and positions [n, T] int32, see `packing.segments`.
        """
        rows, lengths, vocabulary = cut.rows, cut.lengths, cut.vocabulary
        real = np.arange(cut.sequence_length) < lengths[:, None]
        starts = (rows == vocabulary.bos_id) & real
        if cut.cross_document_attention:
            starts[:] = False
        return self.hide(rows, lengths, cut.randoms, vocabulary) | packing.segments(starts, real)

    def hide(self, rows, lengths, randoms, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
        """Hides tokens of rows.

        Args:
          rows: int32 [n, T].
          lengths: [n] how many of a row's tokens are real.
          randoms: a generator for each row.
          vocabulary: of the ids.

        Returns:
          tokens [n, T] int32 with hidden ones replaced; picked [n, P] int32, the places asked for
          in rising order; targets [n, P] int32, the tokens that stood there; weights [n, P]
          float32. `mask_rate` of a row's real tokens are asked for (rounded, at least one; of
          words and spans on average), of weight 1; the places behind them are 0 throughout.
        """
        count, length = rows.shape
        mask_id = vocabulary.symbol_ids(self.symbols)[0]
        real = np.arange(length) < lengths[:, None]
        rows = np.where(real, rows, 0).astype(np.int32)
        allowed = real & ~vocabulary.special[rows]
        budgets = np.maximum(1, np.rint(self.mask_rate * lengths)).astype(np.int64)
        budgets = np.minimum(budgets, allowed.sum(axis=1))

        # One draw orders the places, another says what becomes of each, a third what it may turn
        # into; the further ones are those of units.
        total = 2 * length + units.num_draws(self.unit, length)
        draws = np.stack([random.random(total) for random in randoms])
        order, fate, other, more = np.split(draws, np.arange(1, 4) * length, axis=1)
        order = np.concatenate([order, more], axis=1)
        chosen, start = units.hidden(self.unit, rows, allowed, budgets, order, vocabulary)
        if self.unit == "span":
            fate = np.take_along_axis(fate, start, 1)
        text = np.flatnonzero(~vocabulary.special).astype(np.int32)
        chance = text[(other[chosen] * len(text)).astype(np.int64)]
        fate, targets = fate[chosen], rows[chosen]
        new = np.where(fate < self.mask_token_rate + self.random_token_rate, chance, targets)
        tokens = rows.copy()
        tokens[chosen] = np.where(fate < self.mask_token_rate, mask_id, new)

        row, place = np.nonzero(chosen)
        slot = (chosen.cumsum(axis=1) - 1)[chosen]
        shape = (count, self.lengths(length)["picked"])
        filled = {
            "picked": np.zeros(shape, np.int32),
            "targets": np.zeros(shape, np.int32),
            "weights": np.zeros(shape, np.float32),
        }
        for array, values in zip(filled.values(), (place, targets, 1)):
            array[row, slot] = values
        return {"tokens": tokens, **filled}
