"""Augmented sound: noise, shift and gain of waveforms on the host, SpecAugment on the device."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.configuration import ConfigError


def add_noise(waveform: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Returns the waveform with noise whose power is `snr` decibels below its own.

    10 log10(sum(waveform^2) / sum(added^2)) is `snr`, in float64 before the last rounding.

    Args:
      waveform: floats [samples].
      noise: floats [m]; repeated, or cut at the end, to the waveform's length.
      snr: signal-to-noise ratio in decibels; 0 is as loud as the signal.

    Returns:
      the waveform's shape and dtype; it may exceed -1 .. 1, nothing is clipped.

    Raises:
      ConfigError: one of them is no channel of floats, or has no power there.
    """
    waveform, noise = _channel("waveform", waveform), _channel("noise", noise)
    signal = waveform.astype(np.float64)
    added = np.resize(noise.astype(np.float64), waveform.shape)
    powers = np.sum(signal**2), np.sum(added**2)
    for name, power in zip(("waveform", "noise"), powers):
        if not power > 0:
            raise ConfigError(f"the {name} is silent: a signal-to-noise ratio needs sound in both")
    scale = np.sqrt(powers[0] / powers[1] / 10 ** (snr / 10))
    return (signal + scale * added).astype(waveform.dtype)


def shift(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Returns the waveform so many samples later (earlier if negative), silence moving in."""
    waveform = _channel("waveform", waveform)
    result = np.zeros_like(waveform)
    length = len(waveform) - abs(samples)
    if length > 0:
        begin, end = max(samples, 0), max(-samples, 0)
        result[begin : begin + length] = waveform[end : end + length]
    return result


def gain(waveform: np.ndarray, decibels: float) -> np.ndarray:
    """Returns the waveform louder by so many decibels (20 are ten times the amplitude)."""
    waveform = _channel("waveform", waveform)
    return (waveform * 10 ** (decibels / 20)).astype(waveform.dtype)


@dataclasses.dataclass(frozen=True)
class WaveformAugmentation:
    """Shift, gain and noise, each drawn anew for every waveform, uniformly.

    Attributes:
      shift: the sound moves by up to this share of its length, either way.
      gain: it becomes louder or softer by up to so many decibels.
      snr: lowest and highest signal-to-noise ratio in decibels; None adds no noise.
      noises: recordings, one of which is drawn and begun anywhere; none: white noise.
    """

    shift: float = 0.0
    gain: float = 0.0
    snr: tuple[float, float] | None = None
    noises: tuple[np.ndarray, ...] = ()

    def __post_init__(self):
        if not 0 <= self.shift < 1:
            raise ConfigError(f"shift is {self.shift}: give a share from 0 to below 1")
        if not 0 <= self.gain < np.inf:
            raise ConfigError(f"gain is {self.gain}: give 0 or more decibels")
        if self.snr is not None and not -np.inf < self.snr[0] <= self.snr[1] < np.inf:
            raise ConfigError(f"snr is {self.snr}: give the lowest and the highest, in decibels")
        if self.noises and self.snr is None:
            raise ConfigError("noises are given without snr: say how loud they are, e.g. (5, 20)")

    def __call__(
        self, waveforms: Sequence[np.ndarray], randoms: Sequence[np.random.Generator]
    ) -> list[np.ndarray]:
        """Returns waveforms of the same lengths and dtypes; a silent one gets no noise.

        Args:
          waveforms: floats [samples] each.
          randoms: a generator for each waveform, made of (seed, its index).
        """
        return [self._change(one, random) for one, random in zip(waveforms, randoms, strict=True)]

    def _change(self, waveform, random) -> np.ndarray:
        # Every option has its own draws, so that one does not change what another does.
        moved, louder, ratio, which, begin = random.random(5)
        waveform = _channel("waveform", waveform)
        waveform = shift(waveform, round(self.shift * (2 * moved - 1) * len(waveform)))
        waveform = gain(waveform, self.gain * (2 * louder - 1))
        if self.snr is None or not np.any(waveform):
            return waveform
        if self.noises:
            noise = self.noises[int(which * len(self.noises))]
            noise = np.roll(noise, -int(begin * len(noise)))
        else:
            noise = random.standard_normal(len(waveform))
        low, high = self.snr
        return add_noise(waveform, noise, low + (high - low) * ratio)


@dataclasses.dataclass(frozen=True)
class SpecAugment:
    """Masks of frequencies and times (Park et al. 2019, arXiv:1904.08779), without time warping.

    The defaults are the paper's policy LD; LB has one mask of each kind. A mask's width is drawn
    from 0 to its limit, both included, and then its place.

    Attributes:
      frequency_masks, frequency_width: the paper's m_F and F, in mel channels.
      time_masks, time_width: m_T and T, in frames.
      time_share: p: a time mask is at most this share of the sound.
    """

    frequency_masks: int = 2
    frequency_width: int = 27
    time_masks: int = 2
    time_width: int = 100
    time_share: float = 1.0

    def __post_init__(self):
        for name in ("frequency_masks", "frequency_width", "time_masks", "time_width"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: give 0 or more")
        if not 0 <= self.time_share <= 1:
            raise ConfigError(f"time_share is {self.time_share}: give a share from 0 to 1")

    def __call__(self, features, keys, lengths=None):
        """Masks each example by its own draws; to be called under `jit`.

        Args:
          features: floats [B, frames, mels], logarithmic.
          keys: jax keys [B], e.g. `jax.vmap(jax.random.fold_in, (None, 0))(key, indices)`.
          lengths: int [B], frames of each example that are no padding; None: all.

        Returns:
          features of the same shape and dtype; what is masked has the mean of the example, which
          is the paper's 0 of normalized features. Padding is left.
        """
        if lengths is None:
            lengths = jnp.full(features.shape[:1], features.shape[1])
        return jax.vmap(self._mask)(features, keys, lengths)

    def _mask(self, features, key, length):
        frames, mels = features.shape
        real = jnp.arange(frames) < length
        total = jnp.sum(jnp.where(real[:, None], features.astype(jnp.float32), 0))
        mean = total / jnp.maximum(length * mels, 1)
        channels, times = jax.random.split(key)
        widest = jnp.minimum(self.frequency_width, mels)
        masked = _stripes(channels, self.frequency_masks, widest, mels, mels)
        widest = jnp.minimum(self.time_width, jnp.floor(self.time_share * length).astype(int))
        late = _stripes(times, self.time_masks, widest, length, frames)
        masked = (masked | late[:, None]) & real[:, None]
        return jnp.where(masked, mean.astype(features.dtype), features)


def _stripes(key, count: int, widest, length, size: int):
    """Returns bool [size]: the union of `count` runs of up to `widest` within `length`."""
    draws = jax.random.uniform(key, (2, count))
    # Draws lie below 1, but their products may round up.
    width = jnp.minimum(jnp.floor(draws[0] * (widest + 1)), widest)
    room = length - width
    start = jnp.minimum(jnp.floor(draws[1] * (room + 1)), room)
    places = jnp.arange(size)[:, None]
    return jnp.any((places >= start) & (places < start + width), axis=1)


def _channel(name: str, samples) -> np.ndarray:
    samples = np.asarray(samples)
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating) or not samples.size:
        raise ConfigError(
            f"a {name} of shape {samples.shape} and {samples.dtype}: give one channel of floats"
        )
    return samples
