"""Pairs: a target is predicted from a source."""

import dataclasses
from typing import ClassVar

from llm_jax.configuration import ConfigError


@dataclasses.dataclass(frozen=True)
class Pairs:
    """An encoder reads the source and a decoder writes the target.

    Attributes:
      name: of the objective.
      target_length: tokens of the longest target, its EOS included; longer ones are cut.
    """

    kind: ClassVar[str] = "pairs"
    symbols: ClassVar[tuple[str, ...]] = ()

    name: str = "pairs"
    target_length: int = 64

    def __post_init__(self):
        if self.target_length < 2:
            raise ConfigError(
                f"objective.target_length is {self.target_length}: give 2 or more tokens"
            )

    def record_length(self, sequence_length: int) -> int:
        """Returns the tokens of a stored pair: two lengths, the source and the target."""
        return 2 + sequence_length + self.target_length

    def lengths(self, sequence_length: int) -> dict[str, int]:
        """Returns S of source and source_mask, D of targets and weights."""
        return {"source": sequence_length, "targets": self.target_length}
