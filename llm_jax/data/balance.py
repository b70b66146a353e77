"""Balance of classes: weights for the loss, and resampling as indices of examples.

Use one of the two: a resampled set is balanced already.
"""

from collections.abc import Sequence

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.order import apportion, hashed

RESAMPLING = ("over", "under", "temperature")


def class_weights(
    labels: Sequence[int], num_classes: int, *, beta: float | None = None
) -> np.ndarray:
    """Returns a weight for each class, to multiply its examples' losses by: float32 [num_classes].

    Args:
      labels: integers [n] in 0 .. num_classes - 1.
      num_classes: also of those that might be missing.
      beta: None: balanced, n / (num_classes * members), so that every class counts the same and
        the mean weight of an example is 1. In (0, 1): by the effective number of examples
        (1 - beta^members) / (1 - beta) (Cui et al. 2019, arXiv:1901.05555), scaled to the sum
        num_classes; 0.9 .. 0.9999 in the paper, towards 1 it becomes the inverse frequency.

    Raises:
      ConfigError: labels out of range, an empty class, or beta out of range.
    """
    counts = _counts(labels, num_classes).astype(np.float64)
    if beta is None:
        return (counts.sum() / (num_classes * counts)).astype(np.float32)
    if not 0 < beta < 1:
        raise ConfigError(f"beta is {beta}: give a number between 0 and 1, or None for balanced")
    # -expm1(n log beta) is 1 - beta^n without loss of digits.
    weights = (1 - beta) / -np.expm1(counts * np.log(beta))
    return (weights * num_classes / weights.sum()).astype(np.float32)


def resample(
    labels: Sequence[int],
    num_classes: int,
    method: str,
    *,
    temperature: float = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """Returns the indices of a set with the classes in other shares, in random order: int64 [m].

    Within a class each example comes once before any comes again. Another seed an epoch shows
    other examples of the classes that were cut.

    Args:
      labels: integers [n] in 0 .. num_classes - 1.
      num_classes: also of those that might be missing.
      method: "over": every class has as many as the largest; "under": as the smallest;
        "temperature": n in all, a class's share as members^(1 / temperature).
      temperature: 1 leaves the shares, larger ones make them equal.
      seed: of the choice and the order.

    Raises:
      ConfigError: labels out of range, an empty class, an unknown method, or no temperature.
    """
    counts = _counts(labels, num_classes)
    if method not in RESAMPLING:
        raise ConfigError(f"method is {method!r}: give one of {', '.join(RESAMPLING)}")
    if not 0 < temperature < np.inf:
        raise ConfigError(f"temperature is {temperature}: give a number above 0")
    if method == "temperature":
        logs = np.log(counts) / temperature
        sizes = apportion(np.exp(logs - logs.max()), counts.sum())
    else:
        sizes = np.full(num_classes, counts.max() if method == "over" else counts.min())
    random = np.random.Generator(np.random.Philox(key=hashed(f"resample {seed}")))
    labels = np.asarray(labels)
    chosen = []
    for label, size in enumerate(sizes.tolist()):
        members = np.flatnonzero(labels == label)
        rounds = -(-size // len(members))
        rows = [random.permutation(members) for _ in range(rounds)]
        chosen.append(np.concatenate([np.zeros(0, np.int64), *rows])[:size])
    return random.permutation(np.concatenate(chosen))


def _counts(labels, num_classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size:
        raise ConfigError(f"labels are {labels.dtype} {labels.shape}: give integers [n], from 0")
    if labels.min() < 0 or labels.max() >= num_classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ConfigError(f"a label is {wrong}: give 0 to num_classes - 1 = {num_classes - 1}")
    counts = np.bincount(labels, minlength=num_classes)
    if counts.min() == 0:
        raise ConfigError(
            f"class {int(counts.argmin())} is empty, of {num_classes}: give it examples, or count "
            "the classes without it"
        )
    return counts
