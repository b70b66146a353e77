"""The TPU's grouped product, interpreted on a CPU, is `jax.lax.ragged_dot`, gradients included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.kernels.grouped import megablox
from llm_jax.testing import relative_error

# Rows, columns, groups, and how many rows are of none.
CASES = {
    "all_in_groups": (200, 32, 48, [60, 0, 90, 50]),
    "some_in_none": (200, 32, 48, [60, 0, 37, 50]),
    "several_tiles": (1500, 160, 48, [600, 0, 500, 300, 0]),
}


def error(dtype, count, wide, narrow, sizes):
    random = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape), dtype)  # noqa: E731
    rows, matrices, direction = (
        draw(count, wide),
        draw(len(sizes), wide, narrow),
        draw(count, narrow),
    )

    def run(function, *arrays):
        def both(*arrays):
            out, pull = jax.vjp(lambda *x: function(*x, jnp.asarray(sizes, jnp.int32)), *arrays)
            return out, *pull(direction.astype(out.dtype))

        return jax.jit(both)(*arrays)

    got = run(functools.partial(megablox, interpret=True), rows, matrices)
    expected = run(jax.lax.ragged_dot, *(x.astype(jnp.float32) for x in (rows, matrices)))
    return max(relative_error([g], [e]) for g, e in zip(got, expected))


def test_rows_of_no_group_are_zero_and_the_others_their_products():
    assert error(jnp.float32, *CASES["some_in_none"]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)])
def test_product_and_gradients_are_those_of_the_reference(case, dtype, tolerance):
    assert error(dtype, *CASES[case]) < tolerance
