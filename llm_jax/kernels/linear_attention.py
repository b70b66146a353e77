"""Linear attention: a feature map in place of the softmax, in time and memory linear in length."""

import jax
import jax.numpy as jnp

from llm_jax.kernels.mask import Mask


def feature_map(x):
    """Returns `elu(x) + 1` in float32, above 0: the paper's."""
    return jax.nn.elu(x.astype(jnp.float32)) + 1.0


def linear_attention(query, key, value, mask: Mask, *, chunk: int = 128):
    """`sum_s f(q_t) f(k_s) v_s / sum_s f(q_t) f(k_s)`; Katharopoulos et al. 2020, arXiv:2006.16236.

    The sum is over the keys that the mask allows: those of the same segment, up to the query
    itself if causal. Within a chunk products are made as in full attention; what came before it
    is one matrix [H, H + 1] per head. Computed in float32.

    Args:
      query: [B, T, N, H].
      key, value: [B, T, K, H], `N` a multiple of `K`.
      mask: without `query_positions` and `window`; equal segments must be adjacent.
      chunk: queries whose products are held at once.

    Returns:
      [B, T, N, H] in the query's dtype.
    """
    batch, length, heads, head_dim = query.shape
    dtype = query.dtype
    groups = key.shape[2]
    filled = -length % chunk

    def chunks(x, fill=0):
        """Returns [chunks, B, chunk, ...]."""
        x = jnp.pad(x, [(0, 0), (0, filled)] + [(0, 0)] * (x.ndim - 2), constant_values=fill)
        return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)

    if mask.query_segments is None:
        segments = jnp.zeros((1, length), jnp.int32)
    else:
        segments = mask.query_segments
    segments = chunks(segments, -(2**31))
    query = chunks(feature_map(query).reshape(batch, length, groups, heads // groups, head_dim))
    ones = jnp.ones((*value.shape[:-1], 1), jnp.float32)
    key = chunks(feature_map(key))
    value = chunks(jnp.concatenate([value.astype(jnp.float32), ones], axis=-1))
    sums = _prefix_sums(query, key, value, segments, own=True)
    if not mask.causal:
        turned = (jnp.flip(x, (0, 2)) for x in (query, key, value, segments))
        sums = sums + jnp.flip(_prefix_sums(*turned, own=False), (0, 2))
    sums = jnp.moveaxis(sums, 0, 1).reshape(batch, -1, heads, head_dim + 1)[:, :length]
    return (sums[..., :-1] / sums[..., -1:]).astype(dtype)


def _prefix_sums(query, key, value, segments, *, own: bool):
    """Returns [chunks, B, chunk, K, G, E]: each query's sum over the keys before it.

    `own` says whether its own slot is one of them.
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

    _, batch, _, groups, head_dim = key.shape
    empty = jnp.zeros((batch, groups, head_dim, value.shape[-1]), jnp.float32)
    return jax.lax.scan(step, (empty, segments[0][:, 0]), (query, key, value, segments))[1]
