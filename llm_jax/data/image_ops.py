"""Operations on one image, on the device: to be mapped over a batch with `jax.vmap` under `jit`.

An image is float32 [C, H, W] with whole values from 0 to 255, and so is every result. Those that
Pillow has give what Pillow gives for bytes. Draws come from the key of the image's own example, so
that they do not depend on the batch or the mesh.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


def _mixed(first, second, share):
    """Returns `first` and `second` mixed as Pillow does; a share outside 0 .. 1 goes beyond."""
    return jnp.floor(jnp.clip(first + share * (second - first), 0, 255) + 1e-3)


def gray(image):
    """Returns the luma of RGB in every channel; an image of other channels as it is."""
    if image.shape[0] != 3:
        return image
    red, green, blue = image.astype(jnp.int32)
    luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return jnp.broadcast_to(luma.astype(jnp.float32), image.shape)


def brightness(image, factor):
    """Returns the image `factor` times as bright; 1 leaves it."""
    return _mixed(jnp.zeros_like(image), image, factor)


def contrast(image, factor):
    """Returns the image with its distance to its mean luma times `factor`."""
    mean = jnp.floor(jnp.mean(gray(image)[0]) + 0.5)
    return _mixed(jnp.full_like(image, mean), image, factor)


def saturation(image, factor):
    """Returns the image with its distance to its luma times `factor`; 0 is gray."""
    return _mixed(gray(image), image, factor)


def sharpness(image, factor):
    """Returns the image with its distance to its smoothed form times `factor`; edges stay."""
    kernel = jnp.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], jnp.float32) / 13
    smooth = jnp.floor(_convolved(image, kernel) + 0.5)
    edge = jnp.pad(jnp.zeros(smooth.shape[1:], bool), 1, constant_values=True)
    return _mixed(jnp.where(edge, image, jnp.pad(smooth, [(0, 0), (1, 1), (1, 1)])), image, factor)


def hue(image, turn):
    """Returns an RGB image with its hue turned by `turn` (1 is once round); others as they are."""
    if image.shape[0] != 3:
        return image
    most, least = jnp.max(image, axis=0), jnp.min(image, axis=0)
    range_ = jnp.where(most > least, most - least, 1)
    red, green, blue = image
    sixth = jnp.where(
        most == red,
        (green - blue) / range_ % 6,
        jnp.where(most == green, (blue - red) / range_ + 2, (red - green) / range_ + 4),
    )
    place = (jnp.array([5.0, 3.0, 1.0])[:, None, None] + sixth + 6 * turn) % 6
    share = jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
    return jnp.floor(most - (most - least) * share + 0.5)


def autocontrast(image):
    """Returns the image with each channel stretched to 0 .. 255; one of one value stays."""
    least, most = (f(image, axis=(1, 2), keepdims=True) for f in (jnp.min, jnp.max))
    scale = 255 / jnp.maximum(most - least, 1)
    stretched = jnp.clip(jnp.floor((image - least) * scale + 1e-3), 0, 255)
    return jnp.where(most > least, stretched, image)


def equalize(image):
    """Returns the image with each channel's histogram made flat, as far as it goes."""

    def channel(plane):
        counts = jnp.bincount(plane.astype(jnp.int32).reshape(-1), length=256)
        last = jnp.max(jnp.where(counts > 0, jnp.arange(256), 0))
        step = (plane.size - counts[last]) // 255
        table = (jnp.cumsum(counts) - counts + step // 2) // jnp.maximum(step, 1)
        flat = jnp.clip(table, 0, 255)[plane.astype(jnp.int32)]
        return jnp.where(step > 0, flat.astype(jnp.float32), plane)

    return jax.vmap(channel)(image)


def solarize(image, threshold):
    """Returns the image with the values from `threshold` on turned round."""
    return jnp.where(image < threshold, image, 255 - image)


def posterize(image, bits):
    """Returns the image with the first `bits` bits of each value."""
    step = 2.0 ** (8 - bits)
    return jnp.floor(image / step) * step


def affine(image, matrix, offset):
    """Reads the image at affinely mapped places, bilinearly, as `Image.transform` of Pillow.

    A value between two bytes becomes the lower one, where `llm_jax.data.augment.resample` rounds.

    Args:
      image: [C, H, W].
      matrix, offset: [2, 2] and [2]: the pixel (y, x) of the result, counted from the centre, is
        read at `matrix @ (y, x) + offset`, counted likewise; off the image there is 0.
    """
    height, width = image.shape[1:]
    centre = jnp.array([height - 1, width - 1]) / 2
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"))
    places = jnp.einsum("ij,jhw->ihw", matrix, grid - centre[:, None, None], precision="highest")
    places = places + (offset + centre)[:, None, None]
    limit = jnp.array([height - 1, width - 1])[:, None, None]
    inside = jnp.all((places >= -0.5) & (places < limit + 0.5), axis=0)
    read = jax.vmap(lambda plane: map_coordinates(plane, places, order=1, mode="nearest"))
    return jnp.floor(read(image) * inside + 1e-3)


def gaussian_blur(image, deviation, radius: int):
    """Returns the image blurred by a Gaussian of `deviation` pixels, cut off behind `radius`."""
    distance = jnp.arange(-radius, radius + 1)
    kernel = jnp.exp(-0.5 * jnp.square(distance / deviation))
    kernel = kernel / jnp.sum(kernel)
    wide = jnp.pad(image, [(0, 0), (radius, radius), (radius, radius)], mode="reflect")
    blurred = _convolved(_convolved(wide, kernel[:, None]), kernel[None])
    return jnp.floor(blurred + 0.5)


def erase(image, key, *, least: float = 0.02, most: float = 1 / 3, aspect: float = 0.3):
    """Returns the image with a rectangle of noise (Zhong et al. 2017, arXiv:1708.04896).

    Args:
      image: [C, H, W].
      key: of the draws.
      least, most: share of the image's area.
      aspect: the rectangle's height by its width, and the other way round, is at least that.
    """
    height, width = image.shape[1:]
    shape, place, noise = jax.random.split(key, 3)
    area, ratio = jax.random.uniform(shape, (2,))
    area = (least + (most - least) * area) * height * width
    ratio = jnp.exp(math.log(aspect) * (1 - 2 * ratio))
    sides = jnp.sqrt(jnp.stack([area * ratio, area / ratio]))
    box = jnp.minimum(jnp.round(sides), jnp.array([height, width]))
    inside = rectangle(place, (height, width), box)
    values = jax.random.randint(noise, image.shape, 0, 256).astype(jnp.float32)
    return jnp.where(inside, values, image)


def rectangle(key, shape, box):
    """Returns bool [H, W], a rectangle of `box` pixels that lies whole somewhere in `shape`."""
    room = jnp.array(shape) - box
    start = jnp.floor(jax.random.uniform(key, (2,)) * (room + 1))
    y, x = jnp.arange(shape[0])[:, None], jnp.arange(shape[1])
    rows, columns = (y >= start[0]) & (y < start[0] + box[0]), (x >= start[1])
    return rows & columns & (x < start[1] + box[1])


def _convolved(image, kernel):
    """Returns each channel correlated with `kernel [h, w]`, where it lies whole inside."""
    planes = image[:, None]
    return jax.lax.conv(planes, kernel[None, None], (1, 1), "VALID", precision="highest")[:, 0]
