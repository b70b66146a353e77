"""Which operations an image meets on its way into a step: by name, by chance, on the device.

An operation here takes an image (float32 [C, H, W] of whole values from 0 to 255), a key and a
magnitude, and draws from the key how far it goes.
"""

import functools
import math
import zlib

import jax
import jax.numpy as jnp

from llm_jax.data import image_geometry as geometry
from llm_jax.data import image_ops


def apply(operations, image, key):
    """Returns the image after each of `operations`, in order, with its probability.

    Args:
      operations: `(name, probability, magnitude)` each, no name twice, see `OPERATIONS`.
      image: float32 [C, H, W] of whole values from 0 to 255.
      key: of this image in this step. Each operation has its own draws by its name, so that one
        more does not change what the others do.
    """
    for name, probability, magnitude in operations:
        chance, draws = jax.random.split(named(key, name))
        changed = OPERATIONS[name](image, draws, magnitude)
        image = jnp.where(jax.random.uniform(chance) < probability, changed, image)
    return image


def named(key, name: str):
    """Returns the key of what is called `name`."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def rand_augment(image, key, *, operations: int, magnitude: float):
    """Returns the image after operations that chance chooses (Cubuk et al. 2019, arXiv:1909.13719).

    The operations and how far each goes are those of torchvision's RandAugment with 31 levels;
    places between pixels are interpolated bilinearly, as in the paper's own code.

    Args:
      image: float32 [C, H, W] of whole values from 0 to 255.
      key: of this image in this step.
      operations: how many one after the other, N of the paper.
      magnitude: how far they go, from 0 to 30, M of the paper.
    """
    branches = rand_augment_operations(image.shape[1:], magnitude)
    for draw in jax.random.split(key, operations):
        choice, sign = jax.random.split(draw)
        sign = jnp.where(jax.random.bernoulli(sign), 1.0, -1.0)
        chosen = jax.random.randint(choice, (), 0, len(branches))
        image = jax.lax.switch(chosen, list(branches.values()), image, sign)
    return image


def rand_augment_operations(shape, magnitude):
    """Returns by name `(image, sign) -> image` at `magnitude`, for images of (height, width)."""
    share = magnitude / 30
    bits, threshold = 8 - round(4 * share), 255 * (1 - share)
    down, right = (math.floor(150 / 331 * side * share) for side in shape)
    enhance = {
        "brightness": image_ops.brightness,
        "saturation": image_ops.saturation,
        "contrast": image_ops.contrast,
        "sharpness": image_ops.sharpness,
    }
    return {
        "identity": lambda image, sign: image,
        "shear_x": lambda image, sign: geometry.shear_x(image, 0.3 * share * sign),
        "shear_y": lambda image, sign: geometry.shear_y(image, 0.3 * share * sign),
        "translate_x": lambda image, sign: geometry.translate(image, 0, right * sign),
        "translate_y": lambda image, sign: geometry.translate(image, down * sign, 0),
        "rotate": lambda image, sign: geometry.rotate(image, 30 * share * sign),
        **{name: functools.partial(_stronger, call, 0.9 * share) for name, call in enhance.items()},
        "posterize": lambda image, sign: image_ops.posterize(image, bits),
        "solarize": lambda image, sign: image_ops.solarize(image, threshold),
        "autocontrast": lambda image, sign: image_ops.autocontrast(image),
        "equalize": lambda image, sign: image_ops.equalize(image),
    }


def _stronger(enhance, amount, image, sign):
    return enhance(image, 1 + amount * sign)


def _either_way(key, magnitude):
    return jax.random.uniform(key, minval=-magnitude, maxval=magnitude)


def _fixed(function):
    return lambda image, key, magnitude: function(image)


def _signed(function):
    return lambda image, key, magnitude: function(image, _either_way(key, magnitude))


def _factor(function):
    return lambda image, key, magnitude: function(image, 1 + _either_way(key, magnitude))


def _translate(image, key, magnitude):
    moves = jax.random.uniform(key, (2,), minval=-magnitude, maxval=magnitude)
    return geometry.translate(image, *jnp.round(moves * jnp.array(image.shape[1:])))


def _crop(image, key, magnitude):
    return geometry.crop_and_resize(image, *geometry.random_box(key, image.shape[1:], magnitude))


def _blur(image, key, magnitude):
    deviation = jax.random.uniform(key, minval=0.1, maxval=max(magnitude, 0.1))
    return image_ops.gaussian_blur(image, deviation, max(1, math.ceil(3 * magnitude)))


def _posterize(image, key, magnitude):
    return image_ops.posterize(image, jax.random.randint(key, (), round(magnitude), 9))


def _solarize(image, key, magnitude):
    return image_ops.solarize(image, 256 * (1 - magnitude * jax.random.uniform(key)))


def _erase(image, key, magnitude):
    return image_ops.erase(image, key, least=min(0.02, magnitude), most=magnitude)


OPERATIONS = {
    "crop": _crop,
    "flip_horizontal": _fixed(geometry.flip_horizontal),
    "flip_vertical": _fixed(geometry.flip_vertical),
    "rotate": _signed(geometry.rotate),
    "shear_x": _signed(geometry.shear_x),
    "shear_y": _signed(geometry.shear_y),
    "translate": _translate,
    "brightness": _factor(image_ops.brightness),
    "contrast": _factor(image_ops.contrast),
    "saturation": _factor(image_ops.saturation),
    "sharpness": _factor(image_ops.sharpness),
    "hue": _signed(image_ops.hue),
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _fixed(image_ops.autocontrast),
    "equalize": _fixed(image_ops.equalize),
    "blur": _blur,
    "erase": _erase,
}

# What a magnitude may be: least, most, and what it means. Operations that are not here have none.
MAGNITUDES = {
    "crop": (0.01, 1, "least share of the area that is kept"),
    "rotate": (0, 180, "degrees, either way"),
    "shear_x": (0, 1, "pixels a row, either way"),
    "shear_y": (0, 1, "pixels a column, either way"),
    "translate": (0, 1, "share of the side, either way"),
    "brightness": (0, 1, "the factor is 1 - magnitude to 1 + magnitude"),
    "contrast": (0, 1, "the factor is 1 - magnitude to 1 + magnitude"),
    "saturation": (0, 1, "the factor is 1 - magnitude to 1 + magnitude"),
    "sharpness": (0, 1, "the factor is 1 - magnitude to 1 + magnitude"),
    "hue": (0, 0.5, "share of the circle, either way"),
    "posterize": (1, 8, "fewest bits that are kept"),
    "solarize": (0, 1, "share of the values, from white on, that may be turned round"),
    "blur": (0.1, 10, "largest deviation in pixels"),
    "erase": (0, 1, "largest share of the area"),
}
