import numpy as np
import PIL.Image
import pytest
import scipy.ndimage

from llm_jax.configuration import ConfigError
from llm_jax.data.augment import Augmentation, resample
from tests.data.objective_rows import generators


def pictures(count, height=17, width=12, channels=2, dtype=np.float32):
    values = np.random.default_rng(0).integers(1, 256, (count, channels, height, width))
    return values.astype(dtype)


def moved(image, down, right):
    """The image with 0 where nothing moves in, by slices."""
    _, height, width = image.shape
    result = np.zeros_like(image)
    result[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = image[
        :, max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]
    return result


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("flip", [False, True])
def test_shifts_and_flips_are_exact_and_all_of_them_come(dtype, flip):
    images = pictures(600, dtype=dtype)
    kept = images.copy()
    results = Augmentation(shift=2, flip=flip)(images, generators(600))
    np.testing.assert_array_equal(images, kept)
    assert results.dtype == dtype
    found, mirrored = set(), 0
    for image, result in zip(images, results):
        for mirror in (False, True):
            for down in range(-2, 3):
                for right in range(-2, 3):
                    source = image[:, :, ::-1] if mirror else image
                    if np.array_equal(result, moved(source, down, right)):
                        found.add((mirror, down, right))
                        mirrored += mirror
    assert len(found) == (50 if flip else 25)
    assert abs(mirrored - 300 * flip) < 4.5 * np.sqrt(600) / 2


def test_no_option_changes_nothing():
    images = pictures(3)
    np.testing.assert_array_equal(Augmentation()(images, generators(3)), images)


def test_resampling_equals_scipy():
    draw = np.random.default_rng(1)
    images = pictures(20)
    matrix = np.eye(2) + 0.3 * draw.standard_normal((20, 2, 2))
    offset = 2 * draw.standard_normal((20, 2))
    got = resample(images, matrix, offset)
    centre = np.array([8, 5.5])
    inner = 0
    for image, result, m, o in zip(images, got, matrix, offset):
        start = o + centre - m @ centre
        places = np.einsum("ij,jyx->iyx", m, np.indices((17, 12))) + start[:, None, None]
        limit = np.array([16, 11])[:, None, None]
        inside = np.all((places >= 0) & (places <= limit), axis=0)
        outside = np.any((places < -0.5) | (places > limit + 0.5), axis=0)
        inner += inside.sum()
        for channel, found in zip(image, result):
            want = scipy.ndimage.affine_transform(
                channel.astype(np.float64), m, start, order=1, mode="nearest"
            )
            np.testing.assert_allclose(found[~outside], want[~outside], rtol=2e-6, atol=2e-4)
            assert not found[outside].any()
    assert inner > 1000


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_quarter_turns_are_exact(quarter):
    images = pictures(2, 12, 12)
    angle = np.radians(90 * quarter)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    got = resample(images, np.array([turn] * 2), np.zeros((2, 2)))
    want = [np.rot90(images, times, axes=(2, 3)) for times in (quarter, -quarter)]
    assert any(np.array_equal(got, one) for one in want)


def test_crops_equal_pillow():
    draw = np.random.default_rng(2)
    for image in pictures(20, 24, 20, channels=1):
        height, width = draw.uniform(8, 24), draw.uniform(8, 20)
        top, left = draw.uniform(0, 24 - height), draw.uniform(0, 20 - width)
        matrix = np.diag([height / 24, width / 20])
        offset = np.array([top + height / 2 - 12, left + width / 2 - 10])
        got = resample(image[None], matrix[None], offset[None])[0, 0]
        want = np.asarray(
            PIL.Image.fromarray(image[0], "F").resize(
                (20, 24),
                PIL.Image.Resampling.BILINEAR,
                box=(left, top, left + width, top + height),
            )
        )
        # Pillow does not look beyond the box: compare where both pixels are in it.
        y = top + (np.arange(24) + 0.5) * height / 24
        x = left + (np.arange(20) + 0.5) * width / 20
        rows = (y > top + 1) & (y < top + height - 1)
        columns = (x > left + 1) & (x < left + width - 1)
        part = np.ix_(rows, columns)
        np.testing.assert_allclose(got[part], want[part], rtol=1e-4, atol=0.02)


def test_crops_lie_in_the_image_and_have_the_area_asked_for():
    augmentation = Augmentation(crop=0.5)
    draws = np.random.default_rng(3).random((2000, 8))
    matrix, offset = augmentation._maps(draws, 30, 40)
    heights, widths = matrix[:, 0, 0] * 30, matrix[:, 1, 1] * 40
    assert not matrix[:, [0, 1], [1, 0]].any()
    for size, length, centre in ((heights, 30, offset[:, 0]), (widths, 40, offset[:, 1])):
        assert (np.abs(centre) + size / 2 <= length / 2 + 1e-9).all()
        assert (np.abs(centre) > 1).any()
    whole = (heights < 29.999) & (widths < 39.999)
    areas = (heights * widths)[whole] / 1200
    assert areas.min() > 0.499
    assert areas.max() > 0.8
    ratios = (widths / heights)[whole]
    assert 0.749 < ratios.min() < 0.78
    assert 1.3 < ratios.max() < 1.334


def test_area_shape_and_place_of_a_crop_are_independent():
    draws = np.random.default_rng(5).random((20_000, 8))
    matrix, offset = Augmentation(crop=0.3)._maps(draws, 30, 40)
    size = matrix[:, [0, 1], [0, 1]] * (30, 40)
    # The largest areas have few shapes: look at those that every shape has room for.
    inner = size.prod(1) < 0.55 * 1200
    size, offset = size[inner], offset[inner]
    figures = [size.prod(1), size[:, 1] / size[:, 0], *(offset / ((30, 40) - size)).T]
    assert np.abs(np.corrcoef(figures) - np.eye(4)).max() < 4.5 / np.sqrt(inner.sum())


def test_all_options_are_what_each_does_one_after_the_other():
    draws = np.random.default_rng(6).random((50, 8))
    options = {"crop": 0.4, "rotation": 30.0, "shift": 3, "flip": True}

    def affine(**options):
        matrix, offset = Augmentation(**options)._maps(draws, 20, 20)
        whole = np.zeros((50, 3, 3))
        whole[:, :2, :2], whole[:, :2, 2], whole[:, 2, 2] = matrix, offset, 1
        return whole

    crop, turn, shift, flip = (affine(**{name: value}) for name, value in options.items())
    # A map goes from the result's pixel to the image's: the last option is undone first.
    np.testing.assert_allclose(affine(**options), crop @ turn @ flip @ shift, atol=1e-12)


def test_rotations_stay_within_the_angle():
    draws = np.random.default_rng(4).random((2000, 8))
    matrix, offset = Augmentation(rotation=15.0)._maps(draws, 28, 28)
    angles = np.degrees(np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0]))
    assert 14.5 < angles.max() <= 15
    assert -15 <= angles.min() < -14.5
    np.testing.assert_allclose(np.linalg.det(matrix), 1, rtol=1e-12)
    assert not offset.any()


def test_all_together_depend_on_an_image_and_its_generator_alone():
    augmentation = Augmentation(shift=2, crop=0.6, rotation=20.0, flip=True)
    images = pictures(8, dtype=np.uint8)
    whole = augmentation(images, generators(8))
    assert whole.shape == images.shape
    for index in range(8):
        alone = augmentation(images[index : index + 1], generators(8)[index : index + 1])
        np.testing.assert_array_equal(alone[0], whole[index])
    assert not np.array_equal(whole, augmentation(images, generators(8, 1)))


def test_uint8_is_the_rounded_float():
    augmentation = Augmentation(shift=1, crop=0.7, rotation=30.0)
    images = pictures(10)
    exact = augmentation(images, generators(10))
    rounded = augmentation(images.astype(np.uint8), generators(10))
    np.testing.assert_array_equal(rounded, np.rint(exact).astype(np.uint8))


@pytest.mark.parametrize(
    ("change", "part"),
    [({"shift": -1}, "shift is -1"), ({"crop": 1.5}, "crop is 1.5"),
     ({"rotation": 200.0}, "rotation is 200.0")],
)  # fmt: skip
def test_impossible_settings_are_refused(change, part):
    with pytest.raises(ConfigError, match=part):
        Augmentation(**change)
