"""Llama (Touvron et al. 2023, arXiv:2302.13971) and the decoders that grew from it.

Pre-norm blocks with RMS norms, rotary positions, a gated MLP and grouped key-value heads. Options
of the same blocks make Mistral (a sliding window), Qwen2 (biases), Qwen3 (normalized queries and
keys), Gemma 2 and Gemma 3 (norms on both sides, capped scores and logits, local layers between).
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.kernels.attention import Mask, Scores
from llm_jax.kernels.pattern import Pattern
from llm_jax.layers import norm
from llm_jax.layers.attention import Shape, ring_positions
from llm_jax.layers.block import ALL_BIASES, Block, BlockConfig, Context, Layer
from llm_jax.layers.dropout import dropout, site_key
from llm_jax.layers.embed import Table, padded_rows
from llm_jax.layers.mlp import ACTIVATIONS
from llm_jax.layers.rope import RopeScaling, rotary_tables
from llm_jax.layers.stack import Scan, stack
from llm_jax.models.checks import check_choice, check_heads, check_sizes
from llm_jax.models.flops import Flops, row_keys
from llm_jax.parallel.sharding import constrain

FULL, SLIDING = "full_attention", "sliding_attention"
EVERYTHING = 2**30


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices of a Llama-like model; the defaults are Llama 2 7B.

    Attributes:
      num_kv_heads: key-value heads, a divisor of `num_heads`; None means `num_heads`.
      head_dim: None means `hidden_size // num_heads`.
      mlp_size: hidden units of the gated MLP.
      max_positions: longest sequence.
      dropout_rate: behind the embedding and both residual branches.
      attention_dropout_rate: of attention probabilities; needs the plain attention.
      norm_epsilon: of all norms.
      norm_offset: added to every norm's scale; Gemma's is 1.
      placement: of a block's norms, "pre" or "both".
      activation: a key of `llm_jax.layers.mlp.ACTIVATIONS`.
      positions: "rotary", or "alibi" (Press et al. 2021, arXiv:2108.12409).
      rotary_base, rotary_scaling: of the rotary positions.
      local_rotary_base: of the sliding layers, without scaling; None: as in the others.
      window: how many tokens a sliding layer sees, its own included.
      layer_types: of the layers, "full_attention" or "sliding_attention", repeated over them from
        the first on; empty: all slide if there is a window.
      attention_pattern: which tokens a token sees, see `llm_jax.kernels.pattern.Pattern`.
      attention_biases: which of "query", "key", "value", "output" have one.
      mlp_bias: whether the MLP has biases.
      qk_norm: RMS-normalizes queries and keys by head.
      query_scalar: scores are divided by its root; None means `head_dim`.
      attention_cap, logit_cap: attention scores and logits are `cap tanh(x / cap)`; None for none.
      scaled_embedding: multiplies embeddings by the root of `hidden_size`.
      tied_embeddings: the token table is also the output projection.
      init_std: of all matrices; those that end a residual branch start at
        `init_std / sqrt(2 * num_layers)`.
      bos_id, end_ids, pad_id: tokens that begin and end a text and fill it up, for export.
    """

    family: str = "llama"
    num_layers: int = 32
    num_heads: int = 32
    num_kv_heads: int | None = None
    head_dim: int | None = None
    hidden_size: int = 4096
    mlp_size: int = 11008
    vocab_size: int = 32000
    max_positions: int = 4096
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    norm_epsilon: float = 1e-5
    norm_offset: float = 0.0
    placement: str = "pre"
    activation: str = "silu"
    positions: str = "rotary"
    rotary_base: float = 10_000.0
    rotary_scaling: RopeScaling | None = None
    local_rotary_base: float | None = None
    window: int | None = None
    layer_types: tuple[str, ...] = ()
    attention_pattern: Pattern = Pattern()
    attention_biases: tuple[str, ...] = ()
    mlp_bias: bool = False
    qk_norm: bool = False
    query_scalar: float | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    scaled_embedding: bool = False
    tied_embeddings: bool = False
    init_std: float = 0.02
    bos_id: int | None = None
    end_ids: tuple[int, ...] = ()
    pad_id: int | None = None

    def __post_init__(self):
        sizes = ("num_layers", "num_heads", "hidden_size", "mlp_size", "vocab_size")
        positive = ("rotary_base", "norm_epsilon", "max_positions")
        optional = ("window", "local_rotary_base", "query_scalar", "attention_cap", "logit_cap")
        check_sizes(self, (*sizes, "num_kv_heads", "head_dim"))
        for name in (*positive, *(n for n in optional if getattr(self, n) is not None)):
            if getattr(self, name) <= 0:
                raise ConfigError(f"model.{name} is {getattr(self, name)}: give more than 0")
        check_heads(self)
        if self.size_of_head % 2 or self.size_of_head < 4:
            raise ConfigError(
                f"model.head_dim is {self.size_of_head}: rotary positions need an even one, from 4"
            )
        check_choice(self, "activation", tuple(ACTIVATIONS))
        check_choice(self, "placement", ("pre", "both"))
        check_choice(self, "positions", ("rotary", "alibi"))
        lists = {"layer_types": (FULL, SLIDING), "attention_biases": ALL_BIASES}
        for name, known in lists.items():
            for value in getattr(self, name):
                if value not in known:
                    raise ConfigError(f"model.{name}: {value!r}: choose one of {', '.join(known)}")
        if SLIDING in self.layer_types and self.window is None:
            raise ConfigError("model.layer_types has sliding layers: give model.window")
        self.attention_pattern.check(
            causal=True,
            window=self.window if any(self.sliding) else None,
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
        return self.mlp_size

    @property
    def padded_vocab(self) -> int:
        """Rows of the token table: `vocab_size` up to a multiple of 128."""
        return padded_rows(self.vocab_size)

    @property
    def sliding(self) -> tuple[bool, ...]:
        """Of each layer, whether it sees its window only."""
        if not self.layer_types:
            return (self.window is not None,) * self.num_layers
        count = len(self.layer_types)
        return tuple(self.layer_types[i % count] == SLIDING for i in range(self.num_layers))

    @property
    def windows(self) -> tuple[int, ...]:
        """Of each layer, how many tokens it sees; none where all see everything."""
        if not any(self.sliding):
            return ()
        return tuple(self.window if slides else EVERYTHING for slides in self.sliding)

    @property
    def block(self) -> BlockConfig:
        """What its blocks are."""
        scale = None if self.query_scalar is None else self.query_scalar**-0.5
        return BlockConfig(
            shape=Shape(self.hidden_size, self.num_heads, self.kv_heads, self.size_of_head),
            mlp_size=self.mlp_size,
            activation=self.activation,
            gated=True,
            norm="rms_norm",
            norm_epsilon=self.norm_epsilon,
            norm_offset=self.norm_offset,
            placement=self.placement,
            attention_biases=self.attention_biases,
            mlp_bias=self.mlp_bias,
            qk_norm=self.qk_norm,
            scores=Scores(scale, self.attention_cap, self.positions == "alibi"),
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            init_std=self.init_std,
            output_std=self.init_std / (2 * self.num_layers) ** 0.5,
        )


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
    # A family with other blocks says so in a subclass; what they return is sown.
    block_module = Block

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
        x = self._table("embedding")(tokens)
        if config.scaled_embedding:
            x = x * jnp.asarray(config.hidden_size**0.5, self.dtype)
        if dropout_key is not None:
            x = dropout(x, config.dropout_rate, site_key(dropout_key, "embedding"), example_ids)
        x = constrain(x, ("batch", "length", "embed"))

        places = np.arange(tokens.shape[1])[None, :] if positions is None else positions
        rotary, layer = positions_by_layer(config, places)
        mask = Mask(
            None if cache is None else positions, segment_ids, segment_ids,
            pattern=config.attention_pattern, windows=tuple(sorted(set(config.windows))),
        )  # fmt: skip
        slides = all(config.sliding)
        if cache is not None and slides and (slots := cache["key"].shape[3]) >= config.window:
            places = jnp.broadcast_to(places, tokens.shape)
            keys = ring_positions(places, slots)
            mask = dataclasses.replace(mask, query_positions=places, key_positions=keys)
        blocks = stack(
            self.block_module,
            num_layers=config.num_layers,
            scan=self.scan,
            name="layers",
            config=config.block,
            implementation=self.attention,
            dtype=self.dtype,
        )
        context = Context(mask, rotary, dropout_key=dropout_key, example_ids=example_ids)
        (x, cache), routed = blocks((x, cache), layer, context)
        if routed is not None:
            self.sow("intermediates", "router_logits", routed)
        x = norm.make(
            "rms_norm",
            epsilon=config.norm_epsilon,
            use_bias=False,
            offset=config.norm_offset,
            dtype=self.dtype,
            name="final_norm",
        )(x)
        if not config.tied_embeddings:
            head = self._table("head")
            if self.is_initializing():
                head(tokens)
        return x, cache

    def _table(self, name):
        config = self.config
        sizes = (config.padded_vocab, config.hidden_size)
        return Table(*sizes, "vocab", config.init_std, self.dtype, name=name)


def positions_by_layer(config: Config, places) -> tuple[tuple, Layer]:
    """Returns the rotary tables of `places [B, T]` and what differs from layer to layer."""
    head_dim = config.size_of_head
    rotary = rotary_tables(places, head_dim, config.rotary_base, config.rotary_scaling)
    window = local = None
    if config.windows:
        window = jnp.asarray(config.windows)
        if config.local_rotary_base is not None:
            local = jnp.asarray(config.sliding)
            rotary = (rotary, rotary_tables(places, head_dim, config.local_rotary_base))
    if config.positions != "rotary":
        rotary = local = None
    return rotary, Layer(jnp.arange(config.num_layers), window, local)


def example_inputs(config: Config) -> dict:
    """Returns the smallest inputs of the module: they shape its parameters."""
    del config
    return {"tokens": jnp.zeros((1, 1), jnp.int32)}


def forward(model, params, *, input_ids, attention_mask=None) -> dict:
    """Returns `logits [B, T, V]` and `last_hidden_state [B, T, D]`, as LlamaForCausalLM's.

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
    weights = config.num_layers * (attention + 3 * size * config.mlp_size)
    return Flops(
        matmul=6.0 * (weights + config.padded_vocab * size),
        attention=12.0 * config.num_heads * head_dim * keys_seen(config, sequence_length),
        formula=(
            "6 (layers (attention + mlp weights) + vocabulary x width)"
            " + 12 heads x head_dim x sum over layers of length / 2 (causal), or less by window"
            " and pattern"
        ),
    )


def keys_seen(config: Config, sequence_length: int) -> float:
    """Returns `row_keys` summed over layers, of which some may slide."""
    kinds = {
        slides: row_keys(
            sequence_length,
            head_dim=config.size_of_head,
            window=config.window if slides else None,
            pattern=config.attention_pattern,
        )
        for slides in (False, True)
    }
    return float(sum(kinds[slides] for slides in config.sliding))


_LLAMA_3 = {
    "vocab_size": 128_256, "rotary_base": 500_000.0, "bos_id": 128_000, "end_ids": (128_001,)
}  # fmt: skip
_GEMMA = {
    "norm_epsilon": 1e-6, "norm_offset": 1.0, "placement": "both", "activation": "gelu_tanh",
    "scaled_embedding": True, "tied_embeddings": True, "query_scalar": 256.0, "head_dim": 256,
    "bos_id": 2, "end_ids": (1,), "pad_id": 0, "num_layers": 26, "mlp_size": 9216,
}  # fmt: skip
PRESETS: dict[str, dict] = {
    "llama-2-7b": {"bos_id": 1, "end_ids": (2,)},
    "llama-3-8b": _LLAMA_3 | {"num_kv_heads": 8, "mlp_size": 14_336, "max_positions": 8192},
    "llama-3.1-70b": _LLAMA_3 | {
        "num_layers": 80, "num_heads": 64, "num_kv_heads": 8, "hidden_size": 8192,
        "mlp_size": 28_672, "max_positions": 131_072,
        "rotary_scaling": {"kind": "llama3", "factor": 8.0, "original_positions": 8192},
    },
    "llama-3.2-1b": _LLAMA_3 | {
        "num_layers": 16, "num_heads": 32, "num_kv_heads": 8, "head_dim": 64, "hidden_size": 2048,
        "mlp_size": 8192, "max_positions": 131_072, "tied_embeddings": True,
        "rotary_scaling": {"kind": "llama3", "factor": 32.0, "original_positions": 8192},
    },
    "smollm2-135m": {
        "num_layers": 30, "num_heads": 9, "num_kv_heads": 3, "head_dim": 64, "hidden_size": 576,
        "mlp_size": 1536, "vocab_size": 49_152, "max_positions": 8192, "rotary_base": 1e5,
        "norm_epsilon": 1e-5, "tied_embeddings": True, "bos_id": 1, "end_ids": (2,),
    },
    "mistral-7b-v0.1": {
        "num_kv_heads": 8, "mlp_size": 14_336, "max_positions": 32_768, "window": 4096,
        "bos_id": 1, "end_ids": (2,),
    },
    "qwen2-0.5b": {
        "num_layers": 24, "num_heads": 14, "num_kv_heads": 2, "hidden_size": 896,
        "mlp_size": 4864, "vocab_size": 151_936, "max_positions": 131_072, "norm_epsilon": 1e-6,
        "rotary_base": 1e6, "attention_biases": ("query", "key", "value"),
        "tied_embeddings": True, "bos_id": 151_643, "end_ids": (151_643,),
    },
    "qwen3-0.6b": {
        "num_layers": 28, "num_heads": 16, "num_kv_heads": 8, "head_dim": 128,
        "hidden_size": 1024, "mlp_size": 3072, "vocab_size": 151_936, "max_positions": 40_960,
        "norm_epsilon": 1e-6, "rotary_base": 1e6, "qk_norm": True, "tied_embeddings": True,
        "bos_id": 151_643, "end_ids": (151_645,),
    },
    "gemma-2-2b": _GEMMA | {
        "num_heads": 8, "num_kv_heads": 4, "hidden_size": 2304, "vocab_size": 256_000,
        "max_positions": 8192, "window": 4096, "layer_types": (SLIDING, FULL),
        "attention_cap": 50.0, "logit_cap": 30.0,
    },
    "gemma-3-1b": _GEMMA | {
        "num_heads": 4, "num_kv_heads": 1, "hidden_size": 1152, "mlp_size": 6912,
        "vocab_size": 262_144, "max_positions": 32_768, "window": 512, "qk_norm": True,
        "layer_types": (SLIDING,) * 5 + (FULL,), "rotary_base": 1e6, "local_rotary_base": 1e4,
    },
}  # fmt: skip
