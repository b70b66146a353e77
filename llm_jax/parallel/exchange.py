"""A ragged all-to-all: each device of a mesh axis sends so many of its rows to each other one.

For use inside `jax.shard_map`. A TPU or GPU sends these rows and no more; XLA on a CPU has no such
operation, and there each device gathers all rows and picks its own.
"""

import functools

import jax
import jax.numpy as jnp

from llm_jax.parallel.sharding import platform


def exchange(rows, counts, size: int, axis: str):
    """Returns [size, D], the rows sent to this device: the first sender's first, zeros behind.

    Args:
      rows: [S, D], those for the axis's first device first.
      counts: int32 [n, n], how many rows each device (first axis) sends to each (second axis).
      size: of the result, at least what is received.
      axis: of the mesh, of n devices.
    """
    here = jax.lax.axis_index(axis)
    leave_at = jnp.cumsum(counts, axis=1) - counts
    arrive_at = jnp.cumsum(counts, axis=0) - counts
    if platform() != "cpu":
        room = jnp.zeros((size, rows.shape[1]), rows.dtype)
        return jax.lax.ragged_all_to_all(
            rows, room, leave_at[here], counts[here], arrive_at[here], counts[:, here],
            axis_name=axis,
        )  # fmt: skip
    ends = jnp.cumsum(counts[:, here])
    place = jnp.arange(size)
    sender = jnp.minimum(jnp.searchsorted(ends, place, side="right"), len(ends) - 1)
    row = leave_at[sender, here] + place - arrive_at[sender, here]
    everything = _gathered(rows, axis)
    found = everything[sender * rows.shape[0] + jnp.minimum(row, rows.shape[0] - 1)]
    return jnp.where((place < ends[-1])[:, None], found, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(x, axis):
    """Returns what all devices of the axis have; gradients are summed in float32."""
    return jax.lax.all_gather(x, axis, axis=0, tiled=True)


def _forward(x, axis):
    return _gathered(x, axis), None


def _backward(axis, _, gradient):
    wide = gradient.astype(jnp.float32)
    summed = jax.lax.psum_scatter(wide, axis, scatter_dimension=0, tiled=True)
    return (summed.astype(gradient.dtype),)


_gathered.defvjp(_forward, _backward)
