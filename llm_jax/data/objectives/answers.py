"""Answers: a decoder continues a question, and learns from its answer alone."""

import dataclasses
from typing import ClassVar

from llm_jax.data.objectives.pairs import Pairs


@dataclasses.dataclass(frozen=True)
class Answers(Pairs):
    """Supervised tuning of a decoder on pairs; the source is read, the target is predicted.

    Attributes:
      name: of the objective.
      target_length: tokens of the longest answer, its end mark included; longer ones are cut.
      chat: the source is a user's turn in the tokenizer's chat template.
      separator: without `chat`: stands between source and target.
    """

    name: str = "answers"
    chat: bool = False
    separator: str = "\n"

    symbols: ClassVar[tuple[str, ...]] = ()

    def lengths(self, sequence_length: int) -> dict[str, int]:
        """Returns T of tokens, targets and weights."""
        return {"tokens": sequence_length + self.target_length}

    def asked(self, source: str, tokenizer) -> list[int]:
        """Returns the ids that the answer to `source` follows; `ConfigError` without a template."""
        if not self.chat:
            return tokenizer.encode_prompt(source + self.separator)
        text = tokenizer.render_chat([{"role": "user", "content": source}])
        return tokenizer.encode(text, add_special_tokens=False)
