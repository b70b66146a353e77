"""Objectives over images: their class, or what is behind masked patches."""

import jax
import jax.numpy as jnp

from llm_jax.losses.language_model import LossConfig


def class_loss(model, params, batch, *, dropout_key=None, config: LossConfig = LossConfig()):
    """Weighted cross-entropy of labels.

    Args:
      model: a `llm_jax.models.Model` whose module gives `logits [B, classes]`.
      params: its parameters.
      batch: pixels float [B, C, H, W], weights float32 [B], labels int32 [B] or float32
        [B, classes] with sum 1 (soft ones: cross-entropy with the whole distribution); optionally
        example_ids int32 [B].
      dropout_key: turns dropout on.
      config: the objective.

    Returns:
      `((loss_sum, weight_sum), metrics)`, float32 scalars; `nll` is the sum of the plain negative
      log-likelihood in nats and `accuracy` that of the weights whose likeliest class is right (of
      soft labels: the likeliest).
    """
    logits = _outputs(model, params, batch, dropout_key)["logits"]
    return weighted_class_loss(logits, batch["labels"], batch["weights"], config)


def weighted_class_loss(logits, labels, weights, config: LossConfig):
    """Returns what `class_loss` does, of logits [B, classes]."""
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    if labels.ndim == 2:
        picked, labels = jnp.sum(logits * labels, axis=-1), jnp.argmax(labels, axis=-1)
    else:
        picked = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    nll = normalizer - picked
    smooth = config.label_smoothing
    loss = (1.0 - smooth) * nll + smooth * (normalizer - jnp.mean(logits, axis=-1))
    loss = loss + config.z_loss * jnp.square(normalizer)
    right = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    sums = {"nll": jnp.sum(nll * weights), "accuracy": jnp.sum(right * weights)}
    return (jnp.sum(loss * weights), jnp.sum(weights)), sums


def masked_patch_loss(model, params, batch, *, dropout_key=None, config: LossConfig = LossConfig()):
    """Mean absolute error of the pixels of masked patches (SimMIM, arXiv:2111.09886).

    Args:
      model: a `llm_jax.models.Model` of the family vit with head "pixels" and a mask token.
      params: its parameters.
      batch: pixels float [B, C, H, W], masked bool [B, patches], weights float32 [B]; optionally
        example_ids int32 [B].
      dropout_key: turns dropout on.
      config: not used: there are no classes to smooth.

    Returns:
      `((loss_sum, weight_sum), {"nll": loss_sum})`: each image counts as its masked patches do.
    """
    del config
    masked = batch["masked"]
    outputs = _outputs(model, params, batch, dropout_key, masked=masked)
    wanted = patches_of(batch["pixels"], model.config.patch_size)
    error = jnp.mean(jnp.abs(outputs["patches"] - wanted), axis=-1)
    weights = masked * batch["weights"][:, None]
    loss = jnp.sum(error * weights)
    return (loss, jnp.sum(weights)), {"nll": loss}


def patches_of(pixels, size: int):
    """Returns [B, patches, C size size] of `pixels [B, C, H, W]`, patches row by row."""
    batch, channels, height, width = pixels.shape
    rows, columns = height // size, width // size
    pixels = pixels.reshape(batch, channels, rows, size, columns, size)
    return pixels.transpose(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)


def _outputs(model, params, batch, dropout_key, **more):
    return model.apply(
        params,
        batch["pixels"].astype(model.dtype),
        dropout_key=dropout_key,
        example_ids=batch.get("example_ids"),
        **more,
    )
