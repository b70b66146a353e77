"""Classification: an image's label is predicted."""

import dataclasses
from typing import ClassVar

from llm_jax.data.augment import Augmentation


@dataclasses.dataclass(frozen=True)
class Classification:
    """The class of an image, which is seen a little different every time.

    Attributes:
      name: of the objective.
      augmentation: what is done to the images of the train split.
    """

    kind: ClassVar[str] = "images"

    name: str = "classification"
    augmentation: Augmentation = Augmentation()

    def batch(self, pixels, randoms) -> dict:
        """Adds nothing to pixels and labels."""
        del pixels, randoms
        return {}
