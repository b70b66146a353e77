"""The objective of BERT: the tokens behind a mask."""

import jax.numpy as jnp

from llm_jax.losses.cross_entropy import cross_entropy_from_hidden
from llm_jax.losses.language_model import LossConfig


def masked_token_loss(model, params, batch, *, dropout_key=None, config: LossConfig = LossConfig()):
    """Weighted cross-entropy of the picked tokens (Devlin et al. 2018, arXiv:1810.04805).

    Logits are made at the picked places only, about one in seven of all.

    Args:
      model: a `llm_jax.models.Model` of the family bert with a head for masked tokens.
      params: its parameters.
      batch: tokens, segment_ids, positions int32 [B, T]; picked, targets int32 [B, P], weights
        float32 [B, P]; optionally example_ids int32 [B].
      dropout_key: turns dropout on.
      config: the objective.

    Returns:
      `((loss_sum, weight_sum), {"nll": nats})`, float32 scalars.
    """
    inputs = {name: batch[name] for name in ("segment_ids", "positions")}
    if model.config.padding_id is not None:  # RoBERTa counts positions from behind the padding
        inputs["positions"] = inputs["positions"] + model.config.padding_id + 1
    states = model.apply(
        params,
        batch["tokens"],
        dropout_key=dropout_key,
        example_ids=batch.get("example_ids"),
        **inputs,
    )["transformed"]
    loss, weight, nll = cross_entropy_from_hidden(
        jnp.take_along_axis(states, batch["picked"][..., None], axis=1),
        model.output_embedding(params),
        batch["targets"],
        batch["weights"],
        vocab_size=model.config.vocab_size,
        label_smoothing=config.label_smoothing,
        z_loss=config.z_loss,
        bias=params["head_bias"],
        chunk=model.execution.loss_chunk,
    )
    return (loss, weight), {"nll": nll}
