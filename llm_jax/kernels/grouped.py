"""The grouped product: rows that lie group by group, each times its group's own matrix.

`jax.lax.ragged_dot` is the reference. On a TPU the gradient of its matrices is made densely, as
many times as there are groups; the Pallas kernels of MegaBlocks (Gale et al. 2022,
arXiv:2211.15841) that come with JAX do a group's own rows only, in both directions.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.megablox import ops

from llm_jax.parallel.sharding import platform

# The largest tiles, in rows, contracted and resulting columns, that a core's memory holds twice.
TILES = (512, 1024, 1024)
LANES = 128


def choose(dtype) -> str:
    """Returns what computes it on the active mesh's devices: "megablox" or "ragged_dot"."""
    kernel = platform() == "tpu" and dtype in (jnp.bfloat16, jnp.float32)
    return "megablox" if kernel else "ragged_dot"


def grouped_product(rows, matrices, sizes):
    """Returns [M, N] in the rows' dtype: by `choose`, inside `shard_map` where there is a mesh.

    Args:
      rows: [M, K], those of the first group first.
      matrices: [E, K, N].
      sizes: int32 [E], rows of each group; results of rows behind the last group are 0.
    """
    if choose(rows.dtype) == "megablox":
        return megablox(rows, matrices, sizes)
    return jax.lax.ragged_dot(rows, matrices, sizes)


def megablox(rows, matrices, sizes, *, interpret: bool = False):
    """As `grouped_product`; `interpret` runs the kernels step by step on any backend, for tests."""
    count = rows.shape[0]
    rows = jnp.pad(rows, [(0, -count % min(TILES[0], _whole(count))), (0, 0)])
    # Kernels do not write rows of no group, neither the result nor, backwards, its gradient.
    grouped = (jnp.arange(rows.shape[0]) < jnp.sum(sizes))[:, None]
    rows = jnp.where(grouped, rows, 0)
    out = ops.gmm(rows, matrices, sizes, rows.dtype, _tiles, None, None, False, interpret)
    return jnp.where(grouped, out, 0)[:count]


def _tiles(*sizes):
    """Returns the tile of a product of `sizes` rows, contracted and resulting columns."""
    return tuple(min(most, _whole(size)) for most, size in zip(TILES, sizes))


def _whole(size: int) -> int:
    return -(-size // LANES) * LANES
