"""Back-translation (Sennrich et al. 2016, arXiv:1511.06709): to another language and back."""

import dataclasses
from collections.abc import Callable, Sequence

from llm_jax.configuration import ConfigError
from llm_jax.data.augmentation.text.augment import Example

Translator = Callable[[list[str]], list[str]]


@dataclasses.dataclass(frozen=True)
class BackTranslation:
    """Sends the texts through translators, one after the other.

    It draws nothing: for copies that differ give `augment` one operation for each way (by German,
    by French), or precede it by another operation.

    Attributes:
      translators: functions from texts to as many texts: two of our models by
        `llm_jax.generation.translate.translator`, or calls of any service.
    """

    translators: tuple[Translator, ...]

    def __init__(self, *translators: Translator):
        if not translators:
            raise ConfigError("BackTranslation has no translators: give one or more functions")
        object.__setattr__(self, "translators", translators)

    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """Returns the new texts; equal ones are translated once.

        Raises:
          ConfigError: a translator that does not return a text for each.
        """
        texts = list(dict.fromkeys(example.text for example in examples))
        given = texts
        for number, translate in enumerate(self.translators):
            results = list(translate(given))
            if len(results) != len(given) or not all(isinstance(one, str) for one in results):
                raise ConfigError(
                    f"translator {number} gave no {len(given)} texts for {len(given)}: it must "
                    "return a list with a text for each"
                )
            given = results
        by_text = dict(zip(texts, given))
        return [by_text[example.text] for example in examples]
