"""Moves of one image's pixels, on the device: flips, turns, shears, translations, crops.

An image is float32 [C, H, W] with whole values from 0 to 255, and so is every result. What comes
from outside the image is 0. Each gives what Pillow gives for bytes with bilinear resampling; a
value on the border between two bytes may fall on its other side, by one.
"""

import math

import jax
import jax.numpy as jnp

from llm_jax.data.image_ops import affine

_ASPECT_RATIOS = (3 / 4, 4 / 3)


def flip_horizontal(image):
    """Returns the image mirrored, left to right."""
    return image[:, :, ::-1]


def flip_vertical(image):
    """Returns the image mirrored, top to bottom."""
    return image[:, ::-1]


def rotate(image, degrees):
    """Returns the image turned counter-clockwise round its centre, as `Image.rotate`."""
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return affine(image, jnp.array([[cos, sin], [-sin, cos]]), jnp.zeros(2))


def shear_x(image, factor):
    """Returns the image whose row y, from the top, moved left by `factor * y`."""
    return _from_corner(image, jnp.array([[1.0, 0.0], [factor, 1.0]]))


def shear_y(image, factor):
    """Returns the image whose column x, from the left, moved up by `factor * x`."""
    return _from_corner(image, jnp.array([[1.0, factor], [0.0, 1.0]]))


def translate(image, down, right):
    """Returns the image moved by `down` and `right` pixels; fractions are interpolated."""
    return affine(image, jnp.eye(2), -jnp.array([down, right], jnp.float32))


def crop_and_resize(image, top, left, height, width):
    """Returns a box of the image at the image's own size, as `Image.crop` and `Image.resize`.

    Args:
      image: [C, H, W].
      top, left, height, width: the box, whole pixels inside the image; they may be traced.
    """
    rows = _interpolation(image.shape[1], top, height)
    columns = _interpolation(image.shape[2], left, width)
    # Along x first, rounded to bytes between, as Pillow does.
    for axes, weights in (("chw,xw->chx", columns), ("chw,yh->cyw", rows)):
        image = jnp.floor(jnp.einsum(axes, image, weights, precision="highest") + 0.5)
    return image


def random_box(key, shape, least):
    """Draws the box of a random resized crop (Szegedy et al. 2014, arXiv:1409.4842).

    Args:
      key: of the draws.
      shape: (height, width) of the image.
      least: share of the image's area that the box has at least; its aspect ratio is 3/4 to 4/3
        where the image lets it.

    Returns:
      top, left, height, width: float32 scalars, whole.
    """
    share, ratio, down, right = jax.random.uniform(key, (4,))
    low, high = map(math.log, _ASPECT_RATIOS)
    ratio = jnp.exp(low + (high - low) * ratio)
    area = math.prod(shape) * (least + (1 - least) * share)
    sides = jnp.round(jnp.sqrt(jnp.stack([area / ratio, area * ratio])))
    height, width = jnp.clip(sides, 1, jnp.array(shape))
    top, left = jnp.floor(down * (shape[0] - height + 1)), jnp.floor(right * (shape[1] - width + 1))
    return top, left, height, width


def _interpolation(size, start, length):
    """Returns [size, size]: how much of each pixel is in each of a stretched range's."""
    place = start + (jnp.arange(size) + 0.5) * (length / size) - 0.5
    place = jnp.clip(place, start, start + length - 1)
    return jnp.maximum(1 - jnp.abs(place[:, None] - jnp.arange(size)), 0)


def _from_corner(image, matrix):
    """Returns the image read at `matrix @ (y, x)`, counted from its upper left corner."""
    centre = jnp.array(image.shape[1:]) / 2
    return affine(image, matrix, jnp.sum(matrix * centre, axis=1) - centre)
