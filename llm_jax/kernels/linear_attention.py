"""Linear attention: a feature map in place of the softmax, in time and memory linear in length.

Katharopoulos et al. 2020, arXiv:2006.16236: with `f(x) = elu(x) + 1` a token's result is
`sum_s f(q_t) f(k_s) v_s / sum_s f(q_t) f(k_s)`. The sum is over the keys that the mask allows:
those of the same segment, up to the query itself if causal. Within a chunk products are made as in
full attention; what came before it is one matrix [H, H + 1] per head. Computed in float32.
"""

import jax
import jax.numpy as jnp

from llm_jax.kernels.mask import Mask


def feature_map(x):
    """Returns `elu(x) + 1` in float32, above 0: the paper's."""
    return jax.nn.elu(x.astype(jnp.float32)) + 1.0


def linear_attention(query, key, value, mask: Mask, *, chunk: int = 128):
    """Attention of a row to itself.

    Args:
      query: [B, T, N, H].
      key, value: [B, T, K, H], `N` a multiple of `K`.
      mask: without `query_positions` and `window`; equal segments must be adjacent, and a key of
        another segment than the query in its slot is seen by none: padding.
      chunk: queries whose products are held at once.

    Returns:
      [B, T, N, H] in the query's dtype; finite numbers without meaning where nothing is seen.
    """
    shown, segments = None, jnp.zeros((1, query.shape[1]), jnp.int32)
    if mask.query_segments is not None:
        segments, shown = mask.query_segments, mask.query_segments == mask.key_segments
    parts = _chunks(query, key, value, shown, segments, min(chunk, query.shape[1]))
    batch, _, groups, head_dim = key.shape
    empty = jnp.zeros((batch, groups, head_dim, head_dim + 1), jnp.float32)
    sums = _prefix_sums(*parts, empty, own=True)[1]
    if not mask.causal:
        turned = (jnp.flip(x, (0, 2)) for x in parts)
        sums = sums + jnp.flip(_prefix_sums(*turned, empty, own=False)[1], (0, 2))
    return _divided(sums, query)


def continued(query, key, value, mask: Mask, state, *, chunk: int = 128):
    """Attention of new tokens to themselves and to all that a state was summed over.

    A causal model is a recurrent one (section 3.4 of the paper): in place of keys and values it
    keeps the sum of `f(k_s) [v_s, 1]`.

    Args:
      query, key, value, chunk: as of `linear_attention`, of new tokens in their order.
      mask: tokens at its negative `query_positions` are padding, which no state takes in.
      state: float32 [B, K, H, H + 1]; zeros for a text's beginning.

    Returns:
      `([B, T, N, H] in the query's dtype, the state with the new tokens in it)`.
    """
    shown = None if mask.query_positions is None else mask.query_positions >= 0
    one_segment = jnp.zeros((1, query.shape[1]), jnp.int32)
    parts = _chunks(query, key, value, shown, one_segment, min(chunk, query.shape[1]))
    state, sums = _prefix_sums(*parts, state, own=True)
    return _divided(sums, query), state


def _chunks(query, key, value, shown, segments, chunk: int):
    """Returns queries, keys and values with a 1 behind them, segments: [chunks, B, chunk, ...]."""
    batch, length, heads, head_dim = query.shape
    groups = key.shape[2]
    key = feature_map(key)
    if shown is not None:
        key = jnp.where(shown[:, :, None, None], key, 0.0)
    ones = jnp.ones((*value.shape[:-1], 1), jnp.float32)

    def cut(x, **filling):
        x = jnp.pad(x, [(0, 0), (0, -length % chunk)] + [(0, 0)] * (x.ndim - 2), **filling)
        return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)

    return (
        cut(feature_map(query).reshape(batch, length, groups, heads // groups, head_dim)),
        cut(key),
        cut(jnp.concatenate([value.astype(jnp.float32), ones], axis=-1)),
        # Keys that fill up are 0; in the last segment they leave its state as it is.
        cut(segments, mode="edge"),
    )


def _divided(sums, query):
    batch, length, heads, head_dim = query.shape
    sums = jnp.moveaxis(sums, 0, 1).reshape(batch, -1, heads, head_dim + 1)[:, :length]
    weights = sums[..., -1:]
    return (sums[..., :-1] / jnp.where(weights > 0.0, weights, 1.0)).astype(query.dtype)


def _prefix_sums(query, key, value, segments, state, *, own: bool):
    """Returns the last state, and [chunks, B, chunk, K, G, E]: each query's sum over keys before.

    `own` says whether its own slot is one of them. The given state is of the first segment.
    """
    length = query.shape[2]
    causal = jnp.tril(jnp.ones((length, length), bool), 0 if own else -1)

    # What is made inside a chunk is made again in the backward pass.
    @jax.checkpoint
    def step(carry, chunk):
        state, state_segment = carry
        query, key, value, segments = chunk
        same = segments[:, :, None] == segments[:, None, :]
        products = jnp.einsum("btkgh,bskh->bkgts", query, key)
        products = jnp.where((causal & same)[:, None, None], products, 0.0)
        inside = jnp.einsum("bkgts,bske->btkge", products, value)
        before = jnp.einsum("btkgh,bkhe->btkge", query, state)
        goes_on = segments == state_segment[:, None]
        sums = inside + jnp.where(goes_on[:, :, None, None, None], before, 0.0)
        last = segments[:, -1]
        kept = jnp.where((last == state_segment)[:, None, None, None], state, 0.0)
        key = jnp.where((segments == last[:, None])[:, :, None, None], key, 0.0)
        return (kept + jnp.einsum("bskh,bske->bkhe", key, value), last), sums

    start = (state, segments[0][:, 0])
    (state, _), sums = jax.lax.scan(step, start, (query, key, value, segments))
    return state, sums
