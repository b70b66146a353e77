"""Labels of whole texts: one of several classes, several of them, or a number."""

import dataclasses
from typing import ClassVar

from llm_jax.configuration import ConfigError

TARGETS = ("class", "classes", "number")


@dataclasses.dataclass(frozen=True)
class TextClassification:
    """What is predicted of a text, or of a pair of texts.

    Attributes:
      name: of the objective.
      target: "class" (one of them), "classes" (any number of them, with commas or semicolons
        between in the table) or "number".
    """

    kind: ClassVar[str] = "labelled"
    symbols: ClassVar[tuple[str, ...]] = ()

    name: str = "text_classification"
    target: str = "class"

    def __post_init__(self):
        if self.target not in TARGETS:
            raise ConfigError(
                f"objective.target is {self.target!r}: choose one of {', '.join(TARGETS)}"
            )

    def record_length(self, sequence_length: int) -> int:
        """Returns the tokens of the longest example."""
        return sequence_length

    def lengths(self, sequence_length: int) -> dict[str, int]:
        """Returns the most tokens of an example."""
        return {"tokens": sequence_length}
