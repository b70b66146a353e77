"""The objective of encoder-decoders: the target, token by token, given the source."""

import jax
import jax.numpy as jnp

from llm_jax.losses.cross_entropy import cross_entropy_from_hidden
from llm_jax.losses.language_model import LossConfig


def target_loss(model, params, batch, *, dropout_key=None, config: LossConfig = LossConfig()):
    """Weighted cross-entropy of the target's tokens, each predicted from those before it.

    Args:
      model: a `llm_jax.models.Model` of an encoder-decoder of text.
      params: its parameters.
      batch: source, source_mask int32 [B, S], targets int32 [B, D], weights float32 [B, D];
        optionally example_ids int32 [B].
      dropout_key: turns dropout on.
      config: the objective; Vaswani et al. 2017 (arXiv:1706.03762) smooth labels by 0.1.

    Returns:
      `((loss_sum, weight_sum), {"nll": nats})`, float32 scalars.
    """
    targets = batch["targets"]
    hidden, _ = model.apply(
        params,
        input_ids=batch["source"],
        attention_mask=batch["source_mask"],
        decoder_input_ids=shifted_right(targets, model.config.decoder_start_token_id),
        dropout_key=dropout_key,
        example_ids=batch.get("example_ids"),
    )
    table, bias = model.output_embedding(params), None
    if "logits_bias" in params:
        bias = jax.lax.stop_gradient(params["logits_bias"])
        bias = jnp.pad(bias, (0, len(table) - len(bias)))
    loss, weight, nll = cross_entropy_from_hidden(
        hidden,
        table,
        targets,
        batch["weights"],
        vocab_size=model.config.vocab_size,
        label_smoothing=config.label_smoothing,
        z_loss=config.z_loss,
        bias=bias,
        chunk=model.execution.loss_chunk,
    )
    return (loss, weight), {"nll": nll}


def shifted_right(targets, start: int):
    """Returns the decoder's inputs [B, D] for `targets [B, D]`: the token `start` comes first."""
    first = jnp.full_like(targets[:, :1], start)
    return jnp.concatenate([first, targets[:, :-1]], axis=1)
