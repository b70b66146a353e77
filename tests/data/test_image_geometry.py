"""Moves of pixels equal Pillow's on bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from llm_jax.data import image_geometry as geometry
from tests.data.test_image_ops import images, pillow


def transformed(*coefficients):
    return lambda p: p.transform(p.size, Image.AFFINE, coefficients, Image.BILINEAR)


MOVES = {
    "rotate": (lambda x: geometry.rotate(x, 25.0), lambda p: p.rotate(25, Image.BILINEAR)),
    "rotate back": (lambda x: geometry.rotate(x, -131.0), lambda p: p.rotate(-131, Image.BILINEAR)),
    "shear_x": (lambda x: geometry.shear_x(x, 0.23), transformed(1, 0.23, 0, 0, 1, 0)),
    "shear_y": (lambda x: geometry.shear_y(x, -0.313), transformed(1, 0, 0, -0.313, 1, 0)),
    "translate": (lambda x: geometry.translate(x, 2.25, -3.5), transformed(1, 0, 3.5, 0, 1, -2.25)),
    "flip_horizontal": (geometry.flip_horizontal, ImageOps.mirror),
    "flip_vertical": (geometry.flip_vertical, ImageOps.flip),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_are_pillows(name):
    ours, theirs = MOVES[name]
    for image in images():
        got = np.asarray(jax.jit(ours)(jnp.asarray(np.uint8(image), jnp.float32)))
        want = pillow(image, theirs)
        # A value on the border between two bytes may fall on its other side in float32.
        assert np.mean(got == want) > 0.99
        np.testing.assert_allclose(got, want, atol=1)


@pytest.mark.parametrize("box", [(3, 5, 11, 7), (0, 0, 20, 24), (19, 0, 1, 24), (6, 2, 9, 22)])
def test_a_resized_crop_is_pillows(box):
    top, left, height, width = box
    crop = jax.jit(geometry.crop_and_resize)
    for image in images():
        got = np.asarray(crop(jnp.asarray(np.uint8(image), jnp.float32), *map(float, box)))
        want = pillow(
            image,
            lambda p: p.crop((left, top, left + width, top + height)).resize(
                p.size, Image.BILINEAR
            ),
        )
        # Such borders are many where sides divide each other's multiples.
        assert np.mean(got == want) > 0.97
        np.testing.assert_allclose(got, want, atol=1)


def test_random_boxes_lie_inside_and_have_the_asked_area():
    keys = jax.random.split(jax.random.key(0), 300)
    boxes = np.stack(jax.vmap(lambda k: jnp.stack(geometry.random_box(k, (40, 60), 0.3)))(keys))
    top, left, height, width = boxes.T
    assert (boxes == np.round(boxes)).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height).max() == 40
    assert (left + width).max() == 60
    share = height * width / 2400
    assert 0.28 < share.min() < 0.35
    assert 0.75 < share.max() <= 1
    assert 0.7 < (width / height).min() < 0.85
    assert len(np.unique(boxes, axis=0)) > 250
