"""Slips of the hand: keys beside the right one, characters that are missing, doubled or swapped.

The noise of Belinkov and Bisk 2018 (arXiv:1711.02173), section 4, at a rate per character.
"""

import dataclasses
import functools
from collections.abc import Sequence

from llm_jax.configuration import ConfigError
from llm_jax.data.augmentation.text.augment import Example

# The rows of a keyboard and how far each stands to the right, in keys.
_ROWS = (("1234567890", 0.0), ("qwertyuiop", 0.5), ("asdfghjkl", 0.75), ("zxcvbnm", 1.25))


@dataclasses.dataclass(frozen=True)
class CharacterNoise:
    """Gives each letter and digit, of any script, a slip with the probability `rate`.

    One of these, drawn equally: it is missing; it changes places with the next one, if that is
    of the same word; and, for those of a QWERTY keyboard, a neighbouring key is struck instead, or
    in addition. Chinese characters are missing or change places. Nothing happens to the rest.

    Attributes:
      rate: slips for each letter or digit.
    """

    rate: float = 0.02

    def __post_init__(self):
        if not 0 < self.rate <= 1:
            raise ConfigError(f"rate is {self.rate}: give more than 0 and at most 1")

    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """Returns the new texts; one that would lose all its letters stays as it is."""
        return [self._slip(example.text, example.random) for example in examples]

    def _slip(self, text, random) -> str:
        hit = random.random(len(text)) < self.rate
        result, place = [], 0
        while place < len(text):
            here, following = text[place], text[place + 1 : place + 2]
            place += 1
            if not hit[place - 1] or not here.isalnum():
                result.append(here)
                continue
            keys = neighbours().get(here, "")
            kind = random.integers(4 if keys else 2)
            if kind == 1:
                swapped = following.isalnum()
                result += [following, here] if swapped else [here]
                place += swapped
            elif kind >= 2:
                key = keys[random.integers(len(keys))]
                result += [key] if kind == 2 else [here, key]
        return "".join(result) if any(map(str.isalnum, result)) else text


@functools.cache
def neighbours() -> dict[str, str]:
    """Returns the keys that touch each letter and digit of a QWERTY keyboard, in its case."""
    places = {
        key: (x + shift, y) for y, (row, shift) in enumerate(_ROWS) for x, key in enumerate(row)
    }
    found = {}
    for key, (x, y) in places.items():
        near = "".join(
            other
            for other, (x2, y2) in places.items()
            if other != key and abs(x - x2) <= 1 and abs(y - y2) <= 1
        )
        found |= {key.upper(): near.upper()} | {key: near}
    return found
