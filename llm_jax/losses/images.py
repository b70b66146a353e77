"""Objectives over images: their class, or what is behind masked patches."""

import jax.numpy as jnp

from llm_jax.losses.classes import one_class_loss
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
      what `llm_jax.losses.classes.one_class_loss` does.
    """
    logits = _outputs(model, params, batch, dropout_key)["logits"]
    return one_class_loss(logits, batch["labels"], batch["weights"], config)


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
