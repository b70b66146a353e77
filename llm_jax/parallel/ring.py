"""Ring attention: each device of the `seq` axis holds a part of the sequence; keys go round.

Liu et al. 2023, arXiv:2310.01889. A device holds its own part, and the keys and values of one
other. What meets is computed by the memory-lean kernel and put together by log-normalizers; the
backward pass sends the gradients of keys and values round with them. Other mesh axes stay as they
are.

Under a causal mask the first devices would have little to do. So the sequence is cut in twice as
many blocks as there are devices, and device j takes the blocks j and 2n-1-j ("zigzag"): at every
step of the ring each device then has two pairs of blocks to compute, and none is masked whole.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from llm_jax.configuration import ConfigError
from llm_jax.kernels import chunked
from llm_jax.kernels.mask import Mask, Scores
from llm_jax.parallel.sharding import axis_size

AXIS = "seq"


class _Settings(NamedTuple):
    devices: int
    causal: bool
    scores: Scores


class _Queries(NamedTuple):
    """What stays: blocks [1 or 2, B, K, G, T, H], their numbers and segments [1 or 2, B, T]."""

    query: Any
    numbers: Any
    segments: Any
    window: Any


class _Keys(NamedTuple):
    """What goes round: blocks [1 or 2, B, K, S, H], their numbers and segments."""

    key: Any
    value: Any
    numbers: Any
    segments: Any


def ring_attention(query, key, value, mask: Mask, scores: Scores = Scores()):
    """As `llm_jax.kernels.attention.plain`, with the length divided over the mesh axis `seq`.

    Args:
      query: [B, T, N, H].
      key, value: [B, T, K, H], of the queries' own slots.
      mask: without `query_positions` and without a pattern.
      scores: before the softmax.

    Raises:
      ConfigError: other keys than the queries' own, a pattern, or a length that does not divide.
    """
    devices = axis_size(AXIS)
    batch, length, heads, head_dim = query.shape
    if mask.query_positions is not None or key.shape[1] != length or mask.pattern.block_sparse:
        raise ConfigError(
            "attention 'ring' is for rows that attend to all of themselves, not for a cache, a "
            "memory or a block-sparse pattern: choose execution.attention='all_to_all'"
        )
    blocks = 2 * devices if mask.causal else devices
    if length % blocks:
        raise ConfigError(
            f"a sequence of {length} does not divide into the {blocks} blocks of a ring of "
            f"mesh.seq={devices}: make it a multiple of {blocks}"
        )
    groups = key.shape[2]
    query = query.reshape(batch, length, groups, heads // groups, head_dim)
    query, key, value = query.transpose(0, 2, 3, 1, 4), _heads(key), _heads(value)
    length_third, length_fourth = (PartitionSpec(*[None] * n, AXIS) for n in (2, 3))
    given = mask.query_segments, mask.key_segments, mask.window
    specs = PartitionSpec(None, AXIS), PartitionSpec(None, AXIS), PartitionSpec()
    attend = jax.shard_map(
        functools.partial(_ring, _Settings(devices, mask.causal, scores)),
        in_specs=(length_fourth, length_third, length_third, specs),
        out_specs=length_fourth,
        axis_names={AXIS},
        check_vma=False,
    )
    out = attend(query, key, value, given)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, head_dim)


def _heads(x):
    return x.transpose(0, 2, 1, 3)


# What follows runs on each device, on its part.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(settings, query, key, value, given):
    return _forward(settings, query, key, value, given)[0]


def _forward(settings, query, key, value, given):
    queries, home = _cut(settings, query, key, value, given)
    # As `llm_jax.kernels.mask.tied`, for the segments that go round.
    queries, home = jax.lax.optimization_barrier((queries, home))

    def visit(sums, keys, nothing, pairs):
        for mine, other, diagonal in pairs:
            mask = _mask(settings, queries, mine, keys, other, diagonal)
            out, normalizer = chunked.forward(
                settings.scores, queries.query[mine], keys.key[other], keys.value[other], mask
            )
            old, old_normalizer = sums[0][mine], sums[1][mine]
            total = jnp.logaddexp(old_normalizer, normalizer)
            out = old * jnp.exp(old_normalizer - total) + out * jnp.exp(normalizer - total)
            sums = sums[0].at[mine].set(out), sums[1].at[mine].set(total)
        return sums, nothing

    shape = queries.query.shape
    sums = jnp.zeros(shape, jnp.float32), jnp.full((*shape[:-1], 1), -jnp.inf)
    (out, normalizer), _ = _go_round(settings, visit, sums, home, ())
    out = out.astype(query.dtype)
    return _joined(settings, out, 3), (query, key, value, given, out, normalizer)


def _backward(settings, residuals, d_out):
    query, key, value, given, out, normalizer = residuals
    queries, home = _cut(settings, query, key, value, given)
    d_out = _zigzag(settings, d_out, 3)

    def visit(d_query, keys, d_keys, pairs):
        d_key, d_value = d_keys
        for mine, other, diagonal in pairs:
            mask = _mask(settings, queries, mine, keys, other, diagonal)
            parts = chunked.backward(
                settings.scores, queries.query[mine], keys.key[other], keys.value[other], mask,
                out[mine], normalizer[mine], d_out[mine],
            )  # fmt: skip
            d_query, d_key, d_value = (
                sums.at[place].add(part)
                for sums, place, part in zip((d_query, d_key, d_value), (mine, other, other), parts)
            )
        return d_query, (d_key, d_value)

    zeros = [jnp.zeros(x.shape, jnp.float32) for x in (queries.query, home.key, home.value)]
    d_query, d_keys = _go_round(settings, visit, zeros[0], home, tuple(zeros[1:]))
    d_keys = [_joined(settings, d, 2) for d in d_keys]
    d_query = _joined(settings, d_query, 3)
    grads = (d.astype(x.dtype) for d, x in zip((d_query, *d_keys), (query, key, value)))
    return (*grads, None)


_ring.defvjp(_forward, _backward)


def _go_round(settings, visit, kept, keys, sums):
    """Calls `visit(kept, keys, sums, pairs) -> kept, sums` with every device's keys, from its own.

    A pair is a block of this device's queries, one of the keys, and whether they are the same.
    `sums` go with the keys they are of, and are home again in the end; `kept` stays here.
    """
    me = jax.lax.axis_index(AXIS)

    def step(number, state):
        kept, keys, sums = state
        coming = _sent(settings, keys)  # while these are at work
        pairs = [(0, 0, False)]
        if settings.causal and isinstance(number, int):
            pairs = [(0, 0, True), (1, 0, False), (1, 1, True)]
        elif settings.causal:
            # Of an earlier device both of mine see its first block, else my second sees both.
            same = jnp.where((me - number) % settings.devices < me, 0, 1)
            pairs = [(1, 0, False), (same, same, False)]
        kept, sums = visit(kept, keys, sums, pairs)
        return kept, coming, _sent(settings, sums)

    kept, _, sums = jax.lax.fori_loop(1, settings.devices, step, step(0, (kept, keys, sums)))
    return kept, sums


def _sent(settings, tree):
    """Returns what the device before this one holds."""
    size = settings.devices
    return jax.lax.ppermute(tree, AXIS, [(i, (i + 1) % size) for i in range(size)])


def _mask(settings, queries, mine, keys, other, diagonal):
    """Returns who sees whom of one of this device's blocks and one that came round."""
    segments = {}
    if keys.segments is not None:
        segments = {"query_segments": queries.segments[mine], "key_segments": keys.segments[other]}
    if diagonal:
        return Mask(window=queries.window, **segments)
    if queries.window is None and not settings.scores.alibi:
        return Mask(causal=False, **segments)
    places = jnp.arange(keys.key.shape[3])[None]
    return Mask(
        query_positions=queries.numbers[mine] * places.size + places,
        key_positions=keys.numbers[other] * places.size + places,
        window=queries.window,
        causal=settings.causal,
        **segments,
    )


def _cut(settings, query, key, value, given):
    """Returns the `_Queries` and the `_Keys` of this device."""
    me = jax.lax.axis_index(AXIS)
    numbers = jnp.stack([me, 2 * settings.devices - 1 - me] if settings.causal else [me])
    *segments, window = given
    mine, others = (None if x is None else _zigzag(settings, x, 1) for x in segments)
    key, value = _zigzag(settings, key, 2), _zigzag(settings, value, 2)
    queries = _Queries(_zigzag(settings, query, 3), numbers, mine, window)
    return queries, _Keys(key, value, numbers, others)


def _routes(settings):
    """Returns where the first and the second half of every device's part belong."""
    last = 2 * settings.devices - 1
    places = [min(block, last - block) for block in range(last + 1)]
    return [list(enumerate(places[half::2])) for half in (0, 1)]


def _zigzag(settings, x, axis):
    """Returns the blocks that this device computes, [1 or 2, ...], of its part of the sequence."""
    if not settings.causal:
        return x[None]
    halves = jnp.split(x, 2, axis=axis)
    first, second = (
        jax.lax.ppermute(half, AXIS, route) for half, route in zip(halves, _routes(settings))
    )
    return _in_turn(first, second)


def _joined(settings, x, axis):
    """Undoes `_zigzag`."""
    if not settings.causal:
        return x[0]
    halves = _in_turn(x[0], x[1])
    routes = [[(to, start) for start, to in route] for route in _routes(settings)]
    halves = [jax.lax.ppermute(half, AXIS, route) for half, route in zip(halves, routes)]
    return jnp.concatenate(halves, axis=axis)


def _in_turn(first, second):
    """Returns both on a new axis, swapped on odd devices: first halves have even blocks."""
    odd = jax.lax.axis_index(AXIS) % 2 == 1
    pair = jnp.stack([first, second])
    return jnp.where(odd, pair[::-1], pair)
