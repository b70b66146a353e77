"""The Transformer (Vaswani et al. 2017, arXiv:1706.03762), for translation.

Post-norm blocks with a ReLU MLP over sinusoidal positions; one token table, scaled by
`sqrt(hidden_size)`, for source, target and output. Marian's translation models
(Junczys-Dowmunt et al. 2018, arXiv:1804.00344) are the same with another activation.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.configuration import ConfigError
from llm_jax.kernels.attention import Scores
from llm_jax.layers.attention import Shape
from llm_jax.layers.block import BlockConfig
from llm_jax.layers.embed import Table
from llm_jax.layers.mlp import ACTIVATIONS
from llm_jax.layers.partition import named
from llm_jax.models import checks, encoder_decoder, text_to_text
from llm_jax.models.encoder_decoder import EncoderDecoder, Shared


@dataclasses.dataclass(frozen=True)
class Config(Shared):
    """Sizes and choices of a Transformer; the defaults are the paper's base model.

    Attributes:
      window, attention_pattern: see `llm_jax.models.encoder_decoder.Shared`.
      num_encoder_layers, num_decoder_layers: of the two stacks.
      positions: "sinusoidal", or "alibi" (in the encoder by distance to both sides).
      max_positions: longest source and longest target.
      dropout_rate: behind embeddings and branches; the paper's is 0.1, and 0.3 for its big model.
      attention_dropout_rate: of attention probabilities; needs the plain attention.
      activation_dropout_rate: of the MLPs' hidden units; it is kept for files alone, and training
        with dropout refuses another than 0.
      activation: a key of `llm_jax.layers.mlp.ACTIVATIONS`.
      scale_embedding: multiplies token vectors by `sqrt(hidden_size)`.
      init_std: of all matrices.
      pad_token_id, bos_token_id, eos_token_id, decoder_start_token_id: of the tokenizer. The
        padding's vector is not trained where it is an input.
    """

    family: str = "seq2seq"
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    num_heads: int = 8
    hidden_size: int = 512
    mlp_size: int = 2048
    vocab_size: int = 37000
    positions: str = "sinusoidal"
    max_positions: int = 512
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    activation_dropout_rate: float = 0.0
    activation: str = "relu"
    scale_embedding: bool = True
    init_std: float = 0.02
    pad_token_id: int = 0
    bos_token_id: int | None = None
    eos_token_id: int = 1
    decoder_start_token_id: int = 0

    def __post_init__(self):
        checks.check_sizes(
            self,
            (
                "num_encoder_layers",
                "num_decoder_layers",
                "num_heads",
                "hidden_size",
                "mlp_size",
                "vocab_size",
                "max_positions",
            ),
        )
        checks.check_heads(self)
        checks.check_choice(self, "activation", tuple(ACTIVATIONS))
        checks.check_choice(self, "positions", ("sinusoidal", "alibi"))
        super().__post_init__()
        if self.hidden_size % 2:
            raise ConfigError(
                f"model.hidden_size is {self.hidden_size}: sinusoidal positions need an even one"
            )

    def block(self, cross: bool) -> BlockConfig:
        """Returns what the encoder's blocks are, or the decoder's, which `cross`."""
        return BlockConfig(
            shape=Shape(self.hidden_size, self.num_heads, self.num_heads, self.size_of_head),
            mlp_size=self.mlp_size,
            activation=self.activation,
            placement="post",
            scores=Scores(alibi=self.alibi),
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            init_std=self.init_std,
            output_std=self.init_std,
            cross=cross,
        )


PRESETS: dict[str, dict] = {
    "base": {},
    "big": {"num_heads": 16, "hidden_size": 1024, "mlp_size": 4096},
}


class Transformer(EncoderDecoder):
    """Token ids of source and target to the decoder's hidden states."""

    def setup(self):
        """Declares the token table, the two stacks, and the output's bias."""
        config = self.config
        self.embedding = Table(
            rows=config.padded_vocab,
            features=config.hidden_size,
            row_axis="vocab",
            init_std=config.init_std,
            dtype=self.dtype,
        )
        for_encoder, for_decoder = config.block(cross=False), config.block(cross=True)
        self.encoder = self._blocks(for_encoder, config.num_encoder_layers, final_norm=False)
        self.decoder = self._blocks(for_decoder, config.num_decoder_layers, final_norm=False)
        self.logits_bias = self.param(
            "logits_bias", named(nn.initializers.zeros, (None,)), (config.vocab_size,)
        )

    def _embed_source(self, *, input_ids, attention_mask=None):
        places = jnp.arange(input_ids.shape[1])[None, :]
        return self._embed(input_ids, places), attention_mask, None

    def _embed_target(self, tokens, positions, length):
        return self._embed(tokens, positions), None

    def _embed(self, tokens, positions):
        config = self.config
        checks.check_length(config, tokens)
        x = self.embedding(tokens)
        x = encoder_decoder.without_gradient(x, tokens, config.pad_token_id)
        if config.scale_embedding:
            x = x * config.hidden_size**0.5
        if config.positions == "alibi":
            return x
        size = config.hidden_size
        waves = jnp.asarray(encoder_decoder.sinusoids(config.max_positions, size, size // 2))
        return x + jnp.take(waves, positions, axis=0, mode="clip").astype(self.dtype)


encode = encoder_decoder.encode
prepare = encoder_decoder.prepare
decode = encoder_decoder.decode
example_inputs = text_to_text.example_inputs
forward = text_to_text.forward
logits = text_to_text.biased_logits
flops_per_token = text_to_text.flops_per_token


def output_embedding(config: Config, params):
    """Returns the float32 [padded_vocab, D] matrix that maps hidden states to logits.

    `logits` adds a bias to what it gives, which is zero but in Marian's files.
    """
    del config
    return params["embedding"]["table"]
