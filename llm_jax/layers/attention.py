"""Attention of a block: projections, rotary positions, cache, and the kernel between."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.kernels.attention import Mask, Scores, attention, check
from llm_jax.kernels.linear_attention import continued
from llm_jax.layers.dropout import dropout
from llm_jax.layers.linear import Projection
from llm_jax.layers.norm import RMSNorm
from llm_jax.layers.rope import rotate
from llm_jax.parallel.sharding import constrain


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of an attention layer; `num_kv_heads` divides `num_heads`."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762) of `x [B, T, D]`.

    Attributes:
      shape: its sizes.
      biases: which of "query", "key", "value", "output" have one.
      qk_norm: RMS-normalizes queries and keys by head (Henry et al. 2020, arXiv:2010.04245).
      epsilon, norm_offset: of that norm.
      scores: scale and cap.
      implementation: a name of `llm_jax.kernels.attention`.
      dropout_rate: of attention probabilities.
      init_std, output_std: initial deviations of the input and the output projections.
      dtype: of the computation.
    """

    shape: Shape
    biases: tuple[str, ...]
    qk_norm: bool
    epsilon: float
    norm_offset: float
    scores: Scores
    implementation: str
    dropout_rate: float
    init_std: float
    output_std: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x,
        mask: Mask,
        *,
        memory=None,
        rotary=None,
        bias=None,
        dropout_key=None,
        example_ids=None,
        kv=None,
    ):
        """Returns `(y [B, T, D], cache or None)`.

        Args:
          x: [B, T, D].
          mask: who sees whom; its `query_positions` are the slots that a cache is written at, the
            first ones without, and with `key_positions`, of `ring_positions`, the cache is a ring.
          memory: None, or [B, S, D], where keys and values come from in place of `x`; or a pair of
            keys and values [B, S, K, H] that `memory_kv` made of it.
          rotary: tables of `llm_jax.layers.rope`, or None.
          bias: [B or 1, N, T, S], added to the scores, or None.
          dropout_key: of this layer's attention probabilities, or None.
          example_ids: int32 [B], needed with a dropout key.
          kv: None, or `(cache, layer)`: the whole model's, of `Model.init_cache`, and which layer
            this is. The returned cache has this layer's new entries.
        """
        query = self._normed(self._project("query", self.shape.num_heads, x), "query_norm")
        key, value = (
            memory if isinstance(memory, tuple) else self.memory_kv(x if memory is None else memory)
        )
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        key, value = self.seen(key, value)
        if kv is not None and mask.pattern.linear:
            check(self.implementation, mask.pattern)
            cache, layer = kv
            mixed, state = continued(query, key, value, mask, cache["state"][layer])
            return self._output(mixed), {"state": cache["state"].at[layer].set(state)}
        cache = None
        if kv is not None:
            old, layer = kv
            places = mask.query_positions
            if mask.key_positions is not None:
                places = _ring_slots(places, old["key"].shape[3])
            new = {"key": key, "value": value}
            cache = {name: _write(old[name], new[name], layer, places) for name in new}
            if places is None:
                pass  # The first tokens see what they wrote themselves, and nothing else.
            elif mask.key_positions is None or x.shape[1] == 1:
                key, value = (_read(cache[name], layer, self.dtype) for name in new)
            else:
                # Tokens that are written together may take slots that the first of them reads.
                key, value = (
                    jnp.concatenate([_read(old[name], layer, self.dtype), new[name]], axis=1)
                    for name in new
                )
        drop = None
        if self.dropout_rate > 0.0 and dropout_key is not None:

            def drop(probabilities):
                return dropout(probabilities, self.dropout_rate, dropout_key, example_ids)

        mixed = attention(
            query, key, value, mask, self.scores,
            # A ring is read where it lies, which the memory-lean kernels cannot.
            implementation="plain" if mask.key_positions is not None else self.implementation,
            bias=bias, drop=drop,
        )  # fmt: skip
        return self._output(mixed), cache

    def seen(self, key, value):
        """Returns keys and values as they are attended to and cached; for `llm_jax.peft`."""
        return key, value

    def memory_kv(self, x):
        """Returns keys and values [B, S, K, H] of `x [B, S, D]`, before rotary positions."""
        count = self.shape.num_kv_heads
        return self._normed(self._project("key", count, x), "key_norm"), self._project(
            "value", count, x
        )

    def _output(self, mixed):
        size, heads, _, dim = dataclasses.astuple(self.shape)
        mixed = constrain(mixed, ("batch", "length", "heads", "head_dim"))
        output = Projection(
            (heads, dim),
            (size,),
            ("heads", "head_dim", "embed"),
            self.output_std,
            "output" in self.biases,
            self.dtype,
            name="output",
        )
        return output(mixed)

    def _normed(self, x, name):
        if not self.qk_norm:
            return x
        settings = {"axis": "head_dim", "offset": self.norm_offset}
        return RMSNorm(self.epsilon, self.dtype, name=name, **settings)(x)

    def _project(self, name, count, x):
        names = ("embed", "heads" if name == "query" else "kv_heads", "head_dim")
        layer = Projection(
            (self.shape.hidden_size,),
            (count, self.shape.head_dim),
            names,
            self.init_std,
            name in self.biases,
            self.dtype,
            name=name,
        )
        return constrain(layer(x), ("batch", "length", names[1], "head_dim"))


def ring_positions(positions, slots: int):
    """Returns the positions of the keys that tokens at `positions` read from a ring.

    A ring holds position p in slot p mod `slots`. One token reads the ring with itself in it;
    several read the ring as it was before them, and then themselves. A row's tokens follow each
    other, and padding, at negative positions, may stand before or behind them.

    Args:
      positions: int32 [B, T].
      slots: of the ring.

    Returns:
      int32 [B, slots], or [B, slots + T] for T > 1; very negative where there is no key.
    """
    nowhere = -(2**30)
    kept = jnp.where(positions < 0, -nowhere, positions)
    last = positions if positions.shape[1] == 1 else jnp.min(kept, axis=1, keepdims=True) - 1
    held = last - (last - jnp.arange(slots)) % slots
    if positions.shape[1] > 1:
        held = jnp.concatenate([held, positions], axis=1)
    return jnp.where(held < 0, nowhere, held)


def _ring_slots(positions, slots: int):
    """Returns where tokens at `positions [B, T]` go in a ring, -1 for those it will not keep."""
    kept = positions > jnp.max(positions, axis=1, keepdims=True) - slots
    return jnp.where((positions >= 0) & kept, positions % slots, -1)


def _read(cache, layer, dtype):
    """Returns a layer's [B, S, K, H] of `cache [L, B, K, S, H]`."""
    return jnp.swapaxes(cache[layer], 1, 2).astype(dtype)


def _write(cache, new, layer, positions):
    """Writes `new [B, T, K, H]` at slots `positions [B, T]` of `cache [L, B, K, S, H]`.

    Without positions they are the first T.
    """
    if positions is None:
        new = jnp.swapaxes(new, 1, 2)[None].astype(cache.dtype)
        return jax.lax.dynamic_update_slice(cache, new, (layer, 0, 0, 0, 0))
    batch, length = positions.shape
    size = cache.shape[3]
    inside = (positions >= 0) & (positions < size)
    new = new.astype(cache.dtype)
    rows = jnp.arange(batch)
    if length == 1:
        slot = jnp.clip(positions[:, 0], 0, size - 1)
        old = cache.at[layer, rows, :, slot].get(mode="promise_in_bounds")
        new = jnp.where(inside[:, :, None], new[:, 0], old)
        return cache.at[layer, rows, :, slot].set(new, mode="promise_in_bounds")
    slots = jnp.where(inside, positions, size)
    return cache.at[layer, rows[:, None], :, slots].set(new, mode="drop")
