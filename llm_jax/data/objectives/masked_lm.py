"""Masked language modelling: some tokens are hidden, and asked for where they stood.

Devlin et al. 2018 (arXiv:1810.04805), with masks drawn anew each time that a row is read, as in
RoBERTa (Liu et al. 2019, arXiv:1907.11692).
"""

import dataclasses
import math

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data import packing
from llm_jax.data.objectives.text import Cut, TextObjective
from llm_jax.data.objectives.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class MaskedLM(TextObjective):
    """Some tokens of a row are hidden; the encoder predicts them.

    Attributes:
      name: of the objective.
      mask_rate: share of a row's tokens that are predicted.
      mask_token_rate: share of these that become "<mask>".
      random_token_rate: share of these that become a random piece; the others stay as they are.
      whole_word: hide whole words only, as many as the rate has room for.
    """

    name: str = "masked_lm"
    mask_rate: float = 0.15
    mask_token_rate: float = 0.8
    random_token_rate: float = 0.1
    whole_word: bool = False

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

    @property
    def symbols(self) -> tuple[str, ...]:
        """Special pieces that the tokenizer must have."""
        return ("<mask>",)

    def record_length(self, sequence_length: int) -> int:
        """Returns the tokens of a stored row."""
        return sequence_length

    def lengths(self, sequence_length: int) -> dict[str, int]:
        """Returns T of tokens, segment_ids and positions, P of picked, targets and weights."""
        return {
            "tokens": sequence_length,
            "picked": max(1, math.ceil(self.mask_rate * sequence_length)),
        }

    def make(self, cut: Cut) -> dict[str, np.ndarray]:
        """Hides tokens of rows.

        Returns:
          tokens [n, T] int32 with hidden ones replaced; segment_ids and positions [n, T] int32, see
          `packing.segments`; picked [n, P] int32, the places asked for in rising order; targets
          [n, P] int32, the tokens that stood there; weights [n, P] float32. `mask_rate` of a row's
          real tokens are asked for (rounded, at least one), of weight 1; the places behind them
          are 0 throughout. Whole words may come to fewer.
        """
        rows, lengths, randoms, vocabulary, sequence_length, cross_document_attention = cut
        width = self.lengths(sequence_length)["picked"]
        mask_id = vocabulary.symbol_ids(self.symbols)[0]
        real = np.arange(sequence_length) < lengths[:, None]
        rows = np.where(real, rows, 0).astype(np.int32)
        starts = (rows == vocabulary.bos_id) & real
        allowed = real & ~vocabulary.special[rows]
        budgets = np.maximum(1, np.rint(self.mask_rate * lengths)).astype(np.int64)
        budgets = np.minimum(budgets, allowed.sum(axis=1))

        # One draw orders the places, another says what becomes of each, a third what it may turn
        # into.
        shape = (3, sequence_length)
        order, fate, other = np.stack([random.random(shape) for random in randoms], axis=1)
        if self.whole_word:
            order = self._word_order(order, rows, allowed, budgets, vocabulary)
        # Places that may not be hidden come last. A stable order, so that ties mean one thing.
        order = np.where(allowed, order, 2.0)
        first = np.argsort(order, axis=1, kind="stable")[:, :width]
        if self.whole_word:
            budgets = (order <= 0).sum(axis=1)
        # Padding goes behind every place, and is turned into place 0 after sorting.
        taken = np.arange(first.shape[1]) < budgets[:, None]
        picked = np.sort(np.where(taken, first, sequence_length), axis=1)
        picked = np.where(taken, picked, 0)
        targets = np.where(taken, np.take_along_axis(rows, picked, 1), 0)

        fate, other = (np.take_along_axis(draw, picked, 1) for draw in (fate, other))
        text = np.flatnonzero(~vocabulary.special).astype(np.int32)
        chance = text[(other * len(text)).astype(np.int64)]
        hidden = np.where(fate < self.mask_token_rate + self.random_token_rate, chance, targets)
        hidden = np.where(fate < self.mask_token_rate, mask_id, hidden)
        tokens = rows.copy()
        row, slot = np.nonzero(taken)
        tokens[row, picked[row, slot]] = hidden[row, slot]
        if cross_document_attention:
            starts[:] = False
        return {
            "tokens": tokens,
            **packing.segments(starts, real),
            "picked": picked.astype(np.int32),
            "targets": targets,
            "weights": taken.astype(np.float32),
        }

    @staticmethod
    def _word_order(draws, rows, allowed, budgets, vocabulary: Vocabulary) -> np.ndarray:
        """Returns [n, T]: 0 on the words that are hidden, 1 elsewhere.

        Words come in random order; one that is too long for what is left is passed over.
        """
        joined = ~vocabulary.ends_word[rows[:, :-1]] & ~vocabulary.begins_word[rows[:, 1:]]
        joined &= allowed[:, :-1] & allowed[:, 1:]
        begins = allowed.copy()
        begins[:, 1:] &= ~joined
        order = np.ones(rows.shape)
        for row, (places, budget) in enumerate(zip(begins, budgets.tolist())):
            firsts = np.flatnonzero(places)
            words = np.cumsum(places) - 1
            sizes = np.bincount(words[allowed[row]], minlength=len(firsts)).tolist()
            for word in np.argsort(draws[row, firsts], kind="stable").tolist():
                if budget == 0:
                    break
                if sizes[word] <= budget:
                    budget -= sizes[word]
                    order[row, firsts[word] : firsts[word] + sizes[word]] = 0
        return order
