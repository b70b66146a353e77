"""What the objectives of text have in common."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from llm_jax.data.objectives.vocabulary import Vocabulary


class Cut(NamedTuple):
    """Rows of a text, and what is needed to make a batch of them.

    Attributes:
      rows: int32 [n, record_length] token ids.
      lengths: [n] how many of a row's tokens are real; 0 makes an example of weight 0.
      randoms: a generator for each row, of which all chance about it comes.
      vocabulary: of the ids.
      sequence_length: of `data`.
      cross_document_attention: a row's documents see each other; of no effect where a source is
        one sequence anyway.
      others: where the objective `needs_others`: rows of other documents and their lengths, as the
        first two.
    """

    rows: np.ndarray
    lengths: np.ndarray
    randoms: Sequence[np.random.Generator]
    vocabulary: Vocabulary
    sequence_length: int
    cross_document_attention: bool = False
    others: tuple[np.ndarray, np.ndarray] | None = None


class TextObjective:
    """Makes batches of rows of tokens.

    Attributes:
      kind: what it learns from.
      overlap: how many tokens at a row's end begin the next one again.
      by_document: records are whole sentences of one document each, see
        `llm_jax.data.packing.pack_sentences`; else rows of a stream of documents.
      needs_others: whether an example takes a record of another document besides.
      symbols: special pieces that the tokenizer must have.
      static_copies: 0 where an example's chance is drawn anew each time that it is read; else how
        many generators it has for good.
    """

    kind: ClassVar[str] = "text"
    overlap: ClassVar[int] = 0
    by_document: ClassVar[bool] = False
    needs_others: bool = False
    symbols: tuple[str, ...] = ()
    static_copies: int = 0

    def record_length(self, sequence_length: int) -> int:
        """Returns the tokens of a stored row; `ConfigError` where no row can be made."""
        raise NotImplementedError

    def lengths(self, sequence_length: int) -> dict[str, int]:
        """Returns the second sizes of a batch's arrays, by the name of the first that has it."""
        raise NotImplementedError

    def make(self, cut: Cut) -> dict[str, np.ndarray]:
        """Returns a batch's arrays, each [n, ...]."""
        raise NotImplementedError

    def batch(self, *given, **more) -> dict[str, np.ndarray]:
        """Returns `make` of a `Cut` of the same arguments."""
        return self.make(Cut(*given, **more))
