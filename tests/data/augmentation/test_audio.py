import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.augmentation.audio import (
    SpecAugment,
    WaveformAugmentation,
    add_noise,
    gain,
    shift,
)


def sound(seed=0, samples=4000, dtype=np.float64):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(dtype)


def decibels(signal, noise):
    return 10 * np.log10(np.mean(signal.astype(np.float64) ** 2) / np.mean(noise**2))


@pytest.mark.parametrize("snr", [-10.0, 0.0, 3.7, 40.0])
@pytest.mark.parametrize("length", [1000, 4000, 9000])
def test_noise_has_its_ratio(snr, length):
    waveform, noise = sound(), sound(1, length) + 0.05
    added = add_noise(waveform, noise, snr) - waveform
    assert decibels(waveform, added) == pytest.approx(snr, abs=1e-9)
    # It is the noise, scaled and repeated.
    repeated = np.concatenate([noise] * 4)[:4000]
    np.testing.assert_allclose(added / repeated, added[0] / noise[0], rtol=1e-6)


def test_noise_keeps_the_dtype():
    waveform = sound(dtype=np.float32)
    noisy = add_noise(waveform, sound(1), 10.0)
    assert noisy.dtype == np.float32
    assert decibels(waveform, noisy.astype(np.float64) - waveform) == pytest.approx(10, abs=1e-3)


def test_shift_and_gain():
    waveform = np.arange(1, 6, dtype=np.float32)
    assert shift(waveform, 2).tolist() == [0, 0, 1, 2, 3]
    assert shift(waveform, -1).tolist() == [2, 3, 4, 5, 0]
    assert shift(waveform, 0).tolist() == waveform.tolist()
    assert shift(waveform, 5).tolist() == shift(waveform, -9).tolist() == [0] * 5
    np.testing.assert_allclose(gain(waveform, 20), 10 * waveform, rtol=1e-6)
    np.testing.assert_allclose(gain(waveform, -6), waveform * 0.5011872336, rtol=1e-6)
    assert gain(waveform, 3).dtype == shift(waveform, 1).dtype == np.float32


def generators(count, seed=0):
    return [np.random.default_rng([seed, index]) for index in range(count)]


def test_waveforms_are_drawn_one_by_one():
    waveforms = [sound(seed, 500 + seed) for seed in range(40)]
    noises = (sound(100, 300), np.sin(np.arange(900.0)))
    change = WaveformAugmentation(shift=0.2, gain=6.0, snr=(5.0, 15.0), noises=noises)
    results = change(waveforms, generators(40))
    assert [one.shape for one in results] == [one.shape for one in waveforms]
    for index in (0, 17):
        (alone,) = change([waveforms[index]], [generators(40)[index]])
        np.testing.assert_array_equal(alone, results[index])
    # Without noise the same shifts and gains; and what is left is noise in its range.
    clean = WaveformAugmentation(shift=0.2, gain=6.0)(waveforms, generators(40))
    ratios = [decibels(one, noisy - one) for one, noisy in zip(clean, results)]
    assert 5 <= min(ratios) < 7
    assert 13 < max(ratios) <= 15
    moved = []
    for waveform, one in zip(waveforms, clean):
        place = int(np.argmax(np.correlate(one, waveform, "full"))) - len(waveform) + 1
        moved.append(place / len(waveform))
        factor = 20 * np.log10(one[one != 0][0] / shift(waveform, place)[one != 0][0])
        np.testing.assert_allclose(one, gain(shift(waveform, place), factor), atol=1e-12)
        assert abs(factor) <= 6
    assert -0.2 <= min(moved) < -0.15
    assert 0.15 < max(moved) <= 0.2


def test_white_noise_and_silence():
    change = WaveformAugmentation(snr=(0.0, 0.0))
    noisy = change([sound(), np.zeros(10)], generators(2))
    added = noisy[0] - sound()
    assert decibels(sound(), added) == pytest.approx(0, abs=1e-9)
    assert abs(np.corrcoef(added[1:], added[:-1])[0, 1]) < 0.06
    assert not noisy[1].any()


def keys(count, seed=0):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(count))


def features(count, frames=60, mels=20):
    return np.random.default_rng(0).standard_normal((count, frames, mels)).astype(np.float32)


def stripes(changed):
    """Which rows and columns of [frames, mels] are masked whole; the rest is not at all."""
    times, channels = changed.all(axis=1), changed.all(axis=0)
    np.testing.assert_array_equal(changed, times[:, None] | channels)
    return times, channels


def test_masks_are_stripes_of_the_mean():
    given = features(400)
    masker = SpecAugment(frequency_width=5, time_width=8)
    got = np.asarray(jax.jit(masker)(given, keys(400)))
    assert got.dtype == np.float32
    for one, result in zip(given, got):
        times, channels = stripes(one != result)
        np.testing.assert_allclose(result[one != result], one.mean(), atol=1e-6)
        # Two runs at most, of at most 8 frames and 5 channels.
        for line, widest in ((times, 8), (channels, 5)):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]])))
            runs = edges[1::2] - edges[::2]
            assert len(runs) <= 2
            assert runs.sum() <= 2 * widest


def test_widths_and_places_are_uniform():
    given = features(6000, 20, 10)
    masker = SpecAugment(frequency_masks=1, frequency_width=4, time_masks=1, time_width=3)
    lines = [stripes(one) for one in np.asarray(jax.jit(masker)(given, keys(6000))) != given]
    for axis, widest, size in ((0, 3, 20), (1, 4, 10)):
        masks = np.array([line[axis] for line in lines])
        widths = np.bincount(masks.sum(axis=1), minlength=widest + 1) / 6000
        assert len(widths) == widest + 1
        np.testing.assert_allclose(widths, 1 / (widest + 1), atol=0.025)
        starts = masks[masks.sum(axis=1) == widest].argmax(axis=1)
        shares = np.bincount(starts, minlength=size - widest + 1) / len(starts)
        assert len(shares) == size - widest + 1
        np.testing.assert_allclose(shares, 1 / len(shares), atol=0.05)


def test_an_example_is_masked_alike_in_every_batch():
    given, masker = features(8), SpecAugment(frequency_width=5, time_width=8)
    whole = np.asarray(jax.jit(masker)(given, keys(8)))
    part = np.asarray(jax.jit(masker)(given[5:7], keys(8)[5:7]))
    np.testing.assert_array_equal(part != given[5:7], (whole != given)[5:7])
    # The mean's sum may be in another order.
    np.testing.assert_allclose(part, whole[5:7], atol=1e-6)
    assert not np.array_equal(whole, np.asarray(jax.jit(masker)(given, keys(8, seed=1))))


def test_padding_is_neither_masked_nor_counted():
    given = features(300)
    lengths = np.arange(300) % 60
    given[np.arange(60) >= lengths[:, None]] = 1e6
    masker = SpecAugment(frequency_width=5, time_width=50, time_share=0.5)
    got = np.asarray(jax.jit(masker)(given, keys(300), lengths))
    widest = 0
    for one, result, length in zip(given, got, lengths):
        np.testing.assert_array_equal(one[length:], result[length:])
        if length:
            times, _ = stripes((one != result)[:length])
            assert times.sum() <= 2 * (length // 2)
            changed = one != result
            np.testing.assert_allclose(result[changed], one[:length].mean(), atol=1e-5)
            widest = max(widest, times.sum())
    assert widest > 30


def test_no_masks_change_nothing():
    given = features(3)
    for masker in (SpecAugment(0, 5, 0, 8), SpecAugment(2, 0, 2, 0)):
        np.testing.assert_array_equal(masker(given, keys(3)), given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: add_noise(np.zeros(5), sound(), 0.0), "the waveform is silent"),
        (lambda: add_noise(sound(), np.zeros(5), 0.0), "the noise is silent"),
        (lambda: add_noise(sound(), np.zeros(0), 0.0), r"a noise of shape \(0,\)"),
        (lambda: gain(np.zeros((2, 5)), 0.0), r"a waveform of shape \(2, 5\)"),
        (lambda: shift(np.zeros(5, np.int16), 1), "int16: give one channel of floats"),
        (lambda: WaveformAugmentation(shift=1.0), "shift is 1.0"),
        (lambda: WaveformAugmentation(gain=-1), "gain is -1"),
        (lambda: WaveformAugmentation(snr=(20, 5)), r"snr is \(20, 5\)"),
        (lambda: WaveformAugmentation(noises=(sound(),)), "noises are given without snr"),
        (lambda: SpecAugment(time_masks=-1), "time_masks is -1"),
        (lambda: SpecAugment(time_share=1.5), "time_share is 1.5"),
    ],
)
def test_bad_settings_are_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
