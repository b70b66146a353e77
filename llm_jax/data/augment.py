"""Augmented images: shifted, cropped, rotated and flipped, in one bilinear resampling.

The random resized crop is that of Szegedy et al. 2014 (arXiv:1409.4842), section 6.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from llm_jax.configuration import ConfigError

_ASPECT_RATIOS = (3 / 4, 4 / 3)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """One random affine map for each image; what comes from outside an image is 0.

    Attributes:
      shift: the image moves by up to so many whole pixels, along both axes.
      crop: least share of the area that is cut out and scaled to the full size, of aspect ratio
        3/4 to 4/3; 0 cuts nothing.
      rotation: the image turns by up to so many degrees, either way.
      flip: half of the images are mirrored, left to right.
    """

    shift: int = 0
    crop: float = 0.0
    rotation: float = 0.0
    flip: bool = False

    def __post_init__(self):
        if self.shift < 0:
            raise ConfigError(f"augmentation.shift is {self.shift}: give 0 or more pixels")
        if not 0 <= self.crop <= 1:
            raise ConfigError(f"augmentation.crop is {self.crop}: give a share from 0 to 1")
        if not 0 <= self.rotation <= 180:
            raise ConfigError(f"augmentation.rotation is {self.rotation}: give 0 to 180 degrees")

    def __call__(self, images: np.ndarray, randoms: Sequence[np.random.Generator]) -> np.ndarray:
        """Maps each image by its own draws.

        Args:
          images: float32 or uint8 [n, channels, height, width].
          randoms: a generator for each image.

        Returns:
          images of the same shape and dtype; uint8 is rounded.
        """
        if self == Augmentation():
            return images
        # Every option has its own draws, so that one does not change what another does.
        draws = np.array([random.random(8) for random in randoms]).reshape(len(images), 8)
        return resample(images, *self._maps(draws, *images.shape[2:]))

    def _maps(self, draws: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the maps of `resample`: the result's pixels, flipped, moved, turned, cropped."""
        size = np.array([height, width])
        matrix = np.zeros((len(draws), 2, 2))
        matrix[:, 0, 0] = 1
        matrix[:, 1, 1] = np.where(self.flip & (draws[:, 0] < 0.5), -1, 1)
        offset = -matrix @ (np.floor(draws[:, 1:3, None] * (2 * self.shift + 1)) - self.shift)

        angle = np.radians(self.rotation) * (2 * draws[:, 3] - 1)
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.moveaxis(np.array([[cos, sin], [-sin, cos]]), 2, 0)
        matrix, offset = turn @ matrix, turn @ offset
        if self.crop:
            area = size.prod() * (self.crop + (1 - self.crop) * draws[:, 4])
            low, high = map(math.log, _ASPECT_RATIOS)
            ratio = np.exp(low + (high - low) * draws[:, 5])
            box = np.minimum(np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], 1), size)
            scale = (box / size)[:, :, None]
            matrix = scale * matrix
            offset = scale * offset + ((size - box) * (draws[:, 6:8] - 0.5))[:, :, None]
        return matrix, offset[:, :, 0]


def resample(images: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Reads images at affinely mapped places, bilinearly.

    Args:
      images: float32 or uint8 [n, channels, height, width].
      matrix, offset: [n, 2, 2] and [n, 2]: the pixel (y, x) of the result, counted from the image's
        centre, is read at `matrix @ (y, x) + offset`, counted likewise.

    Returns:
      images of the same shape and dtype; 0 where a place is off the image. Between an outer
      pixel's centre and the image's edge stands that pixel.
    """
    count, channels, height, width = images.shape
    centre = np.array([height - 1, width - 1]) / 2
    grid = np.indices((height, width)).reshape(2, -1) - centre[:, None]
    # The last rounding makes whole places exact, whatever the sines came to.
    places = np.round(matrix @ grid + (offset + centre)[:, :, None], 9)
    limit = np.array([height - 1, width - 1])[:, None]
    inside = np.all((places >= -0.5) & (places <= limit + 0.5), axis=1)
    places = np.clip(places, 0, limit)
    low = np.minimum(places.astype(np.int64), np.maximum(limit - 1, 0))
    (far_y, far_x) = np.moveaxis((places - low).astype(np.float32), 1, 0)
    step_y, step_x = width * (height > 1), int(width > 1)
    base = low[:, 0] * width + low[:, 1] + np.arange(count)[:, None] * (height * width)

    pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).reshape(-1, channels)
    result = np.zeros((count, height * width, channels), np.float32)
    for step, weight in (
        (0, (1 - far_y) * (1 - far_x)),
        (step_x, (1 - far_y) * far_x),
        (step_y, far_y * (1 - far_x)),
        (step_y + step_x, far_y * far_x),
    ):
        result += pixels[base + step] * (weight * inside)[:, :, None]
    if images.dtype == np.uint8:
        result = np.rint(result)
    result = result.astype(images.dtype).reshape(count, height, width, channels)
    return np.ascontiguousarray(result.transpose(0, 3, 1, 2))
