"""Image operations equal Pillow's on bytes, or a formula's."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from llm_jax.data import image_ops
from llm_jax.data.augment import resample


def images():
    """Noise, a gradient, few values, one value: uint8 [3, 20, 24]."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 20 * 24).reshape(20, 24)
    return [
        random.integers(0, 256, (3, 20, 24)),
        np.stack([ramp, ramp[::-1] / 2 + 30, ramp.T.reshape(20, 24)]),
        random.choice([3, 90, 91, 200], (3, 20, 24)),
        np.full((3, 20, 24), 77),
    ]


def pillow(image, function):
    picture = Image.fromarray(np.uint8(image).transpose(1, 2, 0))
    return np.asarray(function(picture)).transpose(2, 0, 1)


OPERATIONS = {
    "brightness": (image_ops.brightness, lambda p, x: ImageEnhance.Brightness(p).enhance(x)),
    "contrast": (image_ops.contrast, lambda p, x: ImageEnhance.Contrast(p).enhance(x)),
    "saturation": (image_ops.saturation, lambda p, x: ImageEnhance.Color(p).enhance(x)),
    "sharpness": (image_ops.sharpness, lambda p, x: ImageEnhance.Sharpness(p).enhance(x)),
}


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.9])
@pytest.mark.parametrize("name", OPERATIONS)
def test_enhancements_are_pillows(name, factor):
    ours, theirs = OPERATIONS[name]
    for image in images():
        got = jax.jit(ours)(jnp.asarray(np.uint8(image), jnp.float32), factor)
        np.testing.assert_array_equal(got, pillow(image, lambda p: theirs(p, factor)))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (image_ops.gray, lambda p: p.convert("L").convert("RGB")),
        (image_ops.autocontrast, ImageOps.autocontrast),
        (image_ops.equalize, ImageOps.equalize),
        (lambda x: image_ops.solarize(x, 100.0), lambda p: ImageOps.solarize(p, 100)),
        (lambda x: image_ops.posterize(x, 3), lambda p: ImageOps.posterize(p, 3)),
    ],
    ids=["gray", "autocontrast", "equalize", "solarize", "posterize"],
)
def test_operations_are_pillows(ours, theirs):
    for image in images():
        got = jax.jit(ours)(jnp.asarray(np.uint8(image), jnp.float32))
        np.testing.assert_array_equal(got, pillow(image, theirs))


@pytest.mark.parametrize("turn", [0.0, 0.1, -0.4, 0.5])
def test_a_turned_hue_is_that_of_hsv(turn):
    image = images()[0]
    got = np.asarray(image_ops.hue(jnp.asarray(image, jnp.float32), turn))
    for y, x in ((0, 0), (3, 5), (19, 23), (7, 7)):
        h, s, v = colorsys.rgb_to_hsv(*(image[:, y, x] / 255))
        want = np.array(colorsys.hsv_to_rgb((h + turn) % 1, s, v)) * 255
        np.testing.assert_allclose(got[:, y, x], want, atol=0.501)


def test_an_affine_map_reads_where_resample_and_pillow_read():
    image = np.uint8(images()[0])
    angle = np.radians(25)
    matrix = 0.8 * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    offset = np.array([2.3, -4.1])
    got = np.asarray(
        image_ops.affine(jnp.asarray(image, jnp.float32), jnp.asarray(matrix), jnp.asarray(offset))
    )
    exact = resample(image[None].astype(np.float32), matrix[None], offset[None])[0]
    assert (exact == 0).any()
    assert ((exact - got > -0.01) & (exact - got < 1.01)).all()
    centre = np.array([10, 12])
    (d, e), (b, a) = matrix
    f, c = offset + centre - matrix @ centre
    coefficients = (a, b, c, e, d, f)
    want = pillow(
        image, lambda p: p.transform(p.size, Image.AFFINE, coefficients, Image.BILINEAR)
    )  # fmt: skip
    # Sums in another order: a value near a byte may fall on its other side.
    assert np.mean(got == want) > 0.99
    np.testing.assert_allclose(got, want, atol=1)


def test_a_blur_is_scipys():
    image = np.uint8(images()[0])
    want = [ndimage.gaussian_filter(np.float64(p), 1.3, mode="mirror", radius=4) for p in image]
    got = image_ops.gaussian_blur(jnp.asarray(image, jnp.float32), 1.3, radius=4)
    np.testing.assert_allclose(got, want, atol=0.51)


def test_an_erased_rectangle_has_the_asked_area_and_lies_inside():
    image = jnp.full((1, 40, 50), 300.0)  # a value that noise never has
    for seed in range(30):
        erased = np.asarray(image_ops.erase(image, jax.random.key(seed), least=0.1, most=0.2))
        changed = erased[0] != 300
        rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
        assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 0.1 - 0.03 <= changed.mean() <= 0.2 + 0.03
        height, width = len(rows), len(columns)
        assert 0.25 < height / width < 4
        assert len(np.unique(erased[0][changed])) > 20
