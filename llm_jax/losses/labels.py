"""Objectives over labels that a head reads: of a text, or of each word in it."""

import jax.numpy as jnp

from llm_jax.losses.classes import one_class_loss, several_classes_loss
from llm_jax.losses.language_model import LossConfig


def label_loss(model, params, batch, *, dropout_key=None, config: LossConfig = LossConfig()):
    """The loss of labels: cross-entropy of classes, of each of several, or a squared error.

    Args:
      model: a `llm_jax.models.Model` with a head.
      params: its parameters, the head's included.
      batch: tokens, mask int32 [B, T] (1 where real), optionally token_types; weights float32 [B];
        labels int32 [B] (softmax cross-entropy), float32 [B, classes] of 0 and 1 (sigmoid
        cross-entropy, averaged over the classes) or float32 [B] (squared error); optionally
        example_ids int32 [B]. Of tags weights and labels are float32 and int32 [B, T].
      dropout_key: turns dropout on.
      config: the objective; a squared error takes nothing of it.

    Returns:
      `((loss_sum, weight_sum), metrics)`, float32 scalars, as `llm_jax.losses.classes` has them;
      of a squared error `nll` is its sum.
    """
    return judged(head_outputs(model, params, batch, dropout_key), batch, config)


def head_outputs(model, params, batch, dropout_key=None, perturbation=None):
    """Returns `model.read` of the texts of a batch of `label_loss`."""
    return model.read(
        params,
        batch["tokens"],
        batch["mask"],
        token_types=batch.get("token_types"),
        dropout_key=dropout_key,
        example_ids=batch.get("example_ids"),
        perturbation=perturbation,
    )


def judged(outputs, batch, config: LossConfig):
    """Returns what `label_loss` does, of a head's outputs."""
    labels, weights = batch["labels"], batch["weights"]
    if jnp.issubdtype(labels.dtype, jnp.integer):
        outputs = outputs.reshape(-1, outputs.shape[-1])
        labels, weights = labels.reshape(-1), weights.reshape(-1)
        return one_class_loss(outputs, labels, weights, config)
    if labels.ndim == 2:
        return several_classes_loss(outputs, labels, weights, config)
    total = jnp.sum(jnp.square(outputs[:, 0] - labels) * weights)
    return (total, jnp.sum(weights)), {"nll": total}
