"""Span corruption: spans of a text are cut out, and asked for in turn.

Raffel et al. 2020 (arXiv:1910.10683), section 3.1.4 and T5's published arithmetic: of a text
`a b c d e f`, with `b c` and `f` cut out, the source is `a <extra_id_0> d e <extra_id_1> EOS` and
the target `<extra_id_0> b c <extra_id_1> f EOS`.
"""

import dataclasses

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.objectives.seq2seq import pad_pairs
from llm_jax.data.objectives.text import Cut, TextObjective


@dataclasses.dataclass(frozen=True)
class SpanCorruption(TextObjective):
    """Spans of a row are cut out; the decoder writes them behind their sentinels.

    As in T5's own data, the documents of a row follow one another without marks.

    Attributes:
      name: of the objective.
      noise_density: share of a row's tokens that are cut out.
      mean_span_length: tokens of a span, on average.
      num_sentinels: pieces "<extra_id_0>", ... of the tokenizer: at least the spans of a row.
    """

    name: str = "span_corruption"
    noise_density: float = 0.15
    mean_span_length: float = 3.0
    num_sentinels: int = 100

    def __post_init__(self):
        if not 0 < self.noise_density < 1:
            raise ConfigError(
                f"objective.noise_density is {self.noise_density}: give a share between 0 and 1"
            )
        if self.mean_span_length < 1:
            raise ConfigError(
                f"objective.mean_span_length is {self.mean_span_length}: give 1 or more tokens"
            )
        if self.num_sentinels < 1:
            raise ConfigError(f"objective.num_sentinels is {self.num_sentinels}: give 1 or more")

    @property
    def symbols(self) -> tuple[str, ...]:
        """Special pieces that the tokenizer must have."""
        return tuple(f"<extra_id_{index}>" for index in range(self.num_sentinels))

    def record_length(self, sequence_length: int) -> int:
        """Returns the tokens of a stored row: the most of which a source has S.

        Raises:
          ConfigError: `sequence_length` has no room for a source, or more spans than sentinels.
        """
        length = 1
        while self._source_length(length + 1) <= sequence_length:
            length += 1
        if length < 2:
            raise ConfigError(
                f"data.sequence_length is {sequence_length}: span corruption wants 3 or more tokens"
            )
        spans = self._counts(length)[1]
        if spans > self.num_sentinels:
            raise ConfigError(
                f"data.sequence_length {sequence_length} makes {spans} spans of a row and "
                f"objective.num_sentinels is {self.num_sentinels}: give {spans} or more"
            )
        return length

    def lengths(self, sequence_length: int) -> dict[str, int]:
        """Returns S of source and source_mask, D of targets and weights."""
        noise, spans = self._counts(self.record_length(sequence_length))
        return {"source": sequence_length, "targets": noise + spans + 1}

    def make(self, cut: Cut) -> dict[str, np.ndarray]:
        """Cuts spans out of rows.

        Returns:
          what `pad_pairs` does. A row with less than two tokens of text has weight 0.
        """
        rows, lengths, randoms, vocabulary, sequence_length, *_ = cut
        sentinels = vocabulary.symbol_ids(self.symbols)
        pairs = []
        for row, length, random in zip(rows, lengths, randoms):
            text = row[:length]
            text = text[~vocabulary.special[text]]
            if len(text) < 2:
                pairs.append((text[:0], text[:0]))
                continue
            noise = self._noise_mask(len(text), random)
            pairs.append((
                _replace_spans(text, noise, sentinels, vocabulary.eos_id),
                _replace_spans(text, ~noise, sentinels, vocabulary.eos_id),
            ))  # fmt: skip
        return pad_pairs(
            pairs,
            source_length=sequence_length,
            target_length=self.lengths(sequence_length)["targets"],
        )

    def _counts(self, length: int) -> tuple[int, int]:
        """Returns the tokens that are cut out of a text, and the spans that they come in."""
        noise = min(max(round(length * self.noise_density), 1), length - 1)
        # Each span has a token of its own, and one that stays before it.
        spans = min(max(round(noise / self.mean_span_length), 1), noise, length - noise)
        return noise, spans

    def _source_length(self, length: int) -> int:
        noise, spans = self._counts(length)
        return length - noise + spans + 1

    def _noise_mask(self, length: int, random: np.random.Generator) -> np.ndarray:
        """Returns bool [length], true on what is cut out; the first token stays."""
        noise, spans = self._counts(length)
        sizes = np.empty(2 * spans, np.int64)
        sizes[0::2] = _segment_sizes(length - noise, spans, random)
        sizes[1::2] = _segment_sizes(noise, spans, random)
        return np.repeat(np.arange(2 * spans) % 2 == 1, sizes)


def _segment_sizes(items: int, segments: int, random: np.random.Generator) -> np.ndarray:
    """Returns sizes of 1 or more with the sum `items`, each way to cut them equally likely."""
    cuts = np.sort(random.permutation(items - 1)[: segments - 1]) + 1
    return np.diff(cuts, prepend=0, append=items)


def _replace_spans(
    text: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, eos_id: int
) -> np.ndarray:
    """Returns `text` with its n-th run of true `mask` replaced by the n-th sentinel, and EOS."""
    first = mask.copy()
    first[1:] &= ~mask[:-1]
    text = text.copy()
    text[first] = sentinels[: np.count_nonzero(first)]
    return np.append(text[first | ~mask], eos_id)
