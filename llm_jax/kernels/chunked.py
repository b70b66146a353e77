"""Attention range by range, in memory that grows linearly with the length.

The backward pass is that of FlashAttention (Dao et al. 2022, arXiv:2205.14135): it keeps one
log-normalizer per query in place of the scores, and makes the scores again. Batch and heads stay
whole axes, so that they may be sharded.

A short row is a program of a few ranges of queries, each with all keys that it may see: the
compiler fits every one. A long row, and one of a sparse pattern, is a loop over blocks of queries
with a loop over blocks of keys inside: the program stays small, no more than a block of scores is
ever held, and blocks that the mask leaves out are not visited.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from llm_jax.configuration import ConfigError
from llm_jax.kernels.mask import MASKED, Mask, Scores, Span, tied

# Queries of a range; a short row has so many at most, and with a window so many.
CHUNK, MOST_RANGES, MOST_RANGES_WINDOW = 128, 8, 4
F32 = {"preferred_element_type": jnp.float32}


def chunked(query, key, value, mask: Mask, scores: Scores = Scores(), *, chunk: int = CHUNK):
    """Memory-lean and fast; shapes and types as `llm_jax.kernels.attention.plain`.

    Ranges of a short row have `chunk` queries, blocks of a long one twice as many.
    """
    batch, length, heads, head_dim = query.shape
    groups = key.shape[2]
    query = query.reshape(batch, length, groups, heads // groups, head_dim)
    query, key, value = query.transpose(0, 2, 3, 1, 4), _heads(key), _heads(value)
    most = MOST_RANGES if mask.window is None else MOST_RANGES_WINDOW
    if mask.pattern.block_sparse:
        out = _looped(mask.pattern.block_size, scores, query, key, value, mask)
    elif length > chunk * most:
        out = _looped(2 * chunk, scores, query, key, value, mask)
    else:
        out = _ranged((chunk, scores), query, key, value, mask)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, head_dim)


def forward(scores: Scores, query, key, value, mask: Mask):
    """Returns the part of attention that some keys give, and its log-normalizers.

    Parts of the same queries are put together by these: each weighs `exp(its normalizer)`.

    Args:
      scores: before the softmax.
      query: [B, K, G, T, H].
      key, value: [B, K, S, H]; S is T.
      mask: who sees whom.

    Returns:
      `(out [B, K, G, T, H], normalizer float32 [B, K, G, T, 1])`.
    """
    run, _, settings = _program(scores, query)
    out, residuals = run(settings, query, key, value, mask)
    return out, residuals[-1]


def backward(scores: Scores, query, key, value, mask: Mask, out, normalizer, d_out):
    """Returns the gradients of query, key and value, of `forward`'s part in the whole.

    `out` and `normalizer` are those of all keys together, `d_out` is the gradient of `out`.
    """
    _, run, settings = _program(scores, query)
    return run(settings, (query, key, value, mask, out, normalizer), d_out)[:3]


def _program(scores, query):
    length = query.shape[3]
    if length <= CHUNK * MOST_RANGES:
        return _ranged_forward, _ranged_backward, (CHUNK, scores)
    size = math.gcd(length, 2 * CHUNK)
    return _blocks_forward, _blocks_backward, (size, scores, length, length)


def _heads(x):
    return x.transpose(0, 2, 1, 3)


def _logits(scores: Scores, query, key, mask: Mask, rows: Span, columns: Span):
    """Returns float32 [B, K, G, rows, columns] of the rows' queries and the columns' keys."""
    scale = jnp.asarray(scores.factor(query.shape[-1]), query.dtype)
    products = jnp.einsum("bkgth,bksh->bkgts", query * scale, key, **F32)
    allowed = mask.allowed(rows, columns)[:, None, None]
    return jnp.where(allowed, scores.of(products, mask, rows, columns), MASKED)


def _gradients(scores: Scores, query, key, value, mask, rows, columns, d_out, inner, normalizer):
    """Returns what the rows and columns add to the gradients of query, key and value, float32."""
    logits = _logits(scores, query, key, mask, rows, columns)
    probabilities = jnp.exp(logits - normalizer)
    d_probabilities = jnp.einsum("bkgth,bksh->bkgts", d_out, value, **F32)
    d_scores = probabilities * (d_probabilities - inner) * scores.factor(query.shape[-1])
    if scores.cap is not None:
        d_scores = d_scores * (1.0 - jnp.square(jnp.maximum(logits, -scores.cap) / scores.cap))
    d_scores, probabilities = d_scores.astype(query.dtype), probabilities.astype(query.dtype)
    return (
        jnp.einsum("bkgts,bksh->bkgth", d_scores, key, **F32),
        jnp.einsum("bkgts,bkgth->bksh", d_scores, query, **F32),
        jnp.einsum("bkgts,bkgth->bksh", probabilities, d_out, **F32),
    )


def _inner(out, d_out):
    # The softmax's correction, sum_s p_ts dp_ts, is also sum_h o_th do_th.
    return jnp.sum(out.astype(jnp.float32) * d_out, axis=-1, keepdims=True)


# Short rows: a program of ranges.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ranged(settings, query, key, value, mask):
    return _ranged_forward(settings, query, key, value, mask)[0]


def _ranges(chunk: int, length: int, keys: int, mask: Mask):
    """Yields (queries, keys); with the plain causal mask later keys are never seen."""
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        yield Span(start, stop - start), Span(0, min(stop, keys) if mask.prefix_only else keys)


def _ranged_forward(settings, query, key, value, mask):
    chunk, scores = settings
    given = mask
    mask, query = tied(mask, query)
    outputs, normalizers = [], []
    for rows, columns in _ranges(chunk, query.shape[3], key.shape[2], mask):
        logits = _logits(scores, rows.of(query, 3), columns.of(key, 2), mask, rows, columns)
        largest = jnp.max(logits, axis=-1, keepdims=True)
        weights = jnp.exp(logits - largest)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        mixed = jnp.einsum("bkgts,bksh->bkgth", weights.astype(value.dtype), columns.of(value, 2))
        outputs.append((mixed / total).astype(query.dtype))
        normalizers.append(largest + jnp.log(total))
    out = jnp.concatenate(outputs, axis=3)
    return out, (query, key, value, given, out, jnp.concatenate(normalizers, axis=3))


def _ranged_backward(settings, residuals, d_out):
    chunk, scores = settings
    query, key, value, mask, out, normalizer = residuals
    inner = _inner(out, d_out)
    d_query, d_key, d_value = [], 0.0, 0.0
    for rows, columns in _ranges(chunk, query.shape[3], key.shape[2], mask):
        query_part, key_part, value_part = _gradients(
            scores, rows.of(query, 3), columns.of(key, 2), columns.of(value, 2), mask, rows,
            columns, rows.of(d_out, 3), rows.of(inner, 3), rows.of(normalizer, 3),
        )  # fmt: skip
        d_query.append(query_part.astype(query.dtype))
        behind = [(0, 0), (0, 0), (0, key.shape[2] - columns.size), (0, 0)]
        d_key = d_key + jnp.pad(key_part, behind)
        d_value = d_value + jnp.pad(value_part, behind)
    d_query = jnp.concatenate(d_query, axis=3)
    return d_query, d_key.astype(key.dtype), d_value.astype(value.dtype), None


_ranged.defvjp(_ranged_forward, _ranged_backward)


# Long rows: a loop over blocks.


def _visits(size: int, length: int, keys: int, mask: Mask):
    """Returns a function of a block of queries: first visit, last + 1, block of the i-th."""
    blocks = -(-keys // size)
    if mask.pattern.block_sparse:
        if length != keys or mask.query_positions is not None:
            raise ConfigError(
                "a block-sparse pattern over other keys than the queries' own, as in a cache, is "
                "for attention 'plain': choose it, or 'auto'"
            )
        counts, which = map(jnp.asarray, mask.pattern.visits(blocks, causal=mask.causal))
        return lambda row: (0, counts[row], lambda i: which[row, i])

    def visit(row):
        first, last = 0, blocks
        if mask.query_positions is None:
            if mask.causal:
                last = jnp.minimum(blocks, row + 1)
            if mask.window is not None:
                near = jnp.minimum(mask.window, length + keys) - 1
                first = jnp.maximum(0, (row * size - near) // size)
                if not mask.causal:
                    last = jnp.minimum(blocks, ((row + 1) * size - 1 + near) // size + 1)
        return first, last, lambda i: i

    return visit


def _looped(size: int, scores: Scores, query, key, value, mask: Mask):
    """Returns [B, K, G, T, H] of `query [B, K, G, T, H]`, `key` and `value [B, K, S, H]`."""
    length, keys = query.shape[3], key.shape[2]
    rows, columns = -length % size, -keys % size
    if mask.query_positions is not None:
        places = jnp.pad(mask.query_positions, [(0, 0), (0, rows)])
        mask = dataclasses.replace(mask, query_positions=places)
    unseen = mask.prefix_only and keys >= length
    if mask.query_segments is not None or (columns and not unseen):
        # Keys that fill up the last block are of a segment that no query has.
        queries, others = mask.query_segments, mask.key_segments
        if queries is None:
            queries, others = jnp.zeros((1, length), jnp.int32), jnp.zeros((1, keys), jnp.int32)
        mask = dataclasses.replace(
            mask,
            query_segments=jnp.pad(queries, [(0, 0), (0, rows)]),
            key_segments=jnp.pad(others, [(0, 0), (0, columns)], constant_values=-(2**31)),
        )
    query = jnp.pad(query, [(0, 0), (0, 0), (0, 0), (0, rows), (0, 0)])
    key, value = (jnp.pad(x, [(0, 0), (0, 0), (0, columns), (0, 0)]) for x in (key, value))
    return _blocks((size, scores, length, keys), query, key, value, mask)[..., :length, :]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blocks(settings, query, key, value, mask):
    return _blocks_forward(settings, query, key, value, mask)[0]


def _blocks_forward(settings, query, key, value, mask):
    size, scores, length, keys = settings
    given = mask
    mask, query = tied(mask, query)
    visits = _visits(size, length, keys, mask)

    def block(row):
        rows = Span(row * size, size)
        first, last, block_of = visits(row)
        part = rows.of(query, 3)

        def visit(i, carry):
            mixed, largest, total = carry
            columns = Span(block_of(i) * size, size)
            logits = _logits(scores, part, columns.of(key, 2), mask, rows, columns)
            raised = jnp.maximum(largest, jnp.max(logits, axis=-1, keepdims=True))
            shrunk, weights = jnp.exp(largest - raised), jnp.exp(logits - raised)
            values = columns.of(value, 2)
            new = jnp.einsum("bkgts,bksh->bkgth", weights.astype(value.dtype), values, **F32)
            total = total * shrunk + jnp.sum(weights, axis=-1, keepdims=True)
            return mixed * shrunk + new, raised, total

        empty = jnp.zeros_like(part, jnp.float32)
        start = (empty, empty[..., :1] + MASKED, empty[..., :1])
        mixed, largest, total = jax.lax.fori_loop(first, last, visit, start)
        # The total is 0 where no block was visited, behind the last key.
        return (mixed / jnp.maximum(total, 1e-30)).astype(query.dtype), largest + jnp.log(total)

    out, normalizer = jax.lax.map(block, jnp.arange(query.shape[3] // size))
    out, normalizer = (_joined(x) for x in (out, normalizer))
    return out, (query, key, value, given, out, normalizer)


def _joined(x):
    """Returns [B, K, G, blocks * rows, H] of [blocks, B, K, G, rows, H]."""
    x = jnp.moveaxis(x, 0, 3)
    return x.reshape(*x.shape[:3], -1, x.shape[-1])


def _blocks_backward(settings, residuals, d_out):
    size, scores, length, keys = settings
    query, key, value, mask, out, normalizer = residuals
    visits = _visits(size, length, keys, mask)
    inner = _inner(out, d_out)

    def block(carry, row):
        rows = Span(row * size, size)
        first, last, block_of = visits(row)
        part, d_part, *statistics = (rows.of(x, 3) for x in (query, d_out, inner, normalizer))

        def visit(i, carry):
            d_query, d_key, d_value = carry
            columns = Span(block_of(i) * size, size)
            query_part, key_part, value_part = _gradients(
                scores, part, columns.of(key, 2), columns.of(value, 2), mask, rows, columns,
                d_part, *statistics,
            )  # fmt: skip
            d_key, d_value = _add(d_key, key_part, columns), _add(d_value, value_part, columns)
            return d_query + query_part, d_key, d_value

        start = (jnp.zeros_like(part, jnp.float32), *carry)
        d_query, *carry = jax.lax.fori_loop(first, last, visit, start)
        return tuple(carry), d_query.astype(query.dtype)

    empty = tuple(jnp.zeros_like(x, jnp.float32) for x in (key, value))
    (d_key, d_value), d_query = jax.lax.scan(block, empty, jnp.arange(query.shape[3] // size))
    return _joined(d_query), d_key.astype(key.dtype), d_value.astype(value.dtype), None


def _add(whole, part, columns: Span):
    added = columns.of(whole, 2) + part
    return jax.lax.dynamic_update_slice_in_dim(whole, added, columns.start, 2)


_blocks.defvjp(_blocks_forward, _blocks_backward)
