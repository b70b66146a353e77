import numpy as np
import pytest
from scipy import optimize, stats

from llm_jax.configuration import ConfigError
from llm_jax.evaluation import classification
from llm_jax.evaluation.classification import (
    classification_scores,
    confusion_matrix,
    fit_temperature,
    losses,
    per_class,
    probabilities,
    regression_scores,
    reliability,
    worst_errors,
)

metrics = pytest.importorskip("sklearn.metrics", reason="the extra `splits` has scikit-learn")


def single(count=300, classes=5, seed=0):
    """Logits [N, C] that are often right, and labels [N] of uneven classes; class 4 is rare."""
    rng = np.random.default_rng(seed)
    shares = np.array([8.0, 4, 3, 2, 0.2][:classes])
    labels = rng.choice(classes, count, p=shares / shares.sum())
    logits = 3 * rng.normal(size=(count, classes)) + 3 * np.eye(classes)[labels]
    return logits.astype(np.float32), labels, [f"class {c}" for c in range(classes)]


def multi(count=200, classes=4, seed=1):
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, classes)) < 0.3).astype(np.float32)
    # Rounded, so that some scores are equal.
    logits = np.round(2 * rng.normal(size=labels.shape) + 2 * labels - 1, 1) + 0.01
    return logits, labels, [f"tag {c}" for c in range(classes)]


def close(got, expected):
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert type(got[name]) is float
        assert got[name] == pytest.approx(value, abs=1e-10), name


@pytest.mark.parametrize("absent", [False, True])
def test_scores_of_one_label_are_scikit_learns(absent):
    logits, labels, names = single()
    if absent:  # class 3 is neither a label nor a prediction
        labels, logits = np.where(labels == 3, 0, labels), logits.copy()
        logits[:, 3] = -50
    said, chances = logits.argmax(axis=1), probabilities(logits, labels)
    close(
        classification_scores(logits, labels, names),
        {
            "accuracy": metrics.accuracy_score(labels, said),
            "f1": metrics.f1_score(labels, said, average="macro"),
            "f1_micro": metrics.f1_score(labels, said, average="micro"),
            "f1_weighted": metrics.f1_score(labels, said, average="weighted"),
            "matthews": metrics.matthews_corrcoef(labels, said),
            "log_loss": metrics.log_loss(labels, chances, labels=range(5)),
            "brier": metrics.brier_score_loss(
                labels, chances, labels=range(5), scale_by_half=False
            ),
            "ece": reliability(logits, labels)["ece"],
        },
    )
    expected = metrics.confusion_matrix(labels, said, labels=range(5))
    np.testing.assert_array_equal(confusion_matrix(logits, labels), expected)


def test_scores_of_many_labels_are_scikit_learns():
    logits, labels, names = multi()
    said, chances = (logits > 0).astype(int), 1 / (1 + np.exp(-logits))
    close(
        classification_scores(logits, labels, names),
        {
            "accuracy": metrics.accuracy_score(labels, said),
            "f1": metrics.f1_score(labels, said, average="macro"),
            "f1_micro": metrics.f1_score(labels, said, average="micro"),
            "f1_weighted": metrics.f1_score(labels, said, average="weighted"),
            "average_precision": metrics.average_precision_score(labels, logits, average="macro"),
            "log_loss": metrics.log_loss(labels.ravel(), chances.ravel()),
            "brier": metrics.brier_score_loss(labels.ravel(), chances.ravel()),
            "ece": reliability(logits, labels)["ece"],
        },
    )
    expected = metrics.multilabel_confusion_matrix(labels, said)
    np.testing.assert_array_equal(confusion_matrix(logits, labels), expected)


def test_classes_that_are_never_said_are_left_out_of_the_mean_and_zero_alone():
    logits, labels = np.array([[9.0, 0, 0], [9, 0, 0], [0, 9, 0]]), np.array([0, 0, 0])
    rows = per_class(logits, labels, "abc")
    assert [row["f1"] for row in rows[:3]] == [0.8, 0.0, 0.0]
    assert rows[2]["f1_low"] == rows[2]["f1_high"] == 0.0
    assert rows[3]["f1"] == classification_scores(logits, labels, "abc")["f1"] == 0.4


def test_resamples_without_a_class_tell_nothing_of_it():
    labels = np.array([1] * 2 + [0] * 58)  # an eighth of the resamples have no example of class 1
    rows = per_class(9 * np.eye(2)[labels], labels, "ab")
    assert [(row["f1_low"], row["f1_high"]) for row in rows] == [(1.0, 1.0)] * 3


def test_scores_of_numbers_are_scipys_and_scikit_learns():
    rng = np.random.default_rng(2)
    targets = rng.integers(0, 6, 80).astype(float)  # with ties
    values = np.round(targets + rng.normal(size=80), 1)
    close(
        regression_scores(values, targets),
        {
            "mse": metrics.mean_squared_error(targets, values),
            "mae": metrics.mean_absolute_error(targets, values),
            "r2": metrics.r2_score(targets, values),
            "pearson": stats.pearsonr(values, targets).statistic,
            "spearman": stats.spearmanr(values, targets).statistic,
        },
    )
    constant = regression_scores(np.ones(3), np.array([1.0, 2, 3]))
    assert constant["pearson"] == constant["spearman"] == 0.0


@pytest.mark.parametrize("make", [single, multi])
def test_intervals_are_those_of_a_loop_over_the_same_draws(make, monkeypatch):
    logits, labels, names = make(count=60)
    rows = per_class(logits, labels, names, resamples=150, seed=3)

    # The examples of each drawn outcome, scored one resample after the other by scikit-learn.
    truth = labels if labels.ndim == 2 else np.eye(len(names))[labels]
    said = logits > 0 if labels.ndim == 2 else np.eye(len(names))[logits.argmax(axis=1)]
    outcomes, counts = np.unique(np.hstack([truth, said]), axis=0, return_counts=True)
    key = classification.hashed("bootstrap 3")
    random = np.random.Generator(np.random.Philox(key=key))
    each, right = [], []
    for _ in range(150):
        examples = outcomes.repeat(random.multinomial(60, counts / 60), axis=0).astype(int)
        a, b = np.hsplit(examples, 2)
        each.append(metrics.f1_score(a, b, average=None, zero_division=np.nan))
        right.append(metrics.accuracy_score(a, b))
    low, high = np.nanpercentile(each, [2.5, 97.5], axis=0)
    for c, row in enumerate(rows[:-1]):
        assert row["support"] == truth[:, c].sum()
        assert row["precision"] == pytest.approx(
            metrics.precision_score(truth[:, c], said[:, c], zero_division=0)
        )
        assert row["recall"] == pytest.approx(
            metrics.recall_score(truth[:, c], said[:, c], zero_division=0)
        )
        assert (row["f1_low"], row["f1_high"]) == pytest.approx((low[c], high[c]))
    whole = rows[-1]
    expected = np.percentile(right, [2.5, 97.5])
    assert (whole["accuracy_low"], whole["accuracy_high"]) == pytest.approx(tuple(expected))
    expected = np.percentile(np.nanmean(each, axis=1), [2.5, 97.5])
    assert (whole["f1_low"], whole["f1_high"]) == pytest.approx(tuple(expected))


def test_intervals_are_scipys_to_the_noise_of_the_draws():
    logits, labels, names = single(count=200, classes=4)
    said = logits.argmax(axis=1)
    whole = per_class(logits, labels, names, resamples=4000)[-1]
    expected = stats.bootstrap(
        (labels == said,), np.mean, n_resamples=4000, method="percentile", rng=0
    ).confidence_interval
    assert whole["accuracy_low"] == pytest.approx(expected.low, abs=0.01)
    assert whole["accuracy_high"] == pytest.approx(expected.high, abs=0.01)
    assert whole == per_class(logits, labels, names, resamples=4000)[-1]
    assert whole != per_class(logits, labels, names, resamples=4000, seed=1)[-1]


def test_calibration_error_by_hand():
    # Confidences 0.9, 0.9, 0.6, 0.7 with right, wrong, right, wrong; bins (0.5, 0.75], (0.75, 1].
    chances = np.array([0.9, 0.9, 0.6, 0.7])
    logits = np.log(np.stack([chances, 1 - chances], axis=1))
    table = reliability(logits, np.array([0, 1, 0, 1]), bins=4)
    np.testing.assert_array_equal(table["count"], [0, 0, 2, 2])
    np.testing.assert_allclose(table["confidence"], [np.nan, np.nan, 0.65, 0.9])
    np.testing.assert_allclose(table["accuracy"], [np.nan, np.nan, 0.5, 0.5])
    assert table["ece"] == pytest.approx((2 * 0.15 + 2 * 0.4) / 4)
    # Of many labels, every decision: sigmoids of 0.9, 0.2, 0.4 say yes, no, no.
    chances = np.array([[0.9, 0.2, 0.4]])
    table = reliability(np.log(chances / (1 - chances)), np.array([[1, 0, 1]]), bins=2)
    np.testing.assert_array_equal(table["count"], [0, 3])
    assert table["ece"] == pytest.approx(abs((0.9 + 0.8 + 0.6) - 2) / 3)


@pytest.mark.parametrize("make", [single, multi])
def test_temperature_is_where_scipy_finds_the_least_loss(make):
    logits, labels, _ = make()
    found = optimize.minimize_scalar(
        lambda log: losses(logits / np.exp(log), labels).mean(), bounds=(-4, 4), method="bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    got = fit_temperature(logits, labels)
    assert got == pytest.approx(np.exp(found.x), rel=1e-5)
    assert abs(got - 1) > 0.05
    before, after = (reliability(x, labels)["ece"] for x in (logits, logits / got))
    assert after < before


def test_temperature_ends_where_logits_are_perfect():
    assert fit_temperature(np.eye(3), np.arange(3)) == pytest.approx(0.01, rel=1e-6)


def test_worst_errors_come_by_loss():
    logits = np.array([[9.0, 0], [5, 0], [0, 1], [0, 7]])
    labels = np.array([1, 1, 1, 0])
    np.testing.assert_array_equal(worst_errors(logits, labels, 2), [0, 3])
    np.testing.assert_array_equal(worst_errors(logits, labels, 9), [0, 3, 1])
    many = worst_errors(logits, np.array([[1, 1], [1, 0], [0, 0], [0, 0]]), 9)
    np.testing.assert_array_equal(many, [3, 2, 0])


def test_large_logits_stay_finite():
    logits = np.array([[1000.0, -1000.0], [-1000.0, 1000.0]])
    assert classification_scores(logits, np.array([1, 1]), "ab")["log_loss"] == 1000.0
    assert classification_scores(logits, np.eye(2)[::-1], "ab")["log_loss"] == 1000.0


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((3, 2)), np.zeros(4, int), r"\(3, 2\), labels \(4,\)"),
        (np.zeros((0, 2)), np.zeros(0, int), r"\(0, 2\)"),
        (np.zeros((3, 2)), np.array([0, 2, 1]), "example 1 has the label 2: .* 0 to 1"),
        (np.zeros((2, 2)), np.array([0, -1]), "example 1 has the label -1"),
        (np.zeros((2, 3)), np.array([[0, 1, 0], [0, 0.5, 1]]), "example 1 has the label 0.5"),
        (np.array([[0, 1], [np.nan, 0]]), np.array([0, 1]), "example 1 are not finite"),
        (np.zeros((3, 3)), np.array([0, 2, 1]), "2 names for logits of 3 classes"),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels, message):
    with pytest.raises(ConfigError, match=message):
        classification_scores(logits, labels, ["a", "b"])
