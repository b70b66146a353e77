import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.objectives import MaskedPatches
from tests.data.objective_rows import generators


@pytest.mark.parametrize("rate", [0.25, 0.6, 0.75])
def test_the_rate_is_exact_and_every_patch_as_likely(rate):
    images = np.zeros((2000, 1, 28, 28), np.float32)
    masked = MaskedPatches(mask_rate=rate, patch_size=4).batch(images, generators(2000))["masked"]
    assert masked.shape == (2000, 49)
    assert masked.dtype == bool
    assert (masked.sum(axis=1) == round(rate * 49)).all()
    share = round(rate * 49) / 49
    assert abs(masked.mean(axis=0) - share).max() < 4.5 * np.sqrt(share * (1 - share) / 2000)
    # Neighbours are masked independently, but for the fixed number.
    both = (masked[:, :-1] & masked[:, 1:]).mean()
    number = round(rate * 49)
    assert abs(both - number * (number - 1) / (49 * 48)) < 0.01


def test_an_image_depends_on_its_generator_alone():
    images = np.zeros((6, 3, 16, 24), np.uint8)
    whole = MaskedPatches(patch_size=8).batch(images, generators(6))["masked"]
    assert whole.shape == (6, 6)
    alone = MaskedPatches(patch_size=8).batch(images[2:3], generators(6)[2:3])["masked"]
    np.testing.assert_array_equal(alone[0], whole[2])
    other = MaskedPatches(patch_size=8).batch(images, generators(6, 1))["masked"]
    assert not (whole == other).all()


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="mask_rate is 0"):
        MaskedPatches(mask_rate=0.0)
    with pytest.raises(ConfigError, match="patches of 5 pixels .* 28 x 28"):
        MaskedPatches(patch_size=5).batch(np.zeros((1, 1, 28, 28)), generators(1))
