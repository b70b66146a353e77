import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.balance import class_weights, resample

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [1000, 200, 30, 7]))


def test_balanced_weights_equal_scikit_learn():
    class_weight = pytest.importorskip("sklearn.utils.class_weight")
    want = class_weight.compute_class_weight("balanced", classes=np.arange(4), y=LABELS)
    np.testing.assert_allclose(class_weights(LABELS, 4), want, rtol=1e-6)


def test_balanced_weights_make_classes_count_the_same():
    weights = class_weights(LABELS, 4)
    assert weights.dtype == np.float32
    sums = np.bincount(LABELS, weights[LABELS])
    np.testing.assert_allclose(sums, len(LABELS) / 4, rtol=1e-6)


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.999, 0.999999])
def test_effective_number_is_the_papers(beta):
    # Equation 2 is a geometric series: 1 + beta + ... + beta^(n - 1).
    effective = np.array([sum(beta**k for k in range(n)) for n in (1000, 200, 30, 7)])
    want = 1 / effective
    want *= 4 / want.sum()
    np.testing.assert_allclose(class_weights(LABELS, 4, beta=beta), want, rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "temperature", "want"),
    [
        ("over", 1.0, [1000] * 4),
        ("under", 1.0, [7] * 4),
        ("temperature", 1.0, [1000, 200, 30, 7]),
        # sqrt: 31.623, 14.142, 5.477, 2.646 of 53.888, times 1237.
        ("temperature", 2.0, [726, 325, 126, 60]),
    ],
)
def test_resampled_sizes(method, temperature, want):
    rows = resample(LABELS, 4, method, temperature=temperature, seed=1)
    assert rows.dtype == np.int64
    assert np.abs(np.bincount(LABELS[rows]) - want).max() <= (temperature == 2.0)
    assert len(rows) == sum(want)
    # Each once before any again.
    for label in range(4):
        times = np.bincount(rows, minlength=len(LABELS))[label == LABELS]
        assert times.max() - times.min() <= 1


def test_resampling_follows_from_its_seed():
    first = resample(LABELS, 4, "under", seed=1)
    assert np.array_equal(first, resample(LABELS, 4, "under", seed=1))
    assert set(first.tolist()) != set(resample(LABELS, 4, "under", seed=2).tolist())
    # In random order: the first tenth has every class of an oversampled set.
    counts = np.bincount(LABELS[resample(LABELS, 4, "over", seed=0)[:400]])
    assert np.all(np.abs(counts - 100) < 45)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: class_weights([0, 2], 3), "class 1 is empty, of 3: give it examples"),
        (lambda: resample([0, 2], 3, "over"), "class 1 is empty"),
        (lambda: class_weights([0, 3], 3), "a label is 3: give 0 to num_classes - 1 = 2"),
        (lambda: class_weights([0, -1], 3), "a label is -1"),
        (lambda: class_weights([0.5], 3), "labels are float64"),
        (lambda: class_weights([0], 1, beta=1.0), "beta is 1.0"),
        (lambda: resample([0], 1, "both"), "method is 'both': give one of over, under, temp"),
        (lambda: resample([0], 1, "over", temperature=0), "temperature is 0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
