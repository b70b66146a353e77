"""The objectives of BERT: the tokens behind a mask, and whether two sentences belong together."""

import jax
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
        float32 [B, P]; optionally token_types int32 [B, T] and example_ids int32 [B].
      dropout_key: turns dropout on.
      config: the objective.

    Returns:
      `((loss_sum, weight_sum), {"nll": nats})`, float32 scalars.
    """
    outputs = _outputs(model, params, batch, dropout_key)
    loss, weight, nll = _of_tokens(model, params, batch, outputs, config)
    return (loss, weight), {"nll": nll}


def sentence_pair_loss(
    model, params, batch, *, dropout_key=None, config: LossConfig = LossConfig()
):
    """`masked_token_loss`, and the cross-entropy of the pairs' labels beside it.

    The sum of the paper's two means (section 3.1) where rows have equally many picked tokens; else
    a pair counts as its row's tokens do, so that the sum is divided by one weight.

    Args:
      model: a `llm_jax.models.Model` of the family bert with the head "pretraining".
      params: its parameters.
      batch: as there, with token_types int32 [B, T] and labels int32 [B].
      dropout_key: turns dropout on.
      config: the objective; its label smoothing is of tokens.

    Returns:
      `((loss_sum, weight_sum), {"nll": nats of tokens, "accuracy": of the pairs})`, float32
      scalars.
    """
    outputs = _outputs(model, params, batch, dropout_key)
    loss, weight, nll = _of_tokens(model, params, batch, outputs, config)
    scores = jax.nn.log_softmax(outputs["seq_relationship_logits"])
    labels = batch["labels"][:, None]
    pairs = -jnp.take_along_axis(scores, labels, axis=1)[:, 0]
    right = jnp.argmax(scores, axis=1) == batch["labels"]
    weights = jnp.sum(batch["weights"], axis=1)
    sums = {"nll": nll, "accuracy": jnp.sum(right * weights)}
    return (loss + jnp.sum(pairs * weights), weight), sums


def _outputs(model, params, batch, dropout_key) -> dict:
    inputs = {
        name: batch[name] for name in ("segment_ids", "positions", "token_types") if name in batch
    }
    if model.config.padding_id is not None:  # RoBERTa counts positions from behind the padding
        inputs["positions"] = inputs["positions"] + model.config.padding_id + 1
    return model.apply(
        params,
        batch["tokens"],
        dropout_key=dropout_key,
        example_ids=batch.get("example_ids"),
        **inputs,
    )


def _of_tokens(model, params, batch, outputs, config: LossConfig):
    """Returns the sums of loss, weight and nats of the picked tokens."""
    return cross_entropy_from_hidden(
        jnp.take_along_axis(outputs["transformed"], batch["picked"][..., None], axis=1),
        model.output_embedding(params),
        batch["targets"],
        batch["weights"],
        vocab_size=model.config.vocab_size,
        label_smoothing=config.label_smoothing,
        z_loss=config.z_loss,
        bias=params["head_bias"],
        chunk=model.execution.loss_chunk,
    )
