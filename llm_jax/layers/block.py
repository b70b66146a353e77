"""The block that families share: attention, perhaps cross-attention, and an MLP, with residuals.

A family says in a `BlockConfig` what its blocks are, and runs them by `llm_jax.layers.stack`.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from llm_jax.kernels.attention import Mask, Scores
from llm_jax.layers import norm
from llm_jax.layers.attention import Attention, Shape
from llm_jax.layers.dropout import dropout, site_key
from llm_jax.layers.mlp import MLP
from llm_jax.layers.partition import named
from llm_jax.layers.stack import BLOCK_INPUT
from llm_jax.parallel.sharding import axis_size, constrain

ALL_BIASES = ("query", "key", "value", "output")


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """What a block is made of.

    Attributes:
      shape: of its attention.
      mlp_size, activation, gated: of its MLP.
      norm, norm_epsilon, norm_bias, norm_offset: of its norms, see `llm_jax.layers.norm`.
      placement: of the norms: "pre" (x + f(norm(x))), "post" (norm(x + f(x))) or "both"
        (x + norm(f(norm(x)))).
      attention_biases, mlp_bias: which projections have a bias.
      qk_norm: RMS-normalizes queries and keys by head.
      scores: scale and cap of attention scores.
      dropout_rate: behind each branch.
      attention_dropout_rate: of attention probabilities.
      init_std, output_std: of the matrices; of those that end a branch.
      layer_scale: a learned factor per channel behind each branch, which begins at this value
        (Touvron et al. 2021, arXiv:2103.17239); None for none.
      cross: attends to a memory between self-attention and MLP.
    """

    shape: Shape
    mlp_size: int
    activation: str
    gated: bool = False
    norm: str = "layer_norm"
    norm_epsilon: float = 1e-5
    norm_bias: bool = True
    norm_offset: float = 0.0
    placement: str = "pre"
    attention_biases: tuple[str, ...] = ALL_BIASES
    mlp_bias: bool = True
    qk_norm: bool = False
    scores: Scores = Scores()
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    init_std: float = 0.02
    output_std: float = 0.02
    layer_scale: float | None = None
    cross: bool = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layer:
    """What differs from layer to layer; every part has a leading layer axis before the scan.

    Attributes:
      index: int32, the layer's number.
      window: int32, how many slots it sees, or None in all layers.
      local: bool, takes the second of the context's rotary tables; None in all layers: the first.
      memory: None, or keys and values that cross-attention made of the memory before.
    """

    index: jax.Array
    window: jax.Array | None = None
    local: jax.Array | None = None
    memory: tuple[jax.Array, jax.Array] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What all layers share.

    Attributes:
      mask: of self-attention.
      rotary: tables of `llm_jax.layers.rope`, or None; where some layers are local, a pair of them.
      bias: [B or 1, N, T, S], added to self-attention's scores, or None.
      memory: [B, S, D] that cross-attention reads, or None.
      memory_mask: of cross-attention, not causal.
      dropout_key: turns dropout on.
      example_ids: int32 [B], which draws each row takes.
    """

    mask: Mask
    rotary: tuple | None = None
    bias: jax.Array | None = None
    memory: jax.Array | None = None
    memory_mask: Mask | None = None
    dropout_key: jax.Array | None = None
    example_ids: jax.Array | None = None


class Block(nn.Module):
    """One layer over `x [B, T, D]`; see `BlockConfig` and `layers.stack`."""

    config: BlockConfig
    implementation: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, carry, layer: Layer, context: Context):
        """Takes and returns `(x [B, T, D], cache or None)`; see `Model.init_cache`."""
        x, cache = carry
        x = checkpoint_name(x, BLOCK_INPUT)
        mask, rotary = context.mask, context.rotary
        if layer.window is not None:
            mask = dataclasses.replace(mask, window=layer.window)
        if layer.local is not None:
            rotary = jax.tree.map(
                lambda everywhere, near: jnp.where(layer.local, near, everywhere), *rotary
            )

        def attend(x):
            nonlocal cache
            y, cache = self._attention("attention")(
                x,
                mask,
                rotary=rotary,
                bias=context.bias,
                dropout_key=self._key("attention_probabilities", layer, context),
                example_ids=context.example_ids,
                kv=None if cache is None else (cache, layer.index),
            )
            return y

        def attend_to_memory(x):
            return self._attention("cross")(
                x,
                context.memory_mask,
                memory=context.memory if layer.memory is None else layer.memory,
                dropout_key=self._key("cross_probabilities", layer, context),
                example_ids=context.example_ids,
            )[0]

        x = self._branch("attention", attend, x, layer, context)
        if self.config.cross:
            x = self._branch("cross", attend_to_memory, x, layer, context)
        x = self._branch("mlp", self._mlp(), x, layer, context)
        return (x, cache), None

    def _branch(self, name, function, x, layer, context):
        """Returns `x` with a branch added, normalized as the placement says."""
        config = self.config

        def normalize(suffix):
            return norm.make(
                config.norm,
                epsilon=config.norm_epsilon,
                use_bias=config.norm_bias,
                offset=config.norm_offset,
                dtype=self.dtype,
                name=f"{name}_{suffix}",
            )

        y = x if config.placement == "post" else normalize("norm")(x)
        y = function(constrain(y, ("batch", "length", "embed")))
        # Between products that `tensor` divides by heads or width it divides tokens, where it can
        # (Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2).
        divides = x.shape[1] % (axis_size("seq") * axis_size("tensor")) == 0
        between = ("batch", "norm_length" if divides else "length", "embed")
        y = constrain(y, between)
        if config.placement == "both":
            y = normalize("post_norm")(y)
        if config.layer_scale is not None:
            start = named(nn.initializers.constant(config.layer_scale), ("embed",))
            y = y * self.param(f"{name}_scale", start, (x.shape[-1],)).astype(y.dtype)
        y = dropout(y, config.dropout_rate, self._key(name, layer, context), context.example_ids)
        x = x + y
        if config.placement == "post":
            x = normalize("norm")(x)
        return constrain(x, between)

    def _key(self, site, layer, context):
        if context.dropout_key is None:
            return None
        return site_key(jax.random.fold_in(context.dropout_key, layer.index), site)

    def _attention(self, name):
        config, cross = self.config, name == "cross"
        return Attention(
            shape=config.shape,
            biases=config.attention_biases,
            qk_norm=config.qk_norm,
            epsilon=config.norm_epsilon,
            norm_offset=config.norm_offset,
            # Distances are between tokens of one row.
            scores=dataclasses.replace(config.scores, alibi=config.scores.alibi and not cross),
            implementation=self.implementation,
            dropout_rate=config.attention_dropout_rate,
            init_std=config.init_std,
            output_std=config.output_std,
            dtype=self.dtype,
            name=name,
        )

    def _mlp(self):
        config = self.config
        return MLP(
            hidden_size=config.shape.hidden_size,
            mlp_size=config.mlp_size,
            activation=config.activation,
            gated=config.gated,
            use_bias=config.mlp_bias,
            init_std=config.init_std,
            output_std=config.output_std,
            dtype=self.dtype,
            name="mlp",
        )
