"""BART (Lewis et al. 2020, arXiv:1910.13461): a denoising encoder-decoder.

Post-norm blocks over learned positions, a layer norm behind each embedding, one token table for
source, target and output.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.kernels.attention import Scores
from llm_jax.layers import norm
from llm_jax.layers.attention import Shape
from llm_jax.layers.block import BlockConfig
from llm_jax.layers.embed import Table
from llm_jax.layers.mlp import ACTIVATIONS
from llm_jax.layers.partition import named
from llm_jax.models import checks, encoder_decoder, text_to_text
from llm_jax.models.encoder_decoder import EncoderDecoder, Shared

# The first position's row; the reference left the rows before it unused.
OFFSET = 2


@dataclasses.dataclass(frozen=True)
class Config(Shared):
    """Sizes and choices of a BART; the defaults are bart-base.

    Attributes:
      window, attention_pattern: see `llm_jax.models.encoder_decoder.Shared`.
      num_encoder_layers, num_decoder_layers: of the two stacks.
      positions: "learned", or "alibi" (in the encoder by distance to both sides).
      max_positions: longest source and longest target.
      dropout_rate: behind embeddings and branches.
      attention_dropout_rate: of attention probabilities; needs the plain attention.
      activation_dropout_rate: of the MLPs' hidden units; it is kept for files alone, and training
        with dropout refuses another than 0.
      activation: a key of `llm_jax.layers.mlp.ACTIVATIONS`.
      scale_embedding: multiplies token vectors by `sqrt(hidden_size)`.
      init_std: of all matrices.
      pad_token_id, bos_token_id, eos_token_id, decoder_start_token_id: of the tokenizer. The
        padding's vector is not trained where it is an input.
    """

    family: str = "bart"
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    num_heads: int = 12
    hidden_size: int = 768
    mlp_size: int = 3072
    vocab_size: int = 50265
    positions: str = "learned"
    max_positions: int = 1024
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    activation_dropout_rate: float = 0.0
    activation: str = "gelu"
    scale_embedding: bool = False
    init_std: float = 0.02
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    decoder_start_token_id: int = 2

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
        checks.check_choice(self, "positions", ("learned", "alibi"))
        super().__post_init__()

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
    "bart-base": {},
    "bart-large": {
        "num_encoder_layers": 12,
        "num_decoder_layers": 12,
        "num_heads": 16,
        "hidden_size": 1024,
        "mlp_size": 4096,
    },
}


class Transformer(EncoderDecoder):
    """Token ids of source and target to the decoder's hidden states."""

    def setup(self):
        """Declares the tables, the norms behind them, the two stacks, and the output's bias."""
        config = self.config
        table = {"features": config.hidden_size, "init_std": config.init_std, "dtype": self.dtype}
        places = {"rows": config.max_positions + OFFSET, "row_axis": "positions"}
        self.embedding = Table(rows=config.padded_vocab, row_axis="vocab", **table)
        if config.positions == "learned":
            self.encoder_positions = Table(**places, **table)
            self.decoder_positions = Table(**places, **table)
        settings = {"epsilon": 1e-5, "use_bias": True, "dtype": self.dtype}
        self.encoder_embedding_norm = norm.LayerNorm(**settings)
        self.decoder_embedding_norm = norm.LayerNorm(**settings)
        for_encoder, for_decoder = config.block(cross=False), config.block(cross=True)
        self.encoder = self._blocks(for_encoder, config.num_encoder_layers, final_norm=False)
        self.decoder = self._blocks(for_decoder, config.num_decoder_layers, final_norm=False)
        self.logits_bias = self.param(
            "logits_bias", named(nn.initializers.zeros, (None,)), (config.vocab_size,)
        )

    def _embed_source(self, *, input_ids, attention_mask=None):
        checks.check_length(self.config, input_ids)
        x = self._embed(input_ids)
        if self.config.positions == "learned":
            x = x + self.encoder_positions(jnp.arange(input_ids.shape[1])[None, :] + OFFSET)
        return self.encoder_embedding_norm(x), attention_mask, None

    def _embed_target(self, tokens, positions, length):
        checks.check_length(self.config, tokens)
        x = self._embed(tokens)
        if self.config.positions == "learned":
            x = x + self.decoder_positions(positions + OFFSET)
        return self.decoder_embedding_norm(x), None

    def _embed(self, tokens):
        config = self.config
        x = self.embedding(tokens)
        x = encoder_decoder.without_gradient(x, tokens, config.pad_token_id)
        return x * config.hidden_size**0.5 if config.scale_embedding else x


encode = encoder_decoder.encode
prepare = encoder_decoder.prepare
decode = encoder_decoder.decode
example_inputs = text_to_text.example_inputs
forward = text_to_text.forward
logits = text_to_text.biased_logits
flops_per_token = text_to_text.flops_per_token


def output_embedding(config: Config, params):
    """Returns the float32 [padded_vocab, D] matrix that maps hidden states to logits.

    `logits` adds a bias to what it gives, which is zero in models that were trained as BART was.
    """
    del config
    return params["embedding"]["table"]
