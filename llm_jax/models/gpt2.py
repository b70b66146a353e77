"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").

Pre-norm blocks over learned positions with a tied output embedding. Rotary positions,
normalized queries and keys, shared key-value heads, other norms and activations are options of the
same blocks; the defaults are GPT-2 small.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.kernels.attention import Mask, Scores
from llm_jax.kernels.pattern import Pattern
from llm_jax.layers import norm
from llm_jax.layers.attention import Shape
from llm_jax.layers.block import ALL_BIASES, Block, BlockConfig, Context, Layer
from llm_jax.layers.dropout import dropout, site_key
from llm_jax.layers.embed import Table, padded_rows
from llm_jax.layers.mlp import ACTIVATIONS
from llm_jax.layers.rope import rotary_tables
from llm_jax.layers.stack import Scan, stack
from llm_jax.models.checks import check_choice, check_heads, check_sizes
from llm_jax.models.flops import Flops, row_keys
from llm_jax.parallel.sharding import constrain


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices of a GPT-2-like model.

    Attributes:
      num_kv_heads: key-value heads, a divisor of `num_heads`; None means `num_heads`.
      head_dim: None means `hidden_size // num_heads`.
      mlp_size: None means `4 * hidden_size`.
      max_positions: longest sequence.
      dropout_rate: behind the embedding and both residual branches.
      attention_dropout_rate: of attention probabilities; needs the plain attention.
      activation: a key of `llm_jax.layers.mlp.ACTIVATIONS`.
      positions: "learned", "rotary" with base `rotary_base`, or "alibi" (Press et al. 2021,
        arXiv:2108.12409).
      window: how many tokens a token sees, its own included; None for all before it.
      attention_pattern: which of them, see `llm_jax.kernels.pattern.Pattern`.
      norm: "layer_norm" or "rms_norm", with `layer_norm_epsilon`.
      qk_norm: RMS-normalizes queries and keys.
      use_bias: biases in projections and layer norms.
      tied_embeddings: the token table is also the output projection.
      init_std: of all matrices; those that end a residual branch start at
        `init_std / sqrt(2 * num_layers)`.
    """

    family: str = "gpt2"
    num_layers: int = 12
    num_heads: int = 12
    num_kv_heads: int | None = None
    head_dim: int | None = None
    hidden_size: int = 768
    mlp_size: int | None = None
    vocab_size: int = 50257
    max_positions: int = 1024
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    layer_norm_epsilon: float = 1e-5
    activation: str = "gelu_tanh"
    positions: str = "learned"
    rotary_base: float = 10_000.0
    window: int | None = None
    attention_pattern: Pattern = Pattern()
    norm: str = "layer_norm"
    qk_norm: bool = False
    use_bias: bool = True
    tied_embeddings: bool = True
    init_std: float = 0.02

    def __post_init__(self):
        sizes = ("num_layers", "num_heads", "hidden_size", "vocab_size", "max_positions")
        check_sizes(self, (*sizes, "num_kv_heads", "head_dim", "mlp_size", "window"))
        check_heads(self)
        choices = {
            "activation": tuple(ACTIVATIONS),
            "positions": ("learned", "rotary", "alibi"),
            "norm": ("layer_norm", "rms_norm"),
        }
        for name, known in choices.items():
            check_choice(self, name, known)
        if self.positions == "rotary" and self.size_of_head % 2:
            raise ConfigError(
                f"model.head_dim is {self.size_of_head}: rotary positions need an even one"
            )
        self.attention_pattern.check(
            causal=True,
            window=self.window,
            alibi=self.positions == "alibi",
            dropout_rate=self.attention_dropout_rate,
        )

    @property
    def kv_heads(self) -> int:
        """Number of key-value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def size_of_head(self) -> int:
        """Size of one head."""
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def size_of_mlp(self) -> int:
        """Hidden units of a block's MLP."""
        return self.mlp_size or 4 * self.hidden_size

    @property
    def block(self) -> BlockConfig:
        """What its blocks are."""
        return BlockConfig(
            shape=Shape(self.hidden_size, self.num_heads, self.kv_heads, self.size_of_head),
            mlp_size=self.size_of_mlp,
            activation=self.activation,
            norm=self.norm,
            norm_epsilon=self.layer_norm_epsilon,
            norm_bias=self.use_bias,
            attention_biases=ALL_BIASES if self.use_bias else (),
            mlp_bias=self.use_bias,
            qk_norm=self.qk_norm,
            scores=Scores(alibi=self.positions == "alibi"),
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            init_std=self.init_std,
            output_std=self.init_std / (2 * self.num_layers) ** 0.5,
        )

    @property
    def padded_vocab(self) -> int:
        """Rows of the token table: `vocab_size` up to a multiple of 128."""
        return padded_rows(self.vocab_size)


class Transformer(nn.Module):
    """Tokens to hidden states.

    Attributes:
      config: sizes and choices.
      attention: a name of `llm_jax.kernels.attention`, or "auto".
      scan: how its layers are run.
      dtype: of the computation; parameters are float32.
    """

    config: Config
    attention: str = "auto"
    scan: Scan = Scan()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens,
        *,
        positions=None,
        segment_ids=None,
        dropout_key=None,
        example_ids=None,
        cache=None,
    ):
        """Returns `(hidden [B, T, D], cache)`; arguments as `llm_jax.models.Model.hidden`."""
        config = self.config
        table = Table(
            config.padded_vocab,
            config.hidden_size,
            "vocab",
            config.init_std,
            self.dtype,
            name="embedding",
        )
        x = table(tokens)
        places = np.arange(tokens.shape[1])[None, :] if positions is None else positions
        if config.positions == "learned":
            learned = Table(
                config.max_positions,
                config.hidden_size,
                "positions",
                config.init_std,
                self.dtype,
                name="positions",
            )
            x = x + learned(places)
        rotary = None
        if config.positions == "rotary":
            rotary = rotary_tables(places, config.size_of_head, config.rotary_base)
        if dropout_key is not None:
            x = dropout(x, config.dropout_rate, site_key(dropout_key, "embedding"), example_ids)
        x = constrain(x, ("batch", "length", "embed"))

        mask = Mask(
            None if cache is None else positions, segment_ids, segment_ids, config.window,
            pattern=config.attention_pattern,
        )  # fmt: skip
        blocks = stack(
            Block,
            num_layers=config.num_layers,
            scan=self.scan,
            name="layers",
            config=config.block,
            implementation=self.attention,
            dtype=self.dtype,
        )
        context = Context(mask, rotary, dropout_key=dropout_key, example_ids=example_ids)
        (x, cache), _ = blocks((x, cache), Layer(jnp.arange(config.num_layers)), context)
        x = norm.make(
            config.norm,
            epsilon=config.layer_norm_epsilon,
            use_bias=config.use_bias,
            dtype=self.dtype,
            name="final_norm",
        )(x)
        if not config.tied_embeddings:
            head = Table(
                config.padded_vocab,
                config.hidden_size,
                "vocab",
                config.init_std,
                self.dtype,
                name="head",
            )
            if self.is_initializing():
                head(tokens)
        return x, cache


def example_inputs(config: Config) -> dict:
    """Returns the smallest inputs of the module: they shape its parameters."""
    del config
    return {"tokens": jnp.zeros((1, 1), jnp.int32)}


def forward(model, params, *, input_ids, attention_mask=None) -> dict:
    """Returns `logits [B, T, V]` and `last_hidden_state [B, T, D]`, as GPT2LMHeadModel's.

    Args:
      model: the `llm_jax.models.Model`.
      params: its parameters.
      input_ids: int [B, T].
      attention_mask: int [B, T], 0 where a token is padding; what comes out there is void.
    """
    hidden, _ = model.hidden(params, input_ids, segment_ids=attention_mask)
    return {"logits": model.logits(params, hidden), "last_hidden_state": hidden}


def output_embedding(config: Config, params):
    """Returns the float32 [padded_vocab, D] matrix that maps hidden states to logits."""
    return params["embedding" if config.tied_embeddings else "head"]["table"]


def flops_per_token(config: Config, sequence_length: int) -> Flops:
    """Floating-point operations of training on one token; see `llm_jax.models.flops`."""
    size, head_dim = config.hidden_size, config.size_of_head
    attention = size * head_dim * (2 * config.num_heads + 2 * config.kv_heads)
    weights = config.num_layers * (attention + 2 * size * config.size_of_mlp)
    keys = row_keys(
        sequence_length, head_dim=head_dim, window=config.window, pattern=config.attention_pattern
    )
    return Flops(
        matmul=6.0 * (weights + config.padded_vocab * size),
        attention=12.0 * config.num_layers * config.num_heads * head_dim * keys,
        formula=(
            "6 (layers (attention + mlp weights) + vocabulary x width)"
            " + 12 layers x heads x head_dim x length / 2 (causal), or less by window and pattern"
        ),
    )
