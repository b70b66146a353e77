"""Weights in few bits: against the paper's construction, and what is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from llm_jax.kernels.packed import BLOCK, KINDS, NF4, pack, unpack, unpacked


def test_the_sixteen_numbers_are_quantiles_of_a_normal_distribution():
    # Appendix E of the paper: eight quantiles below zero, zero, and seven above, the outermost at
    # the mean of 1 - 1/30 and 1 - 1/32, scaled to 1.
    outer = (1 - 1 / 30 + 1 - 1 / 32) / 2
    above = norm.ppf(np.linspace(outer, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(outer, 0.5, 8)[:-1])
    numbers = np.sort([*above, 0.0, *below]) / above.max()
    np.testing.assert_allclose(NF4, numbers, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lead", [0, 1])
def test_each_number_is_the_nearest_of_its_block(kind, lead):
    x = np.random.default_rng(0).normal(size=(3, 8, 4, 16)).astype(np.float32)
    x[1, 0] = 0.0
    found = np.asarray(jax.jit(lambda x: unpack(pack(x, kind, lead)))(x))
    steps = NF4 if kind == "nf4" else np.arange(-127, 128) / 127
    flat, got = (array.reshape(-1, BLOCK).astype(np.float64) for array in (x, found))
    scales = np.abs(flat).max(axis=1, keepdims=True)
    choices = scales[..., None] * steps
    best = np.abs(flat[..., None] - choices).min(axis=-1)
    np.testing.assert_allclose(np.abs(flat - got), best, atol=1e-6)
    assert found.shape == x.shape


def test_bits_of_a_number():
    x = jnp.ones((4, 64, 64))
    for kind, bits in (("nf4", 4.5), ("int8", 8.5)):
        packed = pack(x, kind, 1)
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(packed)) * 8 == bits * x.size


def test_a_layer_of_a_stack_is_unpacked_alone():
    x = jax.random.normal(jax.random.key(0), (3, 16, 8))
    tree = {"a": pack(x, "nf4", 1), "b": jnp.ones(3)}
    whole = unpacked(tree)["a"]
    layers = jax.lax.scan(lambda carry, layer: (carry, unpacked(layer)["a"]), 0, tree)[1]
    np.testing.assert_array_equal(layers, whole)
