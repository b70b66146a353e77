"""Masked image patches: some patches of an image are hidden, and their pixels asked for.

SimMIM, Xie et al. 2021 (arXiv:2111.09886); He et al. 2021 (arXiv:2111.06377) hide more of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.augment import Augmentation
from llm_jax.data.device_augmentation import DeviceAugmentation


@dataclasses.dataclass(frozen=True)
class MaskedPatches:
    """Some patches of each image are hidden; the model paints them.

    Attributes:
      name: of the objective.
      mask_rate: share of an image's patches that are hidden.
      patch_size: side of a patch in pixels; the model's.
      augmentation: what is done to the images of the train split, on the host.
      device_augmentation: what is done to them behind that, in the step.
    """

    kind: ClassVar[str] = "images"

    name: str = "masked_patches"
    mask_rate: float = 0.6
    patch_size: int = 16
    augmentation: Augmentation = Augmentation()
    device_augmentation: DeviceAugmentation = DeviceAugmentation()

    def __post_init__(self):
        if not 0 < self.mask_rate < 1:
            raise ConfigError(
                f"objective.mask_rate is {self.mask_rate}: give a share between 0 and 1"
            )
        if self.device_augmentation.mixes:
            raise ConfigError(
                "objective.device_augmentation mixes labels, and 'masked_patches' has none: "
                "set mixup_alpha and cutmix_alpha to 0"
            )

    def batch(
        self, images: np.ndarray, randoms: Sequence[np.random.Generator]
    ) -> dict[str, np.ndarray]:
        """Chooses the patches to hide.

        Args:
          images: [n, channels, height, width].
          randoms: a generator for each image.

        Returns:
          masked: bool [n, patches], row by row; `mask_rate` of each image's patches, rounded.

        Raises:
          ConfigError: the patches do not fill the image.
        """
        (height, width), patch_size = images.shape[2:], self.patch_size
        if patch_size < 1 or height % patch_size or width % patch_size:
            raise ConfigError(
                f"patches of {patch_size} pixels do not fill images of {height} x {width}: give a "
                "patch_size that divides both"
            )
        patches = (height // patch_size) * (width // patch_size)
        order = np.array([random.permutation(patches) for random in randoms])
        return {"masked": order.reshape(len(images), patches) < round(self.mask_rate * patches)}
