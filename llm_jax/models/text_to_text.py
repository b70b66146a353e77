"""What the encoder-decoders of text share beyond `encoder_decoder`: inputs, outputs, arithmetic.

Their modules take these functions for their own, by name.
"""

import jax
import jax.numpy as jnp

from llm_jax.models import encoder_decoder
from llm_jax.models.flops import Flops


def example_inputs(config) -> dict:
    """Returns the smallest inputs of the module: they shape its parameters."""
    del config
    token = jnp.zeros((1, 1), jnp.int32)
    return {"input_ids": token, "decoder_input_ids": token}


def forward(
    model, params, *, input_ids, decoder_input_ids, attention_mask=None, decoder_attention_mask=None
) -> dict:
    """Returns what the family's model for conditional generation does in `transformers`.

    Args:
      model: the `llm_jax.models.Model`.
      params: its parameters.
      input_ids: int [B, S].
      decoder_input_ids: int [B, T].
      attention_mask: int [B, S], 0 where a source token is padding.
      decoder_attention_mask: int [B, T], 0 where a target token is padding.

    Returns:
      `logits [B, T, V]`, `last_hidden_state [B, T, D]` of the decoder,
      `encoder_last_hidden_state [B, S, D]`.

    Raises:
      ConfigError: a sequence longer than the model's positions, where it has a last one.
    """
    outputs = encoder_decoder.run(
        model,
        params,
        input_ids=input_ids,
        attention_mask=attention_mask,
        decoder_input_ids=decoder_input_ids,
        decoder_attention_mask=decoder_attention_mask,
    )
    return {"logits": model.family.logits(model, params, outputs["last_hidden_state"]), **outputs}


def biased_logits(model, params, hidden):
    """Returns float32 [..., V] of the decoder's `hidden [..., D]`; its bias is not trained."""
    return model.logits(params, hidden) + jax.lax.stop_gradient(params["logits_bias"])


def flops_per_token(config, sequence_length: int) -> Flops:
    """Operations of training on a target token and a source token, both rows equally long."""
    return encoder_decoder.flops(config, 1.0, sequence_length, sequence_length)
