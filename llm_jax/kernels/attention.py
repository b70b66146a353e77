"""Attention: named implementations of one function, the plain reference first.

All take `query [B, T, N, H]`, `key` and `value [B, S, K, H]` with `N` a multiple of `K`
(grouped-query attention: query head `n` reads key-value head `n // (N // K)`), a `Mask` and
`Scores`, and return `[B, T, N, H]` in the query's dtype. The softmax is computed in float32. A
query that may attend to nothing gives finite numbers without meaning.
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
      window: int32 scalar or None: a query sees only the last so many slots, its own included.
      causal: whether a query's own slot is the last that it sees; without it `query_positions`
        and `window` are not looked at.
    """

    query_positions: jax.Array | None = None
    query_segments: jax.Array | None = None
    key_segments: jax.Array | None = None
    window: jax.Array | None = None
    causal: bool = dataclasses.field(default=True, metadata={"static": True})

    @property
    def prefix_only(self) -> bool:
        """Whether query `t` sees no key behind slot `t`: half of the work can be left out."""
        return self.causal and self.query_positions is None

    def allowed(self, queries: slice, keys: int) -> jax.Array:
        """Returns bool [B or 1, queries, keys]: which keys the queries of a range may see."""
        if self.query_positions is None:
            position = jnp.arange(queries.start, queries.stop)[None, :]
        else:
            position = self.query_positions[:, queries]
        allowed = jnp.ones((1, queries.stop - queries.start, keys), bool)
        if self.causal:
            behind = position[:, :, None] - jnp.arange(keys)
            allowed = behind >= 0
            if self.window is not None:
                allowed = allowed & (behind < self.window)
        if self.query_segments is not None:
            same = self.query_segments[:, queries, None] == self.key_segments[:, None, :keys]
            allowed = allowed & same
        return allowed


@dataclasses.dataclass(frozen=True)
class Scores:
    """What scores are before the softmax: `cap tanh(scale q k / cap)`.

    Attributes:
      scale: of the products; None means `1 / sqrt(H)`.
      cap: no score is larger (Gemma 2, arXiv:2408.00118); None for none.
    """

    scale: float | None = None
    cap: float | None = None

    def factor(self, head_dim: int) -> float:
        """Returns the scale."""
        return 1.0 / math.sqrt(head_dim) if self.scale is None else self.scale

    def capped(self, scores):
        """Returns scaled products as scores."""
        return scores if self.cap is None else self.cap * jnp.tanh(scores / self.cap)


def plain(query, key, value, mask: Mask, scores: Scores = Scores(), *, bias=None, drop=None):
    """The reference: all scores at once.

    `bias` [B or 1, N, T, S] is added to the scores; `drop` maps probabilities [B, N, T, S] to
    dropped ones.
    """
    batch, length, heads, head_dim = query.shape
    groups = key.shape[2]
    query = query.reshape(batch, length, groups, heads // groups, head_dim)
    logits = jnp.einsum("btkgh,bskh->bkgts", query, key, preferred_element_type=jnp.float32)
    logits = scores.capped(logits * scores.factor(head_dim))
    if bias is not None:
        logits = logits + bias.reshape(-1, groups, heads // groups, *bias.shape[2:])
    allowed = mask.allowed(slice(0, length), key.shape[1])[:, None, None]
    logits = jnp.where(allowed, logits, MASKED)
    probabilities = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    if drop is not None:
        flat = probabilities.reshape(batch, heads, length, -1)
        probabilities = drop(flat).reshape(probabilities.shape)
    out = jnp.einsum("bkgts,bskh->btkgh", probabilities, value)
    return out.reshape(batch, length, heads, head_dim)


def chunked(query, key, value, mask: Mask, scores: Scores = Scores(), *, chunk: int = 128):
    """Memory-lean and fast: ranges of queries, scores made again in the backward pass.

    Each range of `chunk` queries reads the keys up to its end only, which for the plain causal
    mask leaves out up to half of the work. The backward pass is that of FlashAttention (Dao et
    al. 2022, arXiv:2205.14135): it keeps one log-normalizer per query in place of the scores.
    Batch and heads stay whole axes, so that they may be sharded.
    """
    batch, length, heads, head_dim = query.shape
    groups = key.shape[2]
    grouped = query.reshape(batch, length, groups, heads // groups, head_dim)
    settings = (chunk, scores)
    out = _chunked(settings, grouped.transpose(0, 2, 3, 1, 4), _heads(key), _heads(value), mask)
    return out.transpose(0, 3, 1, 2, 4).reshape(query.shape)


def _heads(x):
    return x.transpose(0, 2, 1, 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(settings, query, key, value, mask):
    return _chunked_forward(settings, query, key, value, mask)[0]


def _ranges(chunk: int, length: int, keys: int, mask: Mask):
    """Yields (queries, keys) slices; with the plain causal mask later keys are never seen."""
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        yield (
            slice(start, stop),
            slice(0, min(stop, keys) if mask.prefix_only else keys),
        )


def _logits(scores: Scores, query, key, mask: Mask, rows: slice, columns: slice):
    products = jnp.einsum(
        "bkgth,bksh->bkgts",
        query[..., rows, :] * jnp.asarray(scores.factor(query.shape[-1]), query.dtype),
        key[:, :, columns],
        preferred_element_type=jnp.float32,
    )
    allowed = mask.allowed(rows, columns.stop)[:, None, None]
    return jnp.where(allowed, scores.capped(products), MASKED)


def _chunked_forward(settings, query, key, value, mask):
    chunk, scores = settings
    outputs, normalizers = [], []
    for rows, columns in _ranges(chunk, query.shape[3], key.shape[2], mask):
        logits = _logits(scores, query, key, mask, rows, columns)
        largest = jnp.max(logits, axis=-1, keepdims=True)
        weights = jnp.exp(logits - largest)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        mixed = jnp.einsum("bkgts,bksh->bkgth", weights.astype(value.dtype), value[:, :, columns])
        outputs.append((mixed / total).astype(query.dtype))
        normalizers.append(largest + jnp.log(total))
    out = jnp.concatenate(outputs, axis=3)
    return out, (query, key, value, mask, out, jnp.concatenate(normalizers, axis=3))


def _chunked_backward(settings, residuals, d_out):
    chunk, scores = settings
    query, key, value, mask, out, normalizer = residuals
    scale = scores.factor(query.shape[-1])
    f32 = {"preferred_element_type": jnp.float32}
    # The softmax's correction, sum_s p_ts dp_ts, is also sum_h o_th do_th.
    inner = jnp.sum(out.astype(jnp.float32) * d_out, axis=-1, keepdims=True)
    d_query, d_key, d_value = [], 0.0, 0.0
    for rows, columns in _ranges(chunk, query.shape[3], key.shape[2], mask):
        logits = _logits(scores, query, key, mask, rows, columns)
        probabilities = jnp.exp(logits - normalizer[..., rows, :])
        d_part = d_out[..., rows, :]
        d_probabilities = jnp.einsum("bkgth,bksh->bkgts", d_part, value[:, :, columns], **f32)
        d_scores = probabilities * (d_probabilities - inner[..., rows, :]) * scale
        if scores.cap is not None:
            d_scores = d_scores * (1.0 - jnp.square(jnp.maximum(logits, -scores.cap) / scores.cap))
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


def library(query, key, value, mask: Mask, scores: Scores = Scores(), *, implementation: str):
    """`jax.nn.dot_product_attention` with XLA's or cuDNN's implementation; it has no cap."""
    if scores.cap is not None:
        raise ConfigError(
            f"attention {implementation!r} cannot cap scores: choose 'chunked', 'plain' or 'auto'"
        )
    simple = mask.prefix_only and mask.query_segments is None and mask.window is None
    allowed = None if simple else mask.allowed(slice(0, query.shape[1]), key.shape[1])[:, None]
    return jax.nn.dot_product_attention(
        query, key, value, mask=allowed, scale=scores.scale, is_causal=simple,
        implementation=implementation,
    )  # fmt: skip


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
    bias: bool = False,
    capped: bool = False,
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
      bias: whether scores have a bias, which only "plain" takes.
      capped: whether scores are capped.
      cached: whether keys come from a cache.

    Raises:
      ConfigError: an unknown name, or dropout or a bias asked of an implementation without it.
    """
    check(implementation)
    if dropout or bias:
        if implementation not in ("auto", "plain"):
            raise ConfigError(
                f"attention {implementation!r} cannot drop probabilities or add a bias: choose "
                "'plain' or 'auto', or set attention_dropout_rate=0"
            )
        return "plain"
    if implementation != "auto":
        return implementation
    if backend == "gpu" and not (cached or capped) and dtype in (jnp.bfloat16, jnp.float16):
        return "cudnn"
    return "plain" if cached else "chunked"


def attention(
    query,
    key,
    value,
    mask: Mask,
    scores: Scores = Scores(),
    *,
    implementation: str = "auto",
    bias=None,
    drop=None,
):
    """Attention by a named implementation; shapes and types as the module and `plain` say."""
    mesh = jax.sharding.get_abstract_mesh()
    name = choose(
        implementation,
        backend=jax.default_backend(),
        devices=1 if mesh.empty else mesh.size,
        query_shape=query.shape,
        dtype=query.dtype,
        dropout=drop is not None,
        bias=bias is not None,
        capped=scores.cap is not None,
        cached=mask.query_positions is not None,
    )
    extra = {} if name != "plain" else {"bias": bias, "drop": drop}
    return IMPLEMENTATIONS[name](query, key, value, mask, scores, **extra)
