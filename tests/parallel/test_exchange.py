"""Rows arrive where they were sent, and their gradients come back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from llm_jax.parallel.exchange import exchange

AXES = PartitionSpec(("a", "b"))
# Rows from each of four devices to each other one; some send nothing, some get nothing.
COUNTS = np.array([[3, 0, 2, 1], [0, 0, 0, 0], [1, 1, 0, 4], [6, 0, 0, 0]])
ROWS, SIZE, WIDTH = 6, 12, 3


def both_ways(rows):
    """All devices' rows exchanged along b within each a, `[8 SIZE, WIDTH]`, and back."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)

    def on_each(rows):
        counts = jnp.asarray(COUNTS, jnp.int32)
        there = exchange(rows, counts, SIZE, "b")
        return there, exchange(there, counts.T, ROWS, "b")

    both = jax.shard_map(on_each, mesh=mesh, in_specs=AXES, out_specs=(AXES, AXES), check_vma=False)
    return jax.jit(both)(rows)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rows_arrive_by_sender_and_go_back(dtype):
    rows = np.random.default_rng(0).standard_normal((8, ROWS, WIDTH)).astype(dtype)
    there, back = map(np.asarray, both_ways(jnp.asarray(rows.reshape(-1, WIDTH))))
    want, home = np.zeros((8, SIZE, WIDTH), dtype), np.zeros_like(rows)
    for group in (0, 4):
        for to in range(4):
            parts = [
                rows[group + sender, COUNTS[sender, :to].sum() :][: COUNTS[sender, to]]
                for sender in range(4)
            ]
            received = np.concatenate(parts)
            want[group + to, : len(received)] = received
            home[group + to, : COUNTS[to].sum()] = rows[group + to, : COUNTS[to].sum()]
    np.testing.assert_array_equal(there.reshape(want.shape), want)
    np.testing.assert_array_equal(back.reshape(home.shape), home)


def test_a_row_gets_the_gradient_of_where_it_went():
    slope = np.random.default_rng(1).standard_normal((8 * SIZE, WIDTH)).astype(np.float32)
    rows = jnp.zeros((8 * ROWS, WIDTH))
    (gradient,) = jax.vjp(lambda rows: both_ways(rows)[0], rows)[1](jnp.asarray(slope))
    # Sending the slopes back is what a transposed exchange does.
    slope = slope.reshape(8, SIZE, WIDTH)
    want = np.zeros((8, ROWS, WIDTH), np.float32)
    arrive = np.cumsum(COUNTS, axis=0) - COUNTS
    leave = np.cumsum(COUNTS, axis=1) - COUNTS
    for group in (0, 4):
        for sender, to in np.ndindex(4, 4):
            count = COUNTS[sender, to]
            part = slope[group + to, arrive[sender, to] :][:count]
            want[group + sender, leave[sender, to] :][:count] = part
    np.testing.assert_array_equal(np.asarray(gradient).reshape(want.shape), want)
