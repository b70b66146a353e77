"""Cross-entropy of classes, of one of them or of several: weighted, smoothed and focused."""

import jax
import jax.numpy as jnp

from llm_jax.losses.language_model import LossConfig


def one_class_loss(logits, labels, weights, config: LossConfig):
    """Cross-entropy of one of several classes, as `torch.nn.CrossEntropyLoss` weights it.

    An example's weight is multiplied by that of its class, and so stands in the denominator too;
    with soft labels class weights are not in it, as there.

    Args:
      logits: float [B, classes].
      labels: int32 [B], or float32 [B, classes] with sum 1.
      weights: float32 [B], of the examples.
      config: the objective.

    Returns:
      `((loss_sum, weight_sum), sums)`, float32 scalars; `nll` is the sum of the plain negative
      log-likelihood in nats and `accuracy` that of the weights whose likeliest class is right (of
      soft labels: the likeliest), both of the weights in the denominator.
    """
    classes = logits.shape[-1]
    shares = _shares(config, classes)
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    scores = logits - normalizer[:, None]
    counted = weights
    if labels.ndim == 2:
        given, labels = labels, jnp.argmax(labels, axis=-1)
    else:
        given = jax.nn.one_hot(labels, classes)
        counted = weights * shares[labels]
    nll = -jnp.sum(given * scores, axis=-1)
    goal = (1.0 - config.label_smoothing) * given + config.label_smoothing / classes
    each = -jnp.sum(shares * goal * _focus(scores, config) * scores, axis=-1)
    loss = jnp.sum(each * weights) + config.z_loss * jnp.sum(jnp.square(normalizer) * counted)
    right = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    sums = {"nll": jnp.sum(nll * counted), "accuracy": jnp.sum(right * counted)}
    return (loss, jnp.sum(counted)), sums


def several_classes_loss(logits, labels, weights, config: LossConfig):
    """Cross-entropy of each class, there or not, averaged over the classes.

    A class's term is multiplied by its weight, which is not in the denominator, as in
    `torch.nn.BCEWithLogitsLoss(weight=...)`.

    Args:
      logits: float [B, classes].
      labels: float32 [B, classes], of 0 and 1.
      weights: float32 [B], of the examples.
      config: the objective.

    Returns:
      as `one_class_loss`; right is what is right of all classes.
    """
    there, absent = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    goal = (1.0 - config.label_smoothing) * labels + config.label_smoothing / 2
    each = goal * _focus(there, config) * there + (1.0 - goal) * _focus(absent, config) * absent
    loss = -jnp.mean(_shares(config, logits.shape[-1]) * each, axis=-1)
    nll = -jnp.mean(labels * there + (1.0 - labels) * absent, axis=-1)
    right = jnp.all((logits > 0) == (labels > 0.5), axis=-1)
    sums = {"nll": jnp.sum(nll * weights), "accuracy": jnp.sum(right * weights)}
    return (jnp.sum(loss * weights), jnp.sum(weights)), sums


def _shares(config: LossConfig, classes: int):
    """Returns float32 [classes], by which each class counts."""
    return jnp.array(config.by_class(), jnp.float32) if config.class_weights else jnp.ones(classes)


def _focus(scores, config: LossConfig):
    """Returns the focal factor (1 - p)^gamma of log-probabilities (Lin et al. 2017, equation 4)."""
    if not config.focal_gamma:
        return 1.0
    # Off 0, where a power below 1 has no derivative.
    rest = jnp.maximum(-jnp.expm1(scores), jnp.finfo(jnp.float32).tiny)
    return rest**config.focal_gamma
