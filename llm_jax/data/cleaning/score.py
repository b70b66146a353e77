"""A quality score from a classifier: any callable from text to a number, or the linear one here.

`LinearScore` is logistic regression over a hashed bag of 1- and 2-grams, the kind of classifier
that GPT-3 (Brown et al. 2020, appendix A) and DCLM (Li et al. 2024, arXiv:2406.11794) keep web
text by: good examples against the raw crawl.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.cleaning.text_statistics import tokenize

_BITS = 18
BUCKETS = 1 << _BITS

_FORMAT = {"format": "llm_jax.linear_score", "version": "1"}
# A longer text is judged by its first tokens.
_MAX_TOKENS = 20_000
# Odd constants of a multiplicative hash for a pair of token hashes (Knuth 1998, section 6.4).
_LEFT, _RIGHT = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def keep(score: Callable[[str], float], minimum: float) -> Callable[[str], bool]:
    """Returns a rule: does `score`, of any model, give a text at least `minimum`?

    The rule raises ValueError where the score is not finite.
    """

    def kept(text: str) -> bool:
        value = float(score(text))
        if not math.isfinite(value):
            raise ValueError(f"the quality score of a text is {value}: mend the model that gave it")
        return value >= minimum

    return kept


@dataclasses.dataclass(frozen=True)
class LinearScore:
    """The probability that a text is a good one.

    Attributes:
      weights: [BUCKETS] float32, a log-odds for each bucket.
      bias: log-odds of an empty text.
    """

    weights: np.ndarray
    bias: float

    def __call__(self, text: str) -> float:
        """Returns the score of one text, in [0, 1]."""
        buckets, values = features(text)
        logit = float(self.weights[buckets].astype(np.float64) @ values) + self.bias
        return float(_sigmoid(logit))

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the scores of `texts`, float64 [n]."""
        return np.array([self(text) for text in texts], np.float64)

    def save(self, path: str | Path) -> None:
        """Writes the classifier as a safetensors file."""
        from safetensors.numpy import save_file

        tensors = {"weights": self.weights, "bias": np.array([self.bias], np.float64)}
        save_file(tensors, str(path), metadata=_FORMAT)


def load(path: str | Path) -> LinearScore:
    """Reads what `LinearScore.save` wrote.

    Raises:
      ConfigError: there is no file, or it is another one or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise ConfigError(f"{path} is no file: give one that LinearScore.save wrote")
    try:
        with safe_open(str(path), framework="numpy") as file:
            if file.metadata() != _FORMAT:
                raise ConfigError(f"{path} holds no linear score: its metadata is another's")
            weights, bias = file.get_tensor("weights"), file.get_tensor("bias")
    except SafetensorError as error:
        raise ConfigError(f"{path} cannot be read ({error}): train the score again") from error
    if weights.shape != (BUCKETS,) or bias.shape != (1,):
        raise ConfigError(f"{path} has tensors of other shapes: train the score again")
    return LinearScore(weights, float(bias[0]))


def fit(
    good: Sequence[str],
    bad: Sequence[str],
    *,
    epochs: int = 5,
    learning_rate: float = 0.5,
    l2: float = 1e-6,
    seed: int = 0,
) -> LinearScore:
    """Trains a `LinearScore` by AdaGrad (Duchi et al. 2011), one text a step.

    Both kinds weigh the same, however many texts each has.

    Args:
      good, bad: texts of the two kinds.
      epochs: passes over all texts, each in an order of its own, drawn from `seed`.
      learning_rate: the step of a weight's first update.
      l2: decay of the weights that a text touches.
      seed: of the orders.

    Raises:
      ConfigError: one kind has no text.
    """
    if not len(good) or not len(bad):
        raise ConfigError(f"{len(good)} good and {len(bad)} bad texts: give some of both kinds")
    examples = [features(text) for text in (*good, *bad)]
    total = len(examples)
    labels = np.repeat([1.0, 0.0], (len(good), len(bad)))
    balance = np.repeat([total / 2 / len(good), total / 2 / len(bad)], (len(good), len(bad)))
    weights, squares = np.zeros(BUCKETS), np.full(BUCKETS, 1e-8)
    bias, bias_square = 0.0, 1e-8
    order = np.random.default_rng(seed)
    for _ in range(epochs):
        for index in order.permutation(total):
            buckets, values = examples[index]
            error = _sigmoid(weights[buckets] @ values + bias) - labels[index]
            error *= balance[index]
            gradient = error * values + l2 * weights[buckets]
            squares[buckets] += gradient**2
            weights[buckets] -= learning_rate * gradient / np.sqrt(squares[buckets])
            bias_square += error**2
            bias -= learning_rate * error / math.sqrt(bias_square)
    return LinearScore(weights.astype(np.float32), float(bias))


def features(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the hashed 1- and 2-grams of `text`, in lower case.

    Returns:
      buckets: int64 [m], ascending, each once.
      values: float64 [m], 1 + log(count), of Euclidean length 1.
    """
    tokens = tokenize(text.lower())[:_MAX_TOKENS]
    hashes = {token: zlib.crc32(token.encode("utf-8", "surrogatepass")) for token in set(tokens)}
    ones = np.fromiter(map(hashes.__getitem__, tokens), np.uint64, len(tokens))
    twos = (ones[:-1] * _LEFT) ^ (ones[1:] * _RIGHT)
    grams = np.concatenate((ones * _LEFT, twos))
    # The high bits of a multiplicative hash are the mixed ones.
    buckets, counts = np.unique(grams >> np.uint64(64 - _BITS), return_counts=True)
    values = 1 + np.log(counts)
    return buckets.astype(np.int64), values / (np.linalg.norm(values) or 1.0)


def _sigmoid(logit: float) -> float:
    return 0.5 * (1 + math.tanh(0.5 * logit))
