"""BERT (Devlin et al. 2018, arXiv:1810.04805), with RoBERTa and DistilBERT as options.

Post-norm blocks over learned positions, in which every token sees every other one. RoBERTa (Liu et
al. 2019, arXiv:1907.11692) counts its positions from behind the padding token's id; DistilBERT
(Sanh et al. 2019, arXiv:1910.01108) has no token types and no pooler.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.configuration import ConfigError
from llm_jax.kernels.attention import Mask, Scores
from llm_jax.kernels.pattern import Pattern
from llm_jax.layers.attention import Shape
from llm_jax.layers.block import Block, BlockConfig, Context, Layer
from llm_jax.layers.dropout import dropout, site_key
from llm_jax.layers.embed import Table, padded_rows
from llm_jax.layers.linear import Projection
from llm_jax.layers.mlp import ACTIVATIONS
from llm_jax.layers.norm import LayerNorm
from llm_jax.layers.partition import named
from llm_jax.layers.stack import Scan, stack
from llm_jax.models.checks import check_choice, check_heads, check_sizes
from llm_jax.models.flops import Flops, row_keys
from llm_jax.parallel.sharding import constrain

HEADS = ("none", "masked_lm", "pretraining")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices of an encoder of text; the defaults are BERT base with its pooler.

    Attributes:
      mlp_size: None means `4 * hidden_size`.
      positions: "learned", or "alibi" (Press et al. 2021, arXiv:2108.12409, by distance to both
        sides).
      max_positions: rows of the position table; with "alibi" the longest sequence.
      window: a token sees those nearer than so many on both sides; None for all.
      attention_pattern: which of them, see `llm_jax.kernels.pattern.Pattern`.
      token_types: kinds of tokens (first or second sentence); 0 for none.
      padding_id: None counts positions from 0 in every row. A token id makes tokens with this id
        stay at position `padding_id` and the others count from `padding_id + 1` (RoBERTa).
      pooler: adds tanh(W x) of the first token.
      head: "none"; "masked_lm": a transform, then the token table and a bias; "pretraining": that,
        and two logits of the pooler's output, whether a pair of sentences belongs together.
      dropout_rate: behind the embedding and both branches.
      attention_dropout_rate: of attention probabilities; needs the plain attention.
      activation: a key of `llm_jax.layers.mlp.ACTIVATIONS`, of the MLP and the head.
      init_std: of all matrices.
    """

    family: str = "bert"
    num_layers: int = 12
    num_heads: int = 12
    hidden_size: int = 768
    mlp_size: int | None = None
    vocab_size: int = 30522
    positions: str = "learned"
    max_positions: int = 512
    window: int | None = None
    attention_pattern: Pattern = Pattern()
    token_types: int = 2
    padding_id: int | None = None
    pooler: bool = True
    head: str = "none"
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    layer_norm_epsilon: float = 1e-12
    activation: str = "gelu"
    init_std: float = 0.02

    def __post_init__(self):
        sizes = ("num_layers", "num_heads", "hidden_size", "vocab_size", "max_positions")
        check_sizes(self, (*sizes, "mlp_size", "window"))
        check_heads(self)
        if self.token_types < 0:
            raise ConfigError(f"model.token_types is {self.token_types}: give 0 or more")
        if self.padding_id is not None and not 0 <= self.padding_id < self.max_positions - 1:
            raise ConfigError(
                f"model.padding_id is {self.padding_id}: positions begin behind it, give 0 to "
                f"model.max_positions - 2 = {self.max_positions - 2}"
            )
        check_choice(self, "activation", tuple(ACTIVATIONS))
        check_choice(self, "head", HEADS)
        if self.head == "pretraining" and not self.pooler:
            raise ConfigError(
                "model.head is 'pretraining', which asks the pooler about pairs: set model.pooler"
            )
        check_choice(self, "positions", ("learned", "alibi"))
        self.attention_pattern.check(
            causal=False,
            window=self.window,
            alibi=self.positions == "alibi",
            dropout_rate=self.attention_dropout_rate,
        )

    @property
    def kv_heads(self) -> int:
        """Number of key-value heads."""
        return self.num_heads

    @property
    def size_of_head(self) -> int:
        """Size of one head."""
        return self.hidden_size // self.num_heads

    @property
    def size_of_mlp(self) -> int:
        """Hidden units of a block's MLP."""
        return self.mlp_size or 4 * self.hidden_size

    @property
    def padded_vocab(self) -> int:
        """Rows of the token table: `vocab_size` up to a multiple of 128."""
        return padded_rows(self.vocab_size)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.max_positions - (0 if self.padding_id is None else self.padding_id + 1)

    @property
    def block(self) -> BlockConfig:
        """What its blocks are."""
        return BlockConfig(
            shape=Shape(self.hidden_size, self.num_heads, self.kv_heads, self.size_of_head),
            mlp_size=self.size_of_mlp,
            activation=self.activation,
            norm_epsilon=self.layer_norm_epsilon,
            placement="post",
            scores=Scores(alibi=self.positions == "alibi"),
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            init_std=self.init_std,
            output_std=self.init_std,
        )


_BASE = {"num_layers": 12, "num_heads": 12, "hidden_size": 768, "mlp_size": 3072}
_MASKED = {"pooler": False, "head": "masked_lm", "dropout_rate": 0.1, "attention_dropout_rate": 0.1}
_LARGE = {"num_layers": 24, "num_heads": 16, "hidden_size": 1024, "mlp_size": 4096}
PRESETS: dict[str, dict] = {
    "bert-base-uncased": _BASE | _MASKED,
    "bert-large-uncased": _LARGE | _MASKED,
    "roberta-base": _BASE
    | _MASKED
    | {
        "vocab_size": 50265,
        "max_positions": 514,
        "token_types": 1,
        "padding_id": 1,
        "layer_norm_epsilon": 1e-5,
    },
    "distilbert-base-uncased": _BASE | _MASKED | {"num_layers": 6, "token_types": 0},
    "minilm-l6": {
        "num_layers": 6,
        "num_heads": 12,
        "hidden_size": 384,
        "mlp_size": 1536,
        "dropout_rate": 0.1,
        "attention_dropout_rate": 0.1,
    },
}


class Transformer(nn.Module):
    """Tokens to hidden states, and what the heads make of them.

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
        token_types=None,
        dropout_key=None,
        example_ids=None,
    ) -> dict:
        """Returns `last_hidden_state`, and what else the configuration has.

        Args:
          tokens: int32 [B, T].
          positions: int32 [B, T] of the position table; None: as the configuration says.
          segment_ids: int32 [B, T]: tokens attend within their own segment only.
          token_types: int32 [B, T]; None means 0 everywhere.
          dropout_key: turns dropout on.
          example_ids: int32 [B], which draws each row takes; None means `0 .. B-1`.

        Returns:
          last_hidden_state: [B, T, D].
          pooler_output: [B, D].
          transformed: [B, T, D], the masked-LM head's states before the token table; see `logits`.
          seq_relationship_logits: float32 [B, 2], of a pair that belongs together, and of another.
        """
        config = self.config
        if dropout_key is not None and example_ids is None:
            example_ids = jnp.arange(tokens.shape[0])
        x = self._table("embedding", config.padded_vocab, "vocab")(tokens)
        if config.token_types:
            types = jnp.zeros_like(tokens) if token_types is None else token_types
            x = x + self._table("token_types", config.token_types, None)(types)
        if config.positions == "learned":
            if positions is None:
                positions = _positions(tokens, config.padding_id)
            x = x + self._table("positions", config.max_positions, "positions")(positions)
        x = self._norm("embedding_norm")(x)
        if dropout_key is not None:
            x = dropout(x, config.dropout_rate, site_key(dropout_key, "embedding"), example_ids)
        x = constrain(x, ("batch", "length", "embed"))

        blocks = stack(
            Block,
            num_layers=config.num_layers,
            scan=self.scan,
            name="layers",
            config=config.block,
            implementation=self.attention,
            dtype=self.dtype,
        )
        context = Context(
            Mask(
                None,
                segment_ids,
                segment_ids,
                config.window,
                causal=False,
                pattern=config.attention_pattern,
            ),
            dropout_key=dropout_key,
            example_ids=example_ids,
        )
        (x, _), _ = blocks((x, None), Layer(jnp.arange(config.num_layers)), context)

        outputs = {"last_hidden_state": x}
        if config.pooler:
            outputs["pooler_output"] = jnp.tanh(self._square("pooler")(x[:, 0]))
        if config.head != "none":
            y = ACTIVATIONS[config.activation](self._square("head_transform")(x))
            outputs["transformed"] = self._norm("head_norm")(y)
            # Declared here and added by `logits`, so that a loss may hold few logits at a time.
            start = named(nn.initializers.zeros, ("vocab",))
            self.param("head_bias", start, (config.padded_vocab,))
        if config.head == "pretraining":
            pair = self._projection("head_pair", 2)(outputs["pooler_output"])
            outputs["seq_relationship_logits"] = pair.astype(jnp.float32)
        return outputs

    def _table(self, name, rows, row_axis):
        config = self.config
        return Table(rows, config.hidden_size, row_axis, config.init_std, self.dtype, name=name)

    def _norm(self, name):
        return LayerNorm(self.config.layer_norm_epsilon, True, self.dtype, name=name)

    def _square(self, name):
        return self._projection(name, self.config.hidden_size)

    def _projection(self, name, size):
        sizes, std = ((self.config.hidden_size,), (size,)), self.config.init_std
        return Projection(*sizes, ("embed", None), std, True, self.dtype, name=name)


def _positions(tokens, padding_id: int | None):
    if padding_id is None:
        return jnp.arange(tokens.shape[1])[None, :]
    real = (tokens != padding_id).astype(jnp.int32)
    return jnp.cumsum(real, axis=1) * real + padding_id


def example_inputs(config: Config) -> dict:
    """Returns the smallest inputs of the module: they shape its parameters."""
    del config
    return {"tokens": jnp.zeros((1, 1), jnp.int32)}


def logits(config: Config, params, transformed):
    """Returns float32 [..., vocab_size] of `transformed [..., D]`; the padding is cut."""
    table = params["embedding"]["table"].astype(transformed.dtype)
    flat = transformed.reshape(-1, transformed.shape[-1])
    scores = jnp.matmul(flat, table.T, preferred_element_type=jnp.float32) + params["head_bias"]
    return scores.reshape(*transformed.shape[:-1], -1)[..., : config.vocab_size]


def forward(
    model,
    params,
    *,
    input_ids,
    attention_mask=None,
    token_type_ids=None,
    dropout_key=None,
    example_ids=None,
) -> dict:
    """Returns `last_hidden_state`, and what else the model has, under `transformers`' names.

    Args:
      model: the `llm_jax.models.Model`.
      params: its parameters.
      input_ids: int [B, T].
      attention_mask: int [B, T], 0 where a token is padding; what comes out there is void.
      token_type_ids: int [B, T] below `token_types`; None means 0 everywhere.
      dropout_key: turns dropout on.
      example_ids: int32 [B], which draws each row takes; None means `0 .. B-1`.

    Returns:
      last_hidden_state: [B, T, D]; pooler_output: [B, D]; logits: float32 [B, T, V], which head
      "pretraining" calls prediction_logits; seq_relationship_logits: float32 [B, 2].

    Raises:
      ConfigError: T is longer than the positions, or there are token types without a table.
    """
    config, tokens = model.config, jnp.asarray(input_ids)
    if tokens.shape[1] > config.longest:
        raise ConfigError(
            f"a sequence of {tokens.shape[1]} tokens is longer than the model's {config.longest} "
            "positions: raise model.max_positions or shorten it"
        )
    if token_type_ids is not None and not config.token_types:
        raise ConfigError("token_type_ids were given, but model.token_types is 0: leave them out")
    outputs = model.apply(
        params,
        tokens,
        segment_ids=attention_mask,
        token_types=token_type_ids,
        dropout_key=dropout_key,
        example_ids=example_ids,
    )
    if "transformed" in outputs:
        name = "prediction_logits" if config.head == "pretraining" else "logits"
        outputs[name] = logits(config, params, outputs.pop("transformed"))
    return outputs


def output_embedding(config: Config, params):
    """Returns the float32 [padded_vocab, D] matrix that maps transformed states to logits."""
    del config
    return params["embedding"]["table"]


def flops_per_token(config: Config, sequence_length: int, predicted: float = 1.0) -> Flops:
    """Floating-point operations of training on one token; see `llm_jax.models.flops`.

    Each token sees the whole row, so that nothing of the attention may be halved: it stands with
    the matrix products. Logits are made of a share `predicted` of the tokens.
    """
    size = config.hidden_size
    weights = config.num_layers * (4 * size * size + 2 * size * config.size_of_mlp)
    if config.head != "none":
        weights += size * size + predicted * config.padded_vocab * size
    keys = row_keys(
        sequence_length,
        head_dim=config.size_of_head,
        window=config.window,
        pattern=config.attention_pattern,
        causal=False,
    )
    return Flops(
        matmul=6.0 * weights + 12.0 * config.num_layers * size * keys,
        attention=0.0,
        formula=(
            "6 (layers (attention + mlp weights) + head weights)"
            " + 12 layers x width x length (whole attention), or less by window and pattern"
        ),
    )
