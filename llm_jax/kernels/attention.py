"""Attention: named implementations of one function, the plain reference first.

All take `query [B, T, N, H]`, `key` and `value [B, S, K, H]` with `N` a multiple of `K`
(grouped-query attention: query head `n` reads key-value head `n // (N // K)`), a `Mask` and
`Scores`, and return `[B, T, N, H]` in the query's dtype. The softmax is computed in float32. A
query that may attend to nothing gives finite numbers without meaning.
"""

import functools

import jax
import jax.numpy as jnp

from llm_jax.configuration import ConfigError
from llm_jax.kernels.chunked import CHUNK, chunked
from llm_jax.kernels.flash import flash
from llm_jax.kernels.linear_attention import linear_attention
from llm_jax.kernels.mask import MASKED, Mask, Scores, Span
from llm_jax.kernels.pattern import Pattern
from llm_jax.parallel.ring import ring_attention
from llm_jax.parallel.sharding import axis_size, constrain, platform


def plain(query, key, value, mask: Mask, scores: Scores = Scores(), *, bias=None, drop=None):
    """The reference: all scores at once.

    `bias` [B or 1, N, T, S] is added to the scores; `drop` maps probabilities [B, N, T, S] to
    dropped ones.
    """
    batch, length, heads, head_dim = query.shape
    groups = key.shape[2]
    query = query.reshape(batch, length, groups, heads // groups, head_dim)
    logits = jnp.einsum("btkgh,bskh->bkgts", query, key, preferred_element_type=jnp.float32)
    whole = Span(0, length), Span(0, key.shape[1])
    logits = scores.of(logits * scores.factor(head_dim), mask, *whole)
    if bias is not None:
        logits = logits + bias.reshape(-1, groups, heads // groups, *bias.shape[2:])
    allowed = mask.dense(length, key.shape[1])[:, None, None]
    logits = jnp.where(allowed, logits, MASKED)
    probabilities = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    if drop is not None:
        flat = probabilities.reshape(batch, heads, length, -1)
        probabilities = drop(flat).reshape(probabilities.shape)
    out = jnp.einsum("bkgts,bskh->btkgh", probabilities, value)
    return out.reshape(batch, length, heads, head_dim)


def library(query, key, value, mask: Mask, scores: Scores = Scores(), *, implementation: str):
    """`jax.nn.dot_product_attention` with XLA's or cuDNN's implementation: scaled products only."""
    if not scores.scaled_only:
        raise ConfigError(
            f"attention {implementation!r} cannot cap scores or lower them by ALiBi: choose "
            "'chunked', 'plain' or 'auto'"
        )
    simple = mask.prefix_only and mask.query_segments is None and mask.window is None
    simple = simple and not mask.pattern.block_sparse
    allowed = None if simple else mask.dense(query.shape[1], key.shape[1])[:, None]
    return jax.nn.dot_product_attention(
        query, key, value, mask=allowed, scale=scores.scale, is_causal=simple,
        implementation=implementation,
    )  # fmt: skip


IMPLEMENTATIONS = {
    "plain": plain,
    "chunked": chunked,
    "flash": flash,
    "xla": functools.partial(library, implementation="xla"),
    "cudnn": functools.partial(library, implementation="cudnn"),
}


# How rows that are divided over the mesh axis `seq` are attended to; on one device, as "auto".
DIVIDED = ("ring", "all_to_all")


def check(implementation: str, pattern: Pattern = Pattern()) -> None:
    """Raises ConfigError if `implementation` is unknown, or a linear pattern's is not "auto"."""
    if implementation not in ("auto", *IMPLEMENTATIONS, *DIVIDED):
        known = ", ".join(["auto", *IMPLEMENTATIONS, *DIVIDED])
        raise ConfigError(f"attention {implementation!r} is unknown: choose one of {known}")
    if pattern.linear and implementation != "auto":
        raise ConfigError(
            f"attention {implementation!r} has a softmax and model.attention_pattern.kind 'linear' "
            "none: set execution.attention='auto', or choose kind 'full' or 'block_sparse'"
        )


def choose(
    implementation: str,
    *,
    platform: str,
    query_shape: tuple,
    dtype,
    dropout: bool = False,
    bias: bool = False,
    scores: Scores = Scores(),
    cached: bool = False,
    pattern: Pattern = Pattern(),
    sequence: int = 1,
    own_keys: bool = True,
    known_window: bool = True,
) -> str:
    """Returns the name that `implementation` stands for: itself, or what `auto` picks.

    Args:
      implementation: a key of `IMPLEMENTATIONS`, a name of `DIVIDED`, or "auto".
      platform: of the devices, as of `llm_jax.parallel.sharding.platform`.
      query_shape: `(B, T, N, H)`.
      dtype: of the query.
      dropout: whether attention probabilities are dropped, which only "plain" does.
      bias: whether scores have a bias, which only "plain" takes.
      scores: before the softmax.
      cached: whether keys come from a cache.
      pattern: of the mask.
      sequence: how many devices divide the rows.
      own_keys: whether keys are of the queries' own slots.
      known_window: whether a window, if there is one, is of `Mask.windows`.

    Raises:
      ConfigError: an unknown name, or dropout, a bias, a pattern or a platform asked of an
        implementation without it.
    """
    check(implementation, pattern)
    if sequence > 1 and implementation in ("auto", *DIVIDED):
        # A ring takes whole rows and plain scores; heads exchanged for rows do whatever one does.
        simple = not (dropout or bias or cached or pattern.block_sparse or pattern.linear)
        ring = simple and own_keys
        if implementation == "ring" and not ring:
            raise ConfigError(
                "attention 'ring' has no dropout of probabilities, bias, cache, memory or pattern: "
                "choose execution.attention='all_to_all' or 'auto'"
            )
        return "ring" if ring and implementation != "all_to_all" else "all_to_all"
    if implementation in DIVIDED or (implementation == "flash" and cached):
        implementation = "auto"  # also for a model that trained by it and now decodes
    if pattern.linear:
        if dropout or bias:
            raise ConfigError(
                "model.attention_pattern.kind 'linear' has no scores to drop or to add a bias to: "
                "unset them, or choose kind 'full' or 'block_sparse'"
            )
        return "linear"
    if dropout or bias:
        if implementation not in ("auto", "plain"):
            raise ConfigError(
                f"attention {implementation!r} cannot drop probabilities or add a bias: choose "
                "'plain' or 'auto', or set attention_dropout_rate=0"
            )
        return "plain"
    lacks = {
        f"the platform {platform!r}": platform != "tpu",
        f"{jnp.dtype(dtype).name}": dtype not in (jnp.bfloat16, jnp.float32),
        "ALiBi": scores.alibi,
        "a cache": cached,
        "a block-sparse pattern": pattern.block_sparse,
        "a window that is computed or over other keys": not known_window,
    }
    if implementation == "flash" and any(lacks.values()):
        raise ConfigError(
            f"attention 'flash' is not for {next(name for name in lacks if lacks[name])}: choose "
            "'chunked' or 'auto'"
        )
    if implementation != "auto":
        return implementation
    length, head_dim = query_shape[1], query_shape[3]
    if length >= CHUNK and not any(lacks.values()):
        return "flash"
    half = dtype in (jnp.bfloat16, jnp.float16)
    simple = scores.scaled_only and not (cached or pattern.block_sparse)
    # What cuDNN's fused kernels take on every GPU since Ampere, a mask's gradient included.
    if platform == "gpu" and simple and half and head_dim <= 128 and not head_dim % 8 | length % 2:
        return "cudnn"
    # One token of a cache is a few products; a prompt's scores are better not all there at once.
    few = length <= CHUNK or pattern.block_sparse
    return "plain" if cached and few else "chunked"


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
    own_keys = query.shape[1] == key.shape[1]
    pick = functools.partial(
        choose,
        platform=platform(),
        query_shape=query.shape,
        dtype=query.dtype,
        dropout=drop is not None,
        bias=bias is not None,
        scores=scores,
        cached=mask.query_positions is not None,
        pattern=mask.pattern,
        own_keys=own_keys,
        known_window=mask.window is None or (own_keys and bool(mask.windows)),
    )
    name = pick(implementation, sequence=axis_size("seq"))
    if name == "ring":
        return ring_attention(query, key, value, mask, scores)
    if name == "all_to_all":
        query, key, value = _heads_for_rows(query, key, value)
        name = pick("auto")
    if name == "linear":
        return linear_attention(query, key, value, mask)
    extra = {} if name != "plain" else {"bias": bias, "drop": drop}
    return IMPLEMENTATIONS[name](query, key, value, mask, scores, **extra)


def _heads_for_rows(query, key, value):
    """Gives each device of `seq` whole rows of some heads, for parts of rows of all heads.

    DeepSpeed-Ulysses (Jacobs et al. 2023, arXiv:2309.14509); the compiler makes the all-to-all.
    """
    heads, groups = query.shape[2], key.shape[2]
    if groups % (axis_size("seq") * axis_size("tensor")):
        key, value = (jnp.repeat(x, heads // groups, axis=2) for x in (key, value))
    names = ("batch", None, "exchanged_heads", "head_dim")
    return tuple(constrain(x, names) for x in (query, key, value))
