import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.log_mel import log_mel


def sounds():
    rng = np.random.default_rng(0)
    time = np.arange(40_000) / 16_000
    tone = 0.4 * np.sin(2 * np.pi * 440 * time) + 0.01 * np.sin(2 * np.pi * 3000 * time)
    return {
        "noise": 0.3 * rng.normal(size=32_000),
        "tone": tone,
        "short": rng.uniform(-1, 1, 333),
        "long": 0.1 * rng.normal(size=90_000),
        "silence": np.zeros(100),
    }


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("name", sounds())
def test_spectrogram_is_the_reference(name, bins):
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins, chunk_length=5)
    sound = sounds()[name].astype(np.float32)
    got = log_mel(sound, num_mel_bins=bins, seconds=5)
    assert got.shape == (bins, 500)
    assert got.dtype == np.float32
    padded = np.pad(sound[:80_000], (0, max(0, 80_000 - len(sound))))
    expected = extractor._np_extract_fbank_features(padded[None], "cpu")[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    if name != "tone":
        # Beside a pure tone, float32 leaves noise near the floor; the reference's own two paths
        # differ there by more than this.
        pytest.importorskip("torch")
        whole = extractor(sound, sampling_rate=16_000, return_tensors="np")["input_features"][0]
        np.testing.assert_allclose(got, whole, atol=1e-5)


@pytest.mark.parametrize("waveform", [np.zeros((2, 100)), np.zeros(100, np.int16)])
def test_what_is_no_waveform_is_refused(waveform):
    with pytest.raises(ConfigError, match="one channel of floats"):
        log_mel(waveform)
