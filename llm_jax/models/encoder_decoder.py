"""What encoder-decoders share: two stacks of blocks, and the calls that generation makes.

A family's `Transformer` is an `EncoderDecoder` that says how sources and targets are embedded.
Decoding token by token goes

    memory = prepare(model, params, encode(model, params, input_ids=..., attention_mask=...))
    cache = model.init_cache(batch, length)
    hidden, cache = decode(model, params, tokens, memory, positions=positions, cache=cache)
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.kernels.attention import Mask
from llm_jax.kernels.pattern import Pattern
from llm_jax.layers import norm
from llm_jax.layers.block import Block, BlockConfig, Context, Layer
from llm_jax.layers.dropout import dropout, site_key
from llm_jax.layers.embed import padded_rows
from llm_jax.layers.stack import Scan, stack
from llm_jax.models.checks import check_sizes
from llm_jax.models.flops import Flops, row_keys
from llm_jax.parallel.sharding import constrain


@dataclasses.dataclass(frozen=True)
class Shared:
    """What the families' Configs share; `Model` asks for what follows from them under these names.

    Attributes:
      window: in self-attention a source token sees those nearer than so many on both sides, a
        target token so many with its own; None for all.
      attention_pattern: which of them, see `llm_jax.kernels.pattern.Pattern`. Cross-attention sees
        all of the source.
    """

    window: int | None = None
    attention_pattern: Pattern = Pattern()
    gated = False  # No field but T5's.

    def __post_init__(self):
        check_sizes(self, ("window",))
        # What goes with an encoder's pattern goes with a decoder's.
        self.attention_pattern.check(
            causal=False,
            window=self.window,
            alibi=self.alibi,
            dropout_rate=self.attention_dropout_rate,
        )

    @property
    def alibi(self) -> bool:
        """Whether positions are ALiBi's (Press et al. 2021, arXiv:2108.12409)."""
        return getattr(self, "positions", None) == "alibi"

    @property
    def num_layers(self) -> int:
        """Layers of the decoder: those that a cache has."""
        return self.num_decoder_layers

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
        return self.mlp_size

    @property
    def padded_vocab(self) -> int:
        """Rows of the token table: `vocab_size` up to a multiple of 128."""
        return padded_rows(self.vocab_size)


class Blocks(nn.Module):
    """A stack of equal blocks and, where `final_norm`, a norm (with dropout) behind it."""

    config: BlockConfig
    num_layers: int
    final_norm: bool
    attention: str
    scan: Scan
    dtype: jnp.dtype
    final_dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x, context: Context, memory=None, cache=None):
        """Returns `(x [B, T, D], cache)`; `memory` and `cache` as `Layer` and `Block` say."""
        blocks = stack(
            Block,
            num_layers=self.num_layers,
            scan=self.scan,
            name="layers",
            config=self.config,
            implementation=self.attention,
            dtype=self.dtype,
        )
        layers = Layer(jnp.arange(self.num_layers), memory=memory)
        (x, cache), _ = blocks((x, cache), layers, context)
        if self.final_norm:
            x = norm.make(
                self.config.norm,
                epsilon=self.config.norm_epsilon,
                use_bias=self.config.norm_bias,
                dtype=self.dtype,
                name="final_norm",
            )(x)
        if context.dropout_key is not None:
            key = site_key(context.dropout_key, "final")
            x = dropout(x, self.final_dropout_rate, key, context.example_ids)
        return x, cache


class EncoderDecoder(nn.Module):
    """An encoder, and a decoder that attends to what it made.

    A family's `setup` makes `self.encoder` and `self.decoder` with `_blocks`; its `_embed_source`
    and `_embed_target` give their inputs.

    Attributes:
      config: sizes and choices of the family.
      attention: a name of `llm_jax.kernels.attention`, or "auto".
      scan: how its layers are run.
      dtype: of the computation; parameters are float32.
    """

    config: Any
    attention: str = "auto"
    scan: Scan = Scan()
    dtype: jnp.dtype = jnp.float32

    def _blocks(self, config: BlockConfig, num_layers: int, final_norm: bool, **more):
        dials = {name: getattr(self, name) for name in ("attention", "scan", "dtype")}
        return Blocks(config, num_layers, final_norm, **dials, **more)

    def _embed_source(self, **inputs):
        """Returns `(x [B, S, D], mask [B, S] or None, bias or None)` of the family's inputs."""
        raise NotImplementedError

    def _embed_target(self, tokens, positions, length: int):
        """Returns `(x [B, T, D], bias [.., N, T, length] or None)` of tokens at positions."""
        raise NotImplementedError

    def __call__(
        self,
        *,
        decoder_input_ids,
        decoder_attention_mask=None,
        dropout_key=None,
        example_ids=None,
        **inputs,
    ):
        """Returns `(decoder's hidden [B, T, D], encoder's hidden [B, S, D])`.

        Args:
          decoder_input_ids: int [B, T].
          decoder_attention_mask: int [B, T], 0 where a token is padding, or None.
          dropout_key: turns dropout on.
          example_ids: int32 [B], which draws each row takes; None means `0 .. B-1`.
          **inputs: the source, as the family's `forward` names it.

        Raises:
          ConfigError: dropout in a model whose MLPs have a dropout of their own.
        """
        if dropout_key is not None and getattr(self.config, "activation_dropout_rate", 0.0) > 0.0:
            raise ConfigError(
                f"model.activation_dropout_rate is {self.config.activation_dropout_rate}: hidden "
                "units of an MLP are not dropped here, set it to 0 to train"
            )
        if dropout_key is not None and example_ids is None:
            example_ids = jnp.arange(decoder_input_ids.shape[0])
        random = {"dropout_key": dropout_key, "example_ids": example_ids}
        memory = self.encode(**inputs, **random)
        hidden, _ = self.decode(
            decoder_input_ids, memory, attention_mask=decoder_attention_mask, **random
        )
        return hidden, memory["hidden"]

    def encode(self, *, dropout_key=None, example_ids=None, **inputs):
        """Returns the memory: `hidden [B, S, D]` and `mask`, int [B, S] or None."""
        x, mask, bias = self._embed_source(**inputs)
        if dropout_key is not None:
            dropout_key = site_key(dropout_key, "encoder")
        x = self._begin(x, dropout_key, example_ids)
        context = Context(
            self._own(_whole(mask, *x.shape[:2])),
            bias=bias,
            dropout_key=dropout_key,
            example_ids=example_ids,
        )
        hidden, _ = self.encoder(x, context)
        return {"hidden": hidden, "mask": mask}

    def decode(
        self,
        tokens,
        memory,
        *,
        attention_mask=None,
        positions=None,
        cache=None,
        dropout_key=None,
        example_ids=None,
    ):
        """Returns `(hidden [B, T, D], cache)`; see the function `decode` of this module."""
        batch, length = tokens.shape
        keys = length if cache is None or "key" not in cache else cache["key"].shape[3]
        places = jnp.arange(length)[None, :] if positions is None else positions
        x, bias = self._embed_target(tokens, places, keys)
        if dropout_key is not None:
            dropout_key = site_key(dropout_key, "decoder")
        x = self._begin(x, dropout_key, example_ids)
        segments = None if attention_mask is None else jnp.ones((batch, length), jnp.int32)
        context = Context(
            self._own(Mask(None if cache is None else places, segments, attention_mask)),
            bias=bias,
            memory=memory.get("hidden"),
            memory_mask=_whole(memory["mask"], batch, length),
            dropout_key=dropout_key,
            example_ids=example_ids,
        )
        made = (memory["key"], memory["value"]) if "key" in memory else None
        return self.decoder(x, context, made, cache)

    def _own(self, mask: Mask) -> Mask:
        """Returns the mask of self-attention, as the configuration narrows it."""
        config = self.config
        return dataclasses.replace(mask, window=config.window, pattern=config.attention_pattern)

    def _begin(self, x, dropout_key, example_ids):
        if dropout_key is not None:
            key = site_key(dropout_key, "embedding")
            x = dropout(x, self.config.dropout_rate, key, example_ids)
        return constrain(x, ("batch", "length", "embed"))


def _whole(mask, batch: int, queries: int) -> Mask:
    """Returns the mask of queries that see every key that `mask [B, S]` has a 1 for."""
    if mask is None:
        return Mask(causal=False)
    return Mask(None, jnp.ones((batch, queries), jnp.int32), mask, causal=False)


def sinusoids(length: int, features: int, growth: float) -> np.ndarray:
    """Returns float32 [length, features]: sines of every position, then cosines.

    Wavelengths grow by a constant factor, from `2 pi` by 10,000 ** (i / growth); `growth` is
    `features / 2` in Vaswani et al. 2017 (arXiv:1706.03762), one less in some.
    """
    frequency = 10_000.0 ** (-np.arange(features // 2) / growth)
    angle = np.arange(length)[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def without_gradient(vectors, tokens, padding: int):
    """Returns `vectors [B, T, D]`; those of the token `padding` do not train its table."""
    return jnp.where((tokens == padding)[..., None], jax.lax.stop_gradient(vectors), vectors)


def encode(model, params, **inputs) -> dict:
    """Returns the memory of a source: `hidden [B, S, D]` and `mask`, int [B, S] or None.

    Args:
      model: the `llm_jax.models.Model` of an encoder-decoder.
      params: its parameters.
      **inputs: the source, as the family's `forward` names it.
    """
    return model.apply(params, method="encode", **inputs)


def prepare(model, params, memory: dict) -> dict:
    """Returns the memory with every layer's keys and values, made once for all decoding steps.

    Args:
      model: the `llm_jax.models.Model`.
      params: its parameters.
      memory: of `encode`.

    Returns:
      `key` and `value`, each [L, B, S, N, H] in the model's dtype, and `mask`.
    """
    hidden, cross = memory["hidden"], params["decoder"]["layers"]["cross"]

    def project(part):
        kernel = part["kernel"].astype(model.dtype)
        made = jnp.einsum("bsd,ldnh->lbsnh", hidden, kernel)
        if "bias" in part:
            made = made + part["bias"].astype(model.dtype)[:, None, None]
        return made

    return {"key": project(cross["key"]), "value": project(cross["value"]), "mask": memory["mask"]}


def decode(model, params, tokens, memory: dict, *, positions=None, cache=None):
    """Runs the decoder.

    Args:
      model: the `llm_jax.models.Model`.
      params: its parameters.
      tokens: int [B, T].
      memory: of `encode`, or of `prepare`: the same result, and less work for every token.
      positions: int32 [B, T], or None for `0 .. T-1`; with a cache also the slot that a token is
        written to and sees up to. One below 0 or behind the cache is not written, its result void.
      cache: of `Model.init_cache`, or None.

    Returns:
      `(hidden [B, T, D], cache)`, the first behind the decoder's last norm.

    Raises:
      ConfigError: a cache without positions.
    """
    if cache is not None and positions is None:
        raise ConfigError("a cache needs positions: give each token its slot")
    return model.apply(params, tokens, memory, positions=positions, cache=cache, method="decode")


def run(model, params, **inputs) -> dict:
    """Returns `last_hidden_state` of the decoder and `encoder_last_hidden_state`."""
    hidden, memory = model.apply(params, **inputs)
    return {"last_hidden_state": hidden, "encoder_last_hidden_state": memory}


def flops(config, source_per_target: float, source_length: float, target_length: int) -> Flops:
    """Returns the operations of training on one target token and the source tokens behind it.

    Only the decoder's own attention is causal, so scores of the encoder and of cross-attention
    are counted with the matrices.

    Args:
      config: with `hidden_size, num_heads, size_of_head, size_of_mlp, gated, padded_vocab,
        num_encoder_layers, num_decoder_layers, window, attention_pattern`.
      source_per_target: encoder positions for each target token.
      source_length: encoder positions of an example.
      target_length: target tokens of an example.
    """
    inner = config.num_heads * config.size_of_head
    projections = 4 * config.hidden_size * inner
    mlp = (3 if config.gated else 2) * config.hidden_size * config.size_of_mlp
    seen = {"window": config.window, "pattern": config.attention_pattern}
    seen["head_dim"] = config.size_of_head
    source_keys = row_keys(source_length, causal=False, **seen)
    encoder = config.num_encoder_layers * (6.0 * (projections + mlp) + 12 * inner * source_keys)
    # Of cross-attention, keys and values are made for each source position.
    cross = 6.0 * projections / 2 * (1 + source_per_target) + 12.0 * inner * source_length
    decoder = config.num_decoder_layers * (6.0 * (projections + mlp) + cross)
    return Flops(
        matmul=source_per_target * encoder
        + decoder
        + 6.0 * config.padded_vocab * config.hidden_size,
        attention=12.0 * config.num_decoder_layers * inner * row_keys(target_length, **seen),
        formula=(
            "6 (encoder + decoder weights + vocabulary x width) + 12 width x (encoder and cross "
            "scores) + 12 decoder layers x heads x head_dim x length / 2 (causal), or less by "
            "window and pattern"
        ),
    )
