"""Denoising: spans become one mask each, sentences change places, and the text is asked for.

BART's text infilling and sentence permutation; Lewis et al. 2019 (arXiv:1910.13461), section 2.2.
"""

import dataclasses

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.objectives.seq2seq import pad_pairs
from llm_jax.data.objectives.text import Cut, TextObjective


@dataclasses.dataclass(frozen=True)
class Denoising(TextObjective):
    """A row's text is spoilt; the decoder writes the whole of it.

    The marks between a row's documents are left out; sentences stay in their document. What the
    tokenizer puts before a text (BART's <s>) comes first in source and target; what that pushes out
    is lost at the row's end.

    Attributes:
      name: of the objective.
      mask_rate: share of a row's tokens that are masked.
      mean_span_length: tokens of a span, Poisson distributed; one of 0 tokens adds a mask.
      permute_sentences: shuffle the sentences (or lines) of each document.
    """

    name: str = "denoising"
    mask_rate: float = 0.3
    mean_span_length: float = 3.0
    permute_sentences: bool = True

    def __post_init__(self):
        if not 0 <= self.mask_rate <= 0.5:
            raise ConfigError(
                f"objective.mask_rate is {self.mask_rate}: give a share from 0 to 0.5"
            )
        if self.mean_span_length < 1:
            raise ConfigError(
                f"objective.mean_span_length is {self.mean_span_length}: give 1 or more tokens"
            )

    @property
    def symbols(self) -> tuple[str, ...]:
        """Special pieces that the tokenizer must have."""
        return ("<mask>",)

    def record_length(self, sequence_length: int) -> int:
        """Returns the tokens of a stored row: one less than S, for EOS."""
        if sequence_length < 2:
            raise ConfigError(
                f"data.sequence_length is {sequence_length}: denoising wants 2 or more tokens"
            )
        return sequence_length - 1

    def lengths(self, sequence_length: int) -> dict[str, int]:
        """Returns S of source and source_mask, D of targets and weights."""
        return {"source": sequence_length, "targets": sequence_length}

    def make(self, cut: Cut) -> dict[str, np.ndarray]:
        """Spoils rows.

        Returns:
          what `pad_pairs` does; source and target end in EOS. A source is never longer than its
          target. A row without text has weight 0.
        """
        rows, lengths, randoms, vocabulary, sequence_length, *_ = cut
        mask_id = vocabulary.symbol_ids(self.symbols)[0]
        before = np.array(vocabulary.before, np.int32)
        room = sequence_length - 1 - len(before)
        pairs = []
        for row, length, random in zip(rows, lengths, randoms):
            row = row[:length]
            keep = ~vocabulary.special[row]
            text = row[keep][:room]
            if not len(text):
                pairs.append((text, text))
                continue
            spoilt = text
            if self.permute_sentences:
                documents = np.cumsum(row == vocabulary.bos_id)[keep][:room]
                spoilt = _permute(text, documents, vocabulary.line_ends, random)
            spoilt = self._infill(spoilt, mask_id, random)
            pairs.append((
                np.concatenate([before, spoilt, [vocabulary.eos_id]]),
                np.concatenate([before, text, [vocabulary.eos_id]]),
            ))  # fmt: skip
        return pad_pairs(
            pairs,
            source_length=sequence_length,
            target_length=sequence_length,
        )

    def _infill(self, text: np.ndarray, mask_id: int, random: np.random.Generator) -> np.ndarray:
        """Returns `text` with `mask_rate` of its tokens replaced, a mask for each span."""
        budget = round(self.mask_rate * len(text))
        if budget == 0:
            return text
        # More lengths than are needed, but for a chance below 1e-8.
        draws = random.poisson(self.mean_span_length, 2 * budget + 20)
        ends = np.minimum(draws.cumsum(), budget)
        sizes = np.diff(ends, prepend=0)[: np.searchsorted(ends, budget) + 1]
        # Masks without tokens are cut back where they would make the text longer.
        empty = np.flatnonzero(sizes == 0)
        masked = int(sizes.sum())
        sizes = np.delete(sizes, empty[max(0, masked - (len(sizes) - len(empty))) :])

        # Spans stand in different gaps between (or around) the tokens that stay.
        gaps = np.sort(random.permutation(len(text) - masked + 1)[: len(sizes)])
        # A masked token's place: the masked ones before it, and those that stay before its span.
        inner = np.arange(masked) + np.repeat(gaps, sizes)
        return np.insert(np.delete(text, inner), gaps, mask_id)


def _permute(
    text: np.ndarray, documents: np.ndarray, line_ends: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Returns `text` with the sentences of each document shuffled."""
    begins = np.ones(len(text), bool)
    begins[1:] = line_ends[text[:-1]] | (documents[1:] != documents[:-1])
    sentence = np.cumsum(begins) - 1
    draws = random.random(sentence[-1] + 1)
    # By document, then by the sentence's draw; tokens of one sentence keep their order.
    return text[np.lexsort((draws[sentence], documents))]
