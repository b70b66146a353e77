"""Longer rows than a split was prepared with: several that follow each other, joined to one."""

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data import packing


class JoinedRows:
    """The same tokens and targets as `rows`, in rows of another length.

    Attributes:
      split, manifest, documents, bytes, tokens: as of `rows`.
      sequence_length: inputs in a row.
    """

    def __init__(self, rows, sequence_length: int):
        """Joins rows of `llm_jax.data.open_split` that predict next tokens.

        Raises:
          ConfigError: `sequence_length` is no multiple of theirs, or they do not follow each other.
        """
        if rows.manifest.parts or "packing" in rows.manifest.inputs:
            raise ConfigError(
                f"sequence_length is {sequence_length}, but rows of a mixture, or packed by best "
                "fit, do not follow each other: leave it out, or prepare one source with "
                "data.packing 'split'"
            )
        if sequence_length < 1 or sequence_length % rows.sequence_length:
            raise ConfigError(
                f"sequence_length is {sequence_length}: the data has rows of "
                f"{rows.sequence_length} tokens, give a multiple of that"
            )
        self._rows, self._count = rows, sequence_length // rows.sequence_length
        self.split, self.manifest = rows.split, rows.manifest
        self.documents, self.bytes, self.tokens = rows.documents, rows.bytes, rows.tokens
        self.sequence_length = sequence_length

    def __len__(self) -> int:
        return -(-len(self._rows) // self._count)

    def amount(self) -> str:
        """Says how many examples there are."""
        return f"{self.tokens} tokens, {len(self)} rows of {self.sequence_length}"

    def take(self, indices, randoms=()) -> dict[str, np.ndarray]:
        """Returns the rows `indices` as one batch, as the rows' own `take` does."""
        del randoms  # next tokens need none
        indices = np.asarray(indices)
        parts = indices[:, None] * self._count + np.arange(self._count)
        known = (indices[:, None] >= 0) & (parts < len(self._rows))
        batch = self._rows.take(np.where(known, parts, -1).reshape(-1))
        # Rows overlap by one token: as inputs, and as targets, they follow each other.
        batch = {name: value.reshape(len(indices), -1) for name, value in batch.items()}
        if "segment_ids" not in batch:
            return batch
        # A document may go on behind the end of a part.
        tokens = np.concatenate([batch["tokens"], batch["targets"][:, -1:]], axis=1)
        lengths = np.sum(batch["segment_ids"] > 0, axis=1)
        lengths = lengths + (lengths > 0)
        return packing.unpack(
            tokens,
            lengths,
            bos_id=self.manifest.bos_id,
            eos_id=self.manifest.eos_id,
            cross_document_attention=False,
        )
