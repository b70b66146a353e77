"""Whisper (Radford et al. 2022, arXiv:2212.04356): speech to text.

Two convolutions halve the frames of a log-mel spectrogram (`llm_jax.data.log_mel`); pre-norm
blocks with GELU follow, over sinusoidal positions in the encoder, which files store, and learned
ones in the decoder. Keys have no bias. The output is the token table.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.configuration import ConfigError
from llm_jax.layers.attention import Shape
from llm_jax.layers.block import BlockConfig
from llm_jax.layers.embed import Table
from llm_jax.layers.mlp import ACTIVATIONS
from llm_jax.layers.partition import named
from llm_jax.models import checks, encoder_decoder
from llm_jax.models.encoder_decoder import EncoderDecoder, Shared
from llm_jax.models.flops import Flops

BIASES = ("query", "value", "output")


@dataclasses.dataclass(frozen=True)
class Config(Shared):
    """Sizes and choices of a Whisper; the defaults are whisper-tiny.

    Attributes:
      window, attention_pattern: see `llm_jax.models.encoder_decoder.Shared`; a source token is two
        frames.
      num_encoder_layers, num_decoder_layers: of the two stacks.
      num_mel_bins: of the spectrogram.
      source_positions: of the encoder: half of the spectrogram's frames.
      max_positions: longest target.
      dropout_rate: behind embeddings and branches.
      attention_dropout_rate: of attention probabilities; needs the plain attention.
      activation_dropout_rate: of the MLPs' hidden units; it is kept for files alone, and training
        with dropout refuses another than 0.
      activation: a key of `llm_jax.layers.mlp.ACTIVATIONS`, of the MLPs.
      init_std: of all matrices.
      pad_token_id, bos_token_id, eos_token_id, decoder_start_token_id: of the tokenizer. The
        padding's vector is not trained where it is an input.
    """

    family: str = "whisper"
    num_encoder_layers: int = 4
    num_decoder_layers: int = 4
    num_heads: int = 6
    hidden_size: int = 384
    mlp_size: int = 1536
    vocab_size: int = 51865
    num_mel_bins: int = 80
    source_positions: int = 1500
    max_positions: int = 448
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    activation_dropout_rate: float = 0.0
    activation: str = "gelu"
    init_std: float = 0.02
    pad_token_id: int = 50257
    bos_token_id: int = 50257
    eos_token_id: int = 50257
    decoder_start_token_id: int = 50258

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
                "num_mel_bins",
                "source_positions",
                "max_positions",
            ),
        )
        checks.check_heads(self)
        checks.check_choice(self, "activation", tuple(ACTIVATIONS))
        super().__post_init__()
        if self.hidden_size < 4 or self.hidden_size % 2:
            raise ConfigError(
                f"model.hidden_size is {self.hidden_size}: sinusoidal positions need an even one, "
                "at least 4"
            )

    def block(self, cross: bool) -> BlockConfig:
        """Returns what the encoder's blocks are, or the decoder's, which `cross`."""
        return BlockConfig(
            shape=Shape(self.hidden_size, self.num_heads, self.num_heads, self.size_of_head),
            mlp_size=self.mlp_size,
            activation=self.activation,
            attention_biases=BIASES,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            init_std=self.init_std,
            output_std=self.init_std,
            cross=cross,
        )


PRESETS: dict[str, dict] = {
    "whisper-tiny": {},
    "whisper-base": {
        "num_encoder_layers": 6,
        "num_decoder_layers": 6,
        "num_heads": 8,
        "hidden_size": 512,
        "mlp_size": 2048,
    },
    "whisper-small": {
        "num_encoder_layers": 12,
        "num_decoder_layers": 12,
        "num_heads": 12,
        "hidden_size": 768,
        "mlp_size": 3072,
    },
}


class Convolution(nn.Module):
    """Three frames wide, over `x [B, T, in]`; its kernel is [3, in, features]."""

    features: int
    stride: int
    init_std: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """Returns [B, ceil(T / stride), features]; beyond the ends are zeros."""
        start = named(nn.initializers.normal(self.init_std), (None, None, "embed"))
        kernel = self.param("kernel", start, (3, x.shape[-1], self.features))
        bias = self.param("bias", named(nn.initializers.zeros, ("embed",)), (self.features,))
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride,),
            padding=((1, 1),),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        return y + bias.astype(self.dtype)


class Transformer(EncoderDecoder):
    """A log-mel spectrogram and the target's token ids to the decoder's hidden states."""

    def setup(self):
        """Declares convolutions, tables, the two stacks, and the encoder's positions."""
        config = self.config
        table = {"features": config.hidden_size, "init_std": config.init_std, "dtype": self.dtype}
        self.convolution_1 = Convolution(stride=1, **table)
        self.convolution_2 = Convolution(stride=2, **table)

        def sinusoids(key, shape):
            del key
            return jnp.asarray(encoder_decoder.sinusoids(*shape, shape[1] // 2 - 1))

        shape = (config.source_positions, config.hidden_size)
        start = named(sinusoids, ("positions", "embed"))
        self.encoder_positions = self.param("encoder_positions", start, shape)
        self.embedding = Table(rows=config.padded_vocab, row_axis="vocab", **table)
        self.decoder_positions = Table(rows=config.max_positions, row_axis="positions", **table)
        for_encoder, for_decoder = config.block(cross=False), config.block(cross=True)
        self.encoder = self._blocks(for_encoder, config.num_encoder_layers, final_norm=True)
        self.decoder = self._blocks(for_decoder, config.num_decoder_layers, final_norm=True)

    def _embed_source(self, *, input_features):
        wanted = (self.config.num_mel_bins, 2 * self.config.source_positions)
        if input_features.shape[1:] != wanted:
            raise ConfigError(
                f"input_features are {tuple(input_features.shape)}: the model takes [batch, "
                f"{wanted[0]}, {wanted[1]}], pad or cut the sound"
            )
        activation = ACTIVATIONS["gelu"]
        x = activation(self.convolution_1(jnp.swapaxes(input_features, 1, 2)))
        x = activation(self.convolution_2(x))
        return x + jax.lax.stop_gradient(self.encoder_positions).astype(self.dtype), None, None

    def _embed_target(self, tokens, positions, length):
        checks.check_length(self.config, tokens)
        x = self.embedding(tokens)
        x = encoder_decoder.without_gradient(x, tokens, self.config.pad_token_id)
        return x + self.decoder_positions(positions), None


encode = encoder_decoder.encode
prepare = encoder_decoder.prepare
decode = encoder_decoder.decode


def example_inputs(config: Config) -> dict:
    """Returns the smallest inputs of the module: they shape its parameters."""
    features = jnp.zeros((1, config.num_mel_bins, 2 * config.source_positions), jnp.float32)
    return {"input_features": features, "decoder_input_ids": jnp.zeros((1, 1), jnp.int32)}


def forward(
    model, params, *, input_features, decoder_input_ids, decoder_attention_mask=None
) -> dict:
    """Returns what WhisperForConditionalGeneration does.

    Args:
      model: the `llm_jax.models.Model`.
      params: its parameters.
      input_features: float [B, num_mel_bins, 2 source_positions], of `llm_jax.data.log_mel`.
      decoder_input_ids: int [B, T].
      decoder_attention_mask: int [B, T], 0 where a target token is padding.

    Returns:
      `logits [B, T, V]`, `last_hidden_state [B, T, D]` of the decoder,
      `encoder_last_hidden_state [B, source_positions, D]`.

    Raises:
      ConfigError: features of another size, or a target longer than the model's positions.
    """
    outputs = encoder_decoder.run(
        model,
        params,
        input_features=input_features,
        decoder_input_ids=decoder_input_ids,
        decoder_attention_mask=decoder_attention_mask,
    )
    return {"logits": logits(model, params, outputs["last_hidden_state"]), **outputs}


def logits(model, params, hidden):
    """Returns float32 [..., V] of the decoder's `hidden [..., D]`."""
    return model.logits(params, hidden)


def output_embedding(config: Config, params):
    """Returns the float32 [padded_vocab, D] matrix that maps hidden states to logits."""
    del config
    return params["embedding"]["table"]


def flops_per_token(config: Config, sequence_length: int) -> Flops:
    """Operations of training on a target token, with its share of the whole sound's encoder.

    The convolutions are left out: less than 2% of the encoder.
    """
    source = config.source_positions
    return encoder_decoder.flops(config, source / sequence_length, source, sequence_length)
