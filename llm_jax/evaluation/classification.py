"""What a classifier's logits are worth: scores with their intervals, calibration, worst errors.

Labels of shape [N] are classes (softmax, one each); labels of shape [N, C] are 0 or 1 (sigmoid,
any number each, decided at probability 0.5). All figures are computed in float64.
"""

from collections.abc import Sequence

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.order import hashed

# Resamples drawn at a time: bounds the memory of the bootstrap.
_CHUNK = 100


def classification_scores(logits, labels, names: Sequence[str]) -> dict[str, float]:
    """Returns a classifier's scores.

    Args:
      logits: float [N, C].
      labels: int [N], or 0 and 1 [N, C].
      names: of the C classes.

    Returns:
      `accuracy` (of whole examples: with labels [N, C] all C must be right); `f1`, the mean over
      the classes that are among the labels or the predictions; `f1_micro`; `f1_weighted`, by the
      classes' support; `log_loss` in nats; `brier` (Brier 1950); `ece` of `reliability`. For
      labels [N] `matthews` as well, the correlation R_K of Gorodkin 2004 (0 where it is undefined);
      for labels [N, C] `average_precision`, the mean over the classes that occur. With labels
      [N, C], `log_loss` and `brier` are means over all N * C decisions.

    Raises:
      ConfigError: shapes that do not fit, no example, labels out of range, logits not finite.
    """
    logits, labels = _checked(logits, labels)
    _check_names(logits, names)
    truth, said = _decisions(logits, labels)
    hits, predicted, support = (truth & said).sum(0), said.sum(0), truth.sum(0)
    of_class = _ratio(2 * hits, predicted + support)
    scores = {
        "accuracy": (truth == said).all(axis=1).mean(),
        "f1": of_class[predicted + support > 0].mean() if (predicted + support).any() else 0.0,
        "f1_micro": _ratio(2 * hits.sum(), predicted.sum() + support.sum()),
        "f1_weighted": _ratio((of_class * support).sum(), support.sum()),
    }
    if labels.ndim == 1:
        scores["matthews"] = _matthews(hits.sum(), predicted, support, len(labels))
        squares = ((probabilities(logits, labels) - truth) ** 2).sum(axis=1)
    else:
        squares = (probabilities(logits, labels) - truth) ** 2
        occurring = np.flatnonzero(support)
        each = [_average_precision(logits[:, c], truth[:, c]) for c in occurring]
        scores["average_precision"] = np.mean(each) if each else 0.0
    scores["log_loss"] = losses(logits, labels).mean() / (1 if labels.ndim == 1 else len(names))
    scores |= {"brier": squares.mean(), "ece": reliability(logits, labels)["ece"]}
    return {name: float(value) for name, value in scores.items()}


def regression_scores(values, targets) -> dict[str, float]:
    """Returns `mse`, `mae`, `r2`, `pearson` and `spearman` (average ranks) of predicted numbers.

    Args:
      values, targets: float [N], N of 2 or more.

    Returns:
      the scores; a correlation of a constant, and `r2` of constant targets, are 0.

    Raises:
      ConfigError: shapes that do not fit, fewer than 2, or numbers not finite.
    """
    values, targets = np.asarray(values, np.float64), np.asarray(targets, np.float64)
    if values.ndim != 1 or values.shape != targets.shape or len(values) < 2:
        raise ConfigError(
            f"values have the shape {values.shape}, targets {targets.shape}: give [N] both, N > 1"
        )
    if not (np.isfinite(values).all() and np.isfinite(targets).all()):
        raise ConfigError("values or targets are not all finite: the model has diverged")
    errors = values - targets
    scores = {
        "mse": (errors**2).mean(),
        "mae": np.abs(errors).mean(),
        "r2": 1 - (errors**2).sum() / targets.var() / len(targets) if np.ptp(targets) else 0.0,
        "pearson": _correlation(values, targets),
        "spearman": _correlation(_ranks(values), _ranks(targets)),
    }
    return {name: float(value) for name, value in scores.items()}


def confusion_matrix(logits, labels) -> np.ndarray:
    """Returns how often class i was taken for j, int64 [C, C], of labels [N].

    Of labels [N, C], int64 [C, 2, 2]: for each class, [its label][its prediction].
    """
    logits, labels = _checked(logits, labels)
    truth, said = _decisions(logits, labels)
    if labels.ndim == 1:
        return truth.T.astype(np.int64) @ said.astype(np.int64)
    rows = [[(a & b).sum(0) for b in (~said, said)] for a in (~truth, truth)]
    return np.array(rows).transpose(2, 0, 1)


def per_class(
    logits, labels, names: Sequence[str], *, resamples: int = 1000, seed: int = 0
) -> list[dict]:
    """Returns each class's scores, and those of all, with 95% bootstrap intervals.

    The intervals are percentiles over resampled examples (Efron 1979). A score depends only on how
    many examples have each outcome (labels, predictions), and those counts of a resample are
    multinomial, so they are drawn in place of the examples. A resample in which a class is neither
    a label nor a prediction has no F1 of it and is left out of its interval.

    Args:
      logits, labels, names: as of `classification_scores`.
      resamples: how many.
      seed: of the draws.

    Returns:
      for each class `name, support, precision, recall, f1, f1_low, f1_high` (0 where a score is
      0 / 0); then a row `all` with the means over the classes that are among the labels or the
      predictions, and with `accuracy, accuracy_low, accuracy_high`.

    Raises:
      ConfigError: as `classification_scores`.
    """
    logits, labels = _checked(logits, labels)
    _check_names(logits, names)
    truth, said = _decisions(logits, labels)
    bits = np.packbits(np.hstack([truth, said]), axis=1)  # fewer bytes to sort
    outcomes, counts = np.unique(bits, axis=0, return_counts=True)
    truth, said = np.hsplit(np.unpackbits(outcomes, axis=1, count=2 * len(names)) > 0, 2)
    parts = [part.astype(np.float64) for part in (truth & said, said, truth)]
    right = (truth == said).all(axis=1)
    hits, predicted, support = (counts @ part for part in parts)
    seen = predicted + support > 0
    precision, recall = _ratio(hits, predicted), _ratio(hits, support)
    f1 = _ratio(2 * hits, predicted + support)

    random = np.random.Generator(np.random.Philox(key=hashed(f"bootstrap {seed}")))
    drawn_f1, drawn_all, drawn_right = [], [], []
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        drawn = random.multinomial(len(labels), counts / len(labels), size=size)
        hits, predicted, occurring = (drawn @ part for part in parts)
        both = predicted + occurring
        each = np.divide(2 * hits, both, out=np.full_like(both, np.nan), where=both > 0)
        drawn_f1.append(each)
        drawn_all.append(_ratio(np.nansum(each, axis=1), (both > 0).sum(axis=1)))
        drawn_right.append(drawn @ right / len(labels))
    drawn_f1 = np.concatenate(drawn_f1)
    low_high = [_interval(drawn_f1[:, c]) for c in range(len(names))]
    rows = [
        {
            "name": str(names[c]),
            "support": int(support[c]),
            "precision": float(precision[c]),
            "recall": float(recall[c]),
            "f1": float(f1[c]),
            "f1_low": low_high[c][0],
            "f1_high": low_high[c][1],
        }
        for c in range(len(names))
    ]
    means = [float(v[seen].mean()) if seen.any() else 0.0 for v in (precision, recall, f1)]
    whole = {"name": "all", "support": len(labels)} | dict(
        zip(("precision", "recall", "f1"), means)
    )
    whole["f1_low"], whole["f1_high"] = _interval(np.concatenate(drawn_all))
    whole["accuracy"] = float(counts @ right / len(labels))
    whole["accuracy_low"], whole["accuracy_high"] = _interval(np.concatenate(drawn_right))
    return [*rows, whole]


def reliability(logits, labels, bins: int = 15) -> dict:
    """Returns whether probabilities come true (Guo et al. 2017, arXiv:1706.04599).

    Confidence is the probability of what was predicted; with labels [N, C] each of the N * C
    decisions counts. The bins are (i / bins, (i + 1) / bins].

    Args:
      logits, labels: as of `classification_scores`.
      bins: of equal width from 0 to 1.

    Returns:
      `confidence` and `accuracy` (float64 [bins], the means in each, nan in an empty one),
      `count` (int64 [bins]), and `ece`, the mean of |accuracy - confidence| over predictions.
    """
    logits, labels = _checked(logits, labels)
    truth, said = _decisions(logits, labels)
    chances = probabilities(logits, labels)
    if labels.ndim == 1:
        confidence, correct = chances.max(axis=1), (truth & said).any(axis=1)
    else:
        confidence, correct = np.maximum(chances, 1 - chances).ravel(), (truth == said).ravel()
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights=v, minlength=bins) for v in (confidence, correct)]
    ece = np.abs(sums[0] - sums[1]).sum() / len(confidence)
    means = [np.divide(v, count, out=np.full(bins, np.nan), where=count > 0) for v in sums]
    return {"confidence": means[0], "accuracy": means[1], "count": count, "ece": float(ece)}


def fit_temperature(logits, labels) -> float:
    """Returns the T above 0 at which `logits / T` have the least log loss (Guo et al. 2017).

    The loss is convex in 1 / T, so that its derivative is bisected. T stays in 0.01 .. 100: logits
    that make no error want T = 0, and logits that know nothing want T without end.

    Args:
      logits, labels: as of `classification_scores`; not the examples that T is judged on.
    """
    logits, labels = _checked(logits, labels)
    truth, _ = _decisions(logits, labels)
    low, high = np.log(0.01), np.log(100.0)  # of 1 / T
    for _ in range(40):  # to 1e-11 of T
        middle = (low + high) / 2
        excess = probabilities(logits * np.exp(middle), labels) - truth
        low, high = (low, middle) if (excess * logits).sum() > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def worst_errors(logits, labels, count: int) -> np.ndarray:
    """Returns at most `count` indices of wrongly predicted examples, int64, largest loss first."""
    logits, labels = _checked(logits, labels)
    truth, said = _decisions(logits, labels)
    wrong = np.flatnonzero((truth != said).any(axis=1))
    return wrong[np.argsort(-losses(logits, labels)[wrong], kind="stable")][:count]


def probabilities(logits, labels) -> np.ndarray:
    """Returns the classes' probabilities, float64 [N, C]: softmax for labels [N], else sigmoid."""
    logits = np.asarray(logits, np.float64)
    if np.ndim(labels) == 2:
        return np.exp(-np.logaddexp(0, -logits))
    return np.exp(logits - _log_sum(logits))


def losses(logits, labels) -> np.ndarray:
    """Returns each example's loss in nats, float64 [N]; of labels [N, C] the sum over classes."""
    logits, labels = _checked(logits, labels)
    if labels.ndim == 1:
        return _log_sum(logits)[:, 0] - logits[np.arange(len(labels)), labels]
    return (np.logaddexp(0, logits) - labels * logits).sum(axis=1)


def _log_sum(logits: np.ndarray) -> np.ndarray:
    top = logits.max(axis=1, keepdims=True)
    return top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True))


def _decisions(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels and predictions, bool [N, C] both."""
    if labels.ndim == 2:
        return labels > 0, logits > 0
    classes = np.arange(logits.shape[1])
    return labels[:, None] == classes, logits.argmax(axis=1)[:, None] == classes


def _checked(logits, labels) -> tuple[np.ndarray, np.ndarray]:
    """Returns float64 logits and int64 labels; ConfigError where they do not fit."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.ndim != 2 or not logits.size or labels.shape not in (logits.shape[:1], logits.shape):
        raise ConfigError(
            f"logits have the shape {logits.shape}, labels {labels.shape}: give [N, C] with [N] "
            "(one class each) or [N, C] (0 or 1)"
        )
    if not np.isfinite(logits).all():
        first = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise ConfigError(f"the logits of example {first} are not finite: the model has diverged")
    top = logits.shape[1] if labels.ndim == 1 else 2
    bad = (labels < 0) | (labels >= top) | (labels != np.floor(labels))
    if bad.any():
        first = int(np.argwhere(bad)[0][0])
        raise ConfigError(
            f"example {first} has the label {labels[bad][0]}: give whole numbers 0 to {top - 1}"
        )
    return logits, labels.astype(np.int64)


def _check_names(logits: np.ndarray, names: Sequence[str]) -> None:
    if len(names) != logits.shape[1]:
        raise ConfigError(
            f"{len(names)} names for logits of {logits.shape[1]} classes: give one for each"
        )


def _ratio(part, whole):
    """Returns part / whole, and 0 where that is 0 / 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) > 0)


def _interval(values: np.ndarray) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if not values.size:
        return 0.0, 0.0
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _matthews(right: int, predicted: np.ndarray, support: np.ndarray, total: int) -> float:
    spread = np.sqrt(float(total**2 - predicted @ predicted) * float(total**2 - support @ support))
    return (right * total - predicted @ support) / spread if spread else 0.0


def _average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Returns the mean precision at the positives' thresholds; equal scores share a threshold."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(truth[order])[last]
    return float((np.diff(hits, prepend=0) * hits / (np.flatnonzero(last) + 1)).sum() / hits[-1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if not (np.ptp(a) and np.ptp(b)):
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
