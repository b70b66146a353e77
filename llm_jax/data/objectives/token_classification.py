"""A tag for each word or character of a sentence: names, places, parts of speech."""

import dataclasses
from typing import ClassVar

from llm_jax.configuration import ConfigError

UNITS = ("words", "characters")


@dataclasses.dataclass(frozen=True)
class TokenClassification:
    """What is tagged, by BIO: `O`, `B-type` where an entity begins, `I-type` inside of it.

    Attributes:
      name: of the objective.
      units: "words", with spaces between, or "characters", with nothing between.
    """

    kind: ClassVar[str] = "labelled"
    symbols: ClassVar[tuple[str, ...]] = ()
    target: ClassVar[str] = "tags"

    name: str = "token_classification"
    units: str = "words"

    def __post_init__(self):
        if self.units not in UNITS:
            raise ConfigError(
                f"objective.units is {self.units!r}: choose one of {', '.join(UNITS)}"
            )

    def record_length(self, sequence_length: int) -> int:
        """Returns the tokens of the longest sentence."""
        return sequence_length

    def lengths(self, sequence_length: int) -> dict[str, int]:
        """Returns the most tokens of a sentence."""
        return {"tokens": sequence_length}
