"""Sound in, log-mel spectrogram out: what Whisper listens to. Plain numpy, on the host."""

import functools

import numpy as np

from llm_jax.configuration import ConfigError

SAMPLING_RATE = 16_000
WINDOW = 400
HOP = 160
HIGHEST = 8_000.0

# Slaney's mel scale (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above.
_LINEAR_HERTZ = 200.0 / 3.0
_BREAK_HERTZ = 1_000.0
_BREAK_MEL = _BREAK_HERTZ / _LINEAR_HERTZ
_LOG_STEP = np.log(6.4) / 27.0


def log_mel(waveform: np.ndarray, *, num_mel_bins: int = 80, seconds: int = 30) -> np.ndarray:
    """Returns float32 [num_mel_bins, 100 * seconds], as `transformers`' WhisperFeatureExtractor.

    Windows of 25 ms every 10 ms; the decimal logarithm of the power in each mel band, at most 8
    below the loudest, shifted and scaled to lie near -1 .. 1 (Radford et al. 2022,
    arXiv:2212.04356). Computed in float64.

    Args:
      waveform: [samples] in -1 .. 1 at 16 kHz; silence is added or the end cut to `seconds`.
      num_mel_bins: 80, or 128 in the largest models.
      seconds: length of the result.

    Raises:
      ConfigError: a waveform that is not one channel of floats.
    """
    waveform = np.asarray(waveform)
    if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
        raise ConfigError(
            f"a waveform of shape {waveform.shape} and {waveform.dtype}: give one channel of "
            "floats between -1 and 1, at 16 kHz"
        )
    samples = seconds * SAMPLING_RATE
    waveform = waveform[:samples].astype(np.float32).astype(np.float64)
    waveform = np.pad(waveform, (0, samples - len(waveform)))
    # Windows are centred on their time: the first begins half a window before the sound.
    waveform = np.pad(waveform, WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::HOP][: samples // HOP]
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(frames * hann, axis=-1)) ** 2
    mel = np.log10(np.maximum(mel_filters(num_mel_bins) @ power.T, 1e-10))
    mel = np.maximum(mel, mel.max() - 8.0)
    return ((mel + 4.0) / 4.0).astype(np.float32)


@functools.lru_cache
def mel_filters(num_mel_bins: int) -> np.ndarray:
    """Returns float64 [num_mel_bins, 201]: triangles over frequencies, of equal area (Slaney)."""
    frequency = np.linspace(0.0, SAMPLING_RATE / 2, WINDOW // 2 + 1)
    edges = _hertz(np.linspace(0.0, _mel(HIGHEST), num_mel_bins + 2))
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequency - low) / (middle - low), (high - frequency) / (high - middle)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return triangles * (2.0 / (high - low))


def _mel(hertz: float) -> float:
    if hertz < _BREAK_HERTZ:
        return hertz / _LINEAR_HERTZ
    return _BREAK_MEL + np.log(hertz / _BREAK_HERTZ) / _LOG_STEP


def _hertz(mel: np.ndarray) -> np.ndarray:
    logarithmic = _BREAK_HERTZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HERTZ, logarithmic)
