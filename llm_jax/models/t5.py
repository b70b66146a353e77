"""T5 (Raffel et al. 2020, arXiv:1910.10683): every task as text to text.

Pre-norm RMSNorm blocks without biases, unscaled attention scores, and relative positions as a
learned bias of each head, one table per stack. T5 1.0 has a ReLU MLP and shares its table with the
output, scaled; T5 1.1 and Flan-T5 (Chung et al. 2022, arXiv:2210.11416) have a gated GELU MLP and
an output of their own.
"""

import dataclasses
import functools
import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

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
    """Sizes and choices of a T5; the defaults are t5-small.

    Attributes:
      window, attention_pattern: see `llm_jax.models.encoder_decoder.Shared`.
      num_encoder_layers, num_decoder_layers: of the two stacks.
      head_dim: need not be `hidden_size // num_heads`.
      mlp_size, activation, gated: of the MLPs.
      num_buckets, max_distance: of relative positions: half of the buckets (of a direction) hold
        one distance each, the others grow by a constant factor up to `max_distance`.
      dropout_rate: behind embeddings, branches and final norms; the reference drops the MLP's
        hidden units by it too, which is left out here.
      attention_dropout_rate: of attention probabilities; the reference's is `dropout_rate`.
      tied_embeddings: the token table is also the output projection.
      scaled_output: the decoder's states are divided by `sqrt(hidden_size)` before the output.
      init_factor: of all initial deviations.
      pad_token_id, eos_token_id, decoder_start_token_id: of the tokenizer.
    """

    family: str = "t5"
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    num_heads: int = 8
    head_dim: int = 64
    hidden_size: int = 512
    mlp_size: int = 2048
    vocab_size: int = 32128
    num_buckets: int = 32
    max_distance: int = 128
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    layer_norm_epsilon: float = 1e-6
    activation: str = "relu"
    gated: bool = False
    tied_embeddings: bool = True
    scaled_output: bool = True
    init_factor: float = 1.0
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0

    def __post_init__(self):
        checks.check_sizes(
            self,
            (
                "num_encoder_layers",
                "num_decoder_layers",
                "num_heads",
                "head_dim",
                "hidden_size",
                "mlp_size",
                "vocab_size",
            ),
        )
        checks.check_choice(self, "activation", tuple(ACTIVATIONS))
        super().__post_init__()
        if self.attention_pattern.linear:
            raise ConfigError(
                "model.attention_pattern.kind 'linear' has no scores for T5's relative positions: "
                "choose 'full' or 'block_sparse'"
            )
        if self.num_buckets < 4 or self.num_buckets % 4:
            raise ConfigError(f"model.num_buckets is {self.num_buckets}: give a multiple of 4")
        if self.max_distance <= self.num_buckets // 2:
            raise ConfigError(
                f"model.max_distance is {self.max_distance}: give more than half of "
                f"model.num_buckets {self.num_buckets}"
            )

    @property
    def size_of_head(self) -> int:
        """Size of one head."""
        return self.head_dim

    def block(self, cross: bool) -> BlockConfig:
        """Returns what the encoder's blocks are, or the decoder's, which `cross`."""
        return BlockConfig(
            shape=Shape(self.hidden_size, self.num_heads, self.num_heads, self.head_dim),
            mlp_size=self.mlp_size,
            activation=self.activation,
            gated=self.gated,
            norm="rms_norm",
            norm_epsilon=self.layer_norm_epsilon,
            attention_biases=(),
            mlp_bias=False,
            scores=Scores(scale=1.0),
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            # The reference gives each matrix a deviation of its own; here queries and keys share
            # one at which their unscaled products begin with variance 1, as there.
            init_std=self.init_factor * self.hidden_size**-0.5 * self.head_dim**-0.25,
            output_std=self.init_factor * self.mlp_size**-0.5,
            cross=cross,
        )


_BASE = {"num_encoder_layers": 12, "num_decoder_layers": 12, "num_heads": 12, "hidden_size": 768}
_V1_1_BASE = {
    **_BASE,
    "mlp_size": 2048,
    "activation": "gelu_tanh",
    "gated": True,
    "tied_embeddings": False,
    "scaled_output": False,
}

PRESETS: dict[str, dict] = {
    "t5-small": {},
    "t5-base": {**_BASE, "mlp_size": 3072},
    "t5-large": {
        "num_encoder_layers": 24,
        "num_decoder_layers": 24,
        "num_heads": 16,
        "hidden_size": 1024,
        "mlp_size": 4096,
    },
    "t5-v1_1-base": _V1_1_BASE,
    "flan-t5-base": _V1_1_BASE,
}


@functools.lru_cache
def buckets_of_distances(num_buckets: int, max_distance: int) -> np.ndarray:
    """Returns int32 [max_distance + 1]: the bucket of each distance in one direction.

    It is made on the host: at the buckets' edges an accelerator's logarithm may fall on the other
    side of a whole number.
    """
    exact = num_buckets // 2
    distance = np.arange(max_distance + 1, dtype=np.float32)
    growth = np.log(np.maximum(distance, 1) / np.float32(exact))
    growth = growth / np.float32(math.log(max_distance / exact)) * np.float32(num_buckets - exact)
    far = np.minimum(exact + growth.astype(np.int32), num_buckets - 1)
    return np.where(distance < exact, distance, far).astype(np.int32)


class RelativeBias(nn.Module):
    """What is added to the scores for the distance from query to key; a table [buckets, heads]."""

    config: Config
    both_directions: bool

    @nn.compact
    def __call__(self, positions, length: int):
        """Returns float32 [B or 1, N, T, length] for queries at `positions [B or 1, T]`."""
        config = self.config
        shape = (config.num_buckets, config.num_heads)
        deviation = config.init_factor * config.hidden_size**-0.5
        table = self.param(
            "table", named(nn.initializers.normal(deviation), ("positions", "heads")), shape
        )
        count = config.num_buckets // 2 if self.both_directions else config.num_buckets
        ahead = jnp.arange(length)[None, None, :] - positions[..., None]
        distance = jnp.abs(ahead) if self.both_directions else jnp.maximum(-ahead, 0)
        by_distance = jnp.asarray(buckets_of_distances(count, config.max_distance))
        buckets = by_distance[jnp.minimum(distance, config.max_distance)]
        if self.both_directions:
            buckets = buckets + count * (ahead > 0)
        return jnp.moveaxis(jnp.take(table, buckets, axis=0), -1, 1)


class Transformer(EncoderDecoder):
    """Token ids of source and target to the decoder's hidden states."""

    def setup(self):
        """Declares the table, the two stacks with their biases, and an output of its own."""
        config = self.config
        table = {"features": config.hidden_size, "row_axis": "vocab", "dtype": self.dtype}
        table |= {"rows": config.padded_vocab, "init_std": config.init_factor}
        self.embedding = Table(**table)
        if not config.tied_embeddings:
            self.head = Table(**table)
        self.encoder_bias = RelativeBias(config, both_directions=True)
        self.decoder_bias = RelativeBias(config, both_directions=False)
        end = {"final_norm": True, "final_dropout_rate": config.dropout_rate}
        self.encoder = self._blocks(config.block(cross=False), config.num_encoder_layers, **end)
        self.decoder = self._blocks(config.block(cross=True), config.num_decoder_layers, **end)

    def _embed_source(self, *, input_ids, attention_mask=None):
        length = input_ids.shape[1]
        bias = self.encoder_bias(jnp.arange(length)[None, :], length)
        return self.embedding(input_ids), attention_mask, bias

    def _embed_target(self, tokens, positions, length):
        if self.is_initializing() and not self.config.tied_embeddings:
            self.head(tokens)
        return self.embedding(tokens), self.decoder_bias(positions, length)


encode = encoder_decoder.encode
prepare = encoder_decoder.prepare
decode = encoder_decoder.decode
example_inputs = text_to_text.example_inputs
forward = text_to_text.forward
flops_per_token = text_to_text.flops_per_token


def logits(model, params, hidden):
    """Returns float32 [..., V] of the decoder's `hidden [..., D]`."""
    return model.logits(params, hidden)


def output_embedding(config: Config, params):
    """Returns the float32 [padded_vocab, D] matrix that maps hidden states to logits."""
    table = params["embedding" if config.tied_embeddings else "head"]["table"]
    return table * config.hidden_size**-0.5 if config.scaled_output else table
