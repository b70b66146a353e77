"""Classification: an image's label is predicted."""

import dataclasses
from typing import ClassVar

from llm_jax.data.augment import Augmentation
from llm_jax.data.device_augmentation import DeviceAugmentation


@dataclasses.dataclass(frozen=True)
class Classification:
    """The class of an image, which is seen a little different every time.

    Attributes:
      name: of the objective.
      augmentation: what is done to the images of the train split, on the host.
      device_augmentation: what is done to them behind that, in the step.
    """

    kind: ClassVar[str] = "images"

    name: str = "classification"
    augmentation: Augmentation = Augmentation()
    device_augmentation: DeviceAugmentation = DeviceAugmentation()

    def batch(self, pixels, randoms) -> dict:
        """Adds nothing to pixels and labels."""
        del pixels, randoms
        return {}
