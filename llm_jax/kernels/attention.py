"""Attention: named implementations of one function, the plain reference first.

All take `query [B, T, N, H]`, `key` and `value [B, S, K, H]` with `N` a multiple of `K`
(grouped-query attention: query head `n` reads key-value head `n // (N // K)`) and a `Mask`, and
return `[B, T, N, H]` in the query's dtype. Scores are scaled by `1 / sqrt(H)`; the softmax is
computed in float32. A query that may attend to nothing gives finite numbers without meaning.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from llm_jax.configuration import ConfigError

MASKED = -1e30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mask:
    """Who may attend to whom; every part is optional and all must allow.

    Attributes:
      query_positions: int32 [B, T] or None: the key slot of each query; it sees the slots up to
        and with its own. None means `0 .. T-1`.
      query_segments: int32 [B, T] or None: a query sees only keys of its own segment.
      key_segments: int32 [B, S]; given if and only if `query_segments` is.
    """

    query_positions: jax.Array | None = None
    query_segments: jax.Array | None = None
    key_segments: jax.Array | None = None

    def allowed(self, queries: slice, keys: int) -> jax.Array:
        """Returns bool [B or 1, queries, keys]: which keys the queries of a range may see."""
        if self.query_positions is None:
            position = jnp.arange(queries.start, queries.stop)[None, :]
        else:
            position = self.query_positions[:, queries]
        allowed = jnp.arange(keys) <= position[:, :, None]
        if self.query_segments is not None:
            same = self.query_segments[:, queries, None] == self.key_segments[:, None, :keys]
            allowed = allowed & same
        return allowed


def plain(query, key, value, mask: Mask, *, drop=None):
    """The reference: all scores at once. `drop` maps probabilities [B, N, T, S] to dropped ones."""
    batch, length, heads, head_dim = query.shape
    groups = key.shape[2]
    query = query.reshape(batch, length, groups, heads // groups, head_dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", query, key, preferred_element_type=jnp.float32)
    allowed = mask.allowed(slice(0, length), key.shape[1])[:, None, None]
    scores = jnp.where(allowed, scores / math.sqrt(head_dim), MASKED)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    if drop is not None:
        flat = probabilities.reshape(batch, heads, length, -1)
        probabilities = drop(flat).reshape(probabilities.shape)
    out = jnp.einsum("bkgts,bskh->btkgh", probabilities, value)
    return out.reshape(batch, length, heads, head_dim)


def chunked(query, key, value, mask: Mask, *, chunk: int = 128):
    """Memory-lean and fast: ranges of queries, scores made again in the backward pass.

    Each range of `chunk` queries reads the keys up to its end only, which for the plain causal
    mask leaves out up to half of the work. The backward pass is that of FlashAttention (Dao et
    al. 2022, arXiv:2205.14135): it keeps one log-normalizer per query in place of the scores.
    Batch and heads stay whole axes, so that they may be sharded.
    """
    batch, length, heads, head_dim = query.shape
    groups = key.shape[2]
    grouped = query.reshape(batch, length, groups, heads // groups, head_dim)
    out = _chunked(chunk, grouped.transpose(0, 2, 3, 1, 4), _heads(key), _heads(value), mask)
    return out.transpose(0, 3, 1, 2, 4).reshape(query.shape)


def _heads(x):
    return x.transpose(0, 2, 1, 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(chunk, query, key, value, mask):
    return _chunked_forward(chunk, query, key, value, mask)[0]


def _ranges(chunk: int, length: int, keys: int, mask: Mask):
    """Yields (queries, keys) slices; with the plain causal mask later keys are never seen."""
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        yield (
            slice(start, stop),
            slice(0, min(stop, keys) if mask.query_positions is None else keys),
        )


def _scores(query, key, mask: Mask, rows: slice, columns: slice):
    scale = 1.0 / math.sqrt(query.shape[-1])
    scores = jnp.einsum(
        "bkgth,bksh->bkgts",
        query[..., rows, :] * jnp.asarray(scale, query.dtype),
        key[:, :, columns],
        preferred_element_type=jnp.float32,
    )
    return jnp.where(mask.allowed(rows, columns.stop)[:, None, None], scores, MASKED)


def _chunked_forward(chunk, query, key, value, mask):
    outputs, normalizers = [], []
    for rows, columns in _ranges(chunk, query.shape[3], key.shape[2], mask):
        scores = _scores(query, key, mask, rows, columns)
        largest = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        mixed = jnp.einsum("bkgts,bksh->bkgth", weights.astype(value.dtype), value[:, :, columns])
        outputs.append((mixed / total).astype(query.dtype))
        normalizers.append(largest + jnp.log(total))
    out = jnp.concatenate(outputs, axis=3)
    return out, (query, key, value, mask, out, jnp.concatenate(normalizers, axis=3))


def _chunked_backward(chunk, residuals, d_out):
    query, key, value, mask, out, normalizer = residuals
    scale = 1.0 / math.sqrt(query.shape[-1])
    f32 = {"preferred_element_type": jnp.float32}
    # The softmax's correction, sum_s p_ts dp_ts, is also sum_h o_th do_th.
    inner = jnp.sum(out.astype(jnp.float32) * d_out, axis=-1, keepdims=True)
    d_query, d_key, d_value = [], 0.0, 0.0
    for rows, columns in _ranges(chunk, query.shape[3], key.shape[2], mask):
        probabilities = jnp.exp(_scores(query, key, mask, rows, columns) - normalizer[..., rows, :])
        d_part = d_out[..., rows, :]
        d_probabilities = jnp.einsum("bkgth,bksh->bkgts", d_part, value[:, :, columns], **f32)
        d_scores = probabilities * (d_probabilities - inner[..., rows, :]) * scale
        d_scores, probabilities = d_scores.astype(query.dtype), probabilities.astype(query.dtype)
        d_query.append(jnp.einsum("bkgts,bksh->bkgth", d_scores, key[:, :, columns]))
        key_part = jnp.einsum("bkgts,bkgth->bksh", d_scores, query[..., rows, :], **f32)
        value_part = jnp.einsum("bkgts,bkgth->bksh", probabilities, d_part, **f32)
        behind = [(0, 0), (0, 0), (0, key.shape[2] - columns.stop), (0, 0)]
        d_key = d_key + jnp.pad(key_part, behind)
        d_value = d_value + jnp.pad(value_part, behind)
    d_query = jnp.concatenate(d_query, axis=3)
    return d_query, d_key.astype(key.dtype), d_value.astype(value.dtype), None


_chunked.defvjp(_chunked_forward, _chunked_backward)


def library(query, key, value, mask: Mask, *, implementation: str):
    """`jax.nn.dot_product_attention` with XLA's or cuDNN's implementation."""
    simple = mask.query_positions is None and mask.query_segments is None
    allowed = None if simple else mask.allowed(slice(0, query.shape[1]), key.shape[1])[:, None]
    return jax.nn.dot_product_attention(
        query, key, value, mask=allowed, is_causal=simple, implementation=implementation
    )


IMPLEMENTATIONS = {
    "plain": plain,
    "chunked": chunked,
    "xla": functools.partial(library, implementation="xla"),
    "cudnn": functools.partial(library, implementation="cudnn"),
}


def check(implementation: str) -> None:
    """Raises ConfigError if `implementation` is neither "auto" nor in `IMPLEMENTATIONS`."""
    if implementation not in ("auto", *IMPLEMENTATIONS):
        known = ", ".join(["auto", *IMPLEMENTATIONS])
        raise ConfigError(f"attention {implementation!r} is unknown: choose one of {known}")


def choose(
    implementation: str,
    *,
    backend: str,
    devices: int,
    query_shape: tuple,
    dtype,
    dropout: bool = False,
    cached: bool = False,
) -> str:
    """Returns the name that `implementation` stands for: itself, or what `auto` picks.

    Args:
      implementation: a key of `IMPLEMENTATIONS`, or "auto".
      backend: of `jax.default_backend()`.
      devices: how many devices share the computation.
      query_shape: `(B, T, N, H)`.
      dtype: of the query.
      dropout: whether attention probabilities are dropped, which only "plain" does.
      cached: whether keys come from a cache.

    Raises:
      ConfigError: an unknown name, or dropout asked of an implementation that has none.
    """
    check(implementation)
    if dropout:
        if implementation not in ("auto", "plain"):
            raise ConfigError(
                f"attention {implementation!r} cannot drop probabilities: choose 'plain' or "
                "'auto', or set attention_dropout_rate=0"
            )
        return "plain"
    if implementation != "auto":
        return implementation
    if backend == "gpu" and not cached and dtype in (jnp.bfloat16, jnp.float16):
        return "cudnn"
    return "plain" if cached else "chunked"


def attention(query, key, value, mask: Mask, *, implementation: str = "auto", drop=None):
    """Causal attention by a named implementation; shapes and types as the module says."""
    mesh = jax.sharding.get_abstract_mesh()
    name = choose(
        implementation,
        backend=jax.default_backend(),
        devices=1 if mesh.empty else mesh.size,
        query_shape=query.shape,
        dtype=query.dtype,
        dropout=drop is not None,
        cached=mask.query_positions is not None,
    )
    extra = {} if drop is None else {"drop": drop}
    return IMPLEMENTATIONS[name](query, key, value, mask, **extra)
