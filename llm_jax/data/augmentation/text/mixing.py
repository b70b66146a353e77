"""New texts of a class from several of its texts; what they say together may be new."""

import dataclasses
import re
from collections.abc import Sequence

from llm_jax.configuration import ConfigError
from llm_jax.data.augmentation.text.augment import Example
from llm_jax.data.augmentation.text.words import is_han

# A sentence: up to its end mark and the quotes behind, or to the line's end, with the space after.
_QUOTES = "\u201d\u2019\u300d\u300f\uff09"
_SENTENCE = re.compile(
    rf".+?(?:[.!?]+[\"'{_QUOTES})\]]*(?=\s|$)|[\u3002\uff01\uff1f\u2026]+[{_QUOTES}]*|\n|$)\s*",
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Concatenation:
    """Puts another text of the class behind the text; one that has none stays as it is."""

    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """Returns the new texts.

        Raises:
          ConfigError: there are no labels.
        """
        results = []
        for example in examples:
            _check_labels(example)
            texts = [example.text]
            if len(example.others):
                texts.append(example.others[example.random.integers(len(example.others))])
            results.append("".join(_spaced(texts)))
        return results


@dataclasses.dataclass(frozen=True)
class SentenceMixing:
    """Puts in the place of sentences random ones of other texts of the class.

    After the instance crossover of Luque 2019 (arXiv:1909.11241), sentence by sentence.

    Attributes:
      share: with which probability a sentence is replaced.
    """

    share: float = 0.5

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ConfigError(f"share is {self.share}: give more than 0 and at most 1")

    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """Returns the new texts, of as many sentences as they had.

        Raises:
          ConfigError: there are no labels.
        """
        return [self._mix(example) for example in examples]

    def _mix(self, example: Example) -> str:
        _check_labels(example)
        others, random = example.others, example.random
        own = sentences(example.text)
        if not len(others):
            return example.text
        for place, replaced in enumerate((random.random(len(own)) < self.share).tolist()):
            if replaced:
                given = sentences(others[random.integers(len(others))])
                if given:
                    own[place] = given[random.integers(len(given))]
        return "".join(_spaced(own))


def sentences(text: str) -> list[str]:
    """Returns the sentences of `text`, each with the white space behind it: together the text."""
    return _SENTENCE.findall(text)


def _spaced(parts: list[str]) -> list[str]:
    """Puts a space between parts that have none there, but not behind Chinese."""
    for place in range(len(parts) - 1):
        end = parts[place][-1:]
        if end and not end.isspace() and not is_han(parts[place + 1]):
            parts[place] += " "
    return parts


def _check_labels(example: Example) -> None:
    if example.others == ():
        raise ConfigError("mixing joins texts of one class: give augment() labels")
