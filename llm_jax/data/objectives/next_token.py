"""Next-token prediction: a row as it is."""

import dataclasses
from typing import ClassVar

import numpy as np

from llm_jax.data import packing
from llm_jax.data.objectives.text import Cut, TextObjective


@dataclasses.dataclass(frozen=True)
class NextToken(TextObjective):
    """Each token is predicted from those before it.

    Attributes:
      name: of the objective.
    """

    overlap: ClassVar[int] = 1

    name: str = "next_token"

    def record_length(self, sequence_length: int) -> int:
        """Returns the tokens of a stored row: its last is a target only."""
        return sequence_length + 1

    def lengths(self, sequence_length: int) -> dict[str, int]:
        """Returns T of every array."""
        return {"tokens": sequence_length}

    def make(self, cut: Cut) -> dict[str, np.ndarray]:
        """Returns what `packing.unpack` does with `rows` [n, T + 1]; nothing is left to chance."""
        return packing.unpack(
            cut.rows,
            cut.lengths,
            bos_id=cut.vocabulary.bos_id,
            eos_id=cut.vocabulary.eos_id,
            cross_document_attention=cut.cross_document_attention,
        )
