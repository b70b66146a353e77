"""Eight-bit products against numpy's arithmetic and the rounding of ml_dtypes."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from llm_jax.kernels import quantized
from llm_jax.kernels.quantized import (
    AGES_SHAPE,
    HORIZON,
    aged,
    fp8_matmul,
    int8_matmul,
    to_fp8,
    to_int8,
)

E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
LARGEST = {E4M3: 448.0, E5M2: 57344.0}


def operands(seed=0):
    """x [6, 5], kernel [5, 4] and a gradient [6, 4], of sizes far apart."""
    rng = np.random.default_rng(seed)
    shapes = {"x": (6, 5), "kernel": (5, 4), "gradient": (6, 4)}
    scales = {"x": 30.0, "kernel": 0.02, "gradient": 1e-6}
    return [(rng.normal(size=shapes[n]) * scales[n]).astype(np.float32) for n in shapes]


def rounded(x, dtype, scale):
    """float64 of `x` in fp8: what Transformer Engine's cast keeps of it."""
    scaled = np.clip(x.astype(np.float32) * np.float32(scale), -LARGEST[dtype], LARGEST[dtype])
    return scaled.astype(dtype).astype(np.float64) / scale


def scale_of(amaxes, dtype):
    """The largest power of two that keeps the largest amax in the format; 1 without one."""
    amax = np.max(amaxes, initial=0.0)
    return 2.0 ** np.floor(np.log2(LARGEST[dtype] / amax)) if amax > 0 else 1.0


@jax.jit
def products(x, kernel, gradient, ages):
    y, backward = jax.vjp(fp8_matmul, x, kernel, ages)
    return y, *backward(gradient)


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_rounding_is_that_of_the_format(dtype):
    rng = np.random.default_rng(0)
    x = np.exp2(rng.uniform(-24, 18, 4000)).astype(np.float32) * rng.choice([-1, 1], 4000)
    x[:2] = np.inf, np.nan
    got = jax.jit(lambda x, e: to_fp8(x, e, dtype))(x, jnp.int32(-1))
    want = np.clip(2 * x, -LARGEST[dtype], LARGEST[dtype]).astype(dtype)
    assert np.isnan(np.asarray(got[:2], np.float32)).all()
    np.testing.assert_array_equal(np.asarray(got[2:]).view(np.uint8), want[2:].view(np.uint8))


def test_fp8_products_and_gradients_equal_numpy_with_a_history_of_scales(monkeypatch):
    monkeypatch.setattr(quantized, "HORIZON", 3)
    step = jax.jit(lambda *inputs: products.__wrapped__(*inputs))
    ages, history = jnp.full(AGES_SHAPE, 3.0), [[], [], []]
    sizes = [1.0, 100.0, 3.0, 0.0, 448.0 * 2.0**-5, 1e-3, 1e-4, 1e-4, 1e-4, 1.0]
    for number, size in enumerate(sizes):
        x, kernel, gradient = operands(number)
        x = x / np.abs(x).max() * np.float32(size)  # its amax is the size
        scales = [scale_of(seen[-3:], d) for seen, d in zip(history, (E4M3, E4M3, E5M2))]
        low_x, low_kernel, low = (
            rounded(v, d, s) for v, d, s in zip((x, kernel, gradient), (E4M3, E4M3, E5M2), scales)
        )
        y, to_x, to_kernel, counts = step(x, kernel, gradient, ages)
        for got, want in (
            (y, low_x @ low_kernel), (to_x, low @ low_kernel.T), (to_kernel, low_x.T @ low),
        ):  # fmt: skip
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * np.abs(want).max())
        for seen, tensor in zip(history, (x, kernel, gradient)):
            seen.append(np.abs(tensor).max())
        ages = jax.jit(aged)(ages, counts)
    assert {scale_of(history[0][i : i + 3], E4M3) for i in range(8)} > {4.0, 32.0}


def test_counts_of_parts_keep_the_largest_and_what_no_loss_needs_is_not_seen():
    x, kernel, gradient = operands()
    fresh = jnp.full(AGES_SHAPE, float(HORIZON))
    parts = np.stack([x, x * 64, x * 0.1])
    weights = np.stack([gradient, gradient * 1e-3, gradient * 8])

    @jax.jit
    def counts(parts, weights):
        def loss(ages):
            def add(total, part):
                x, weight = part
                return total + jnp.sum(fp8_matmul(x, kernel, ages) * weight), None

            return jax.lax.scan(add, 0.0, (parts, weights))[0]

        return jax.grad(loss)(fresh)

    together = quantized.delayed_exponents(aged(fresh, counts(parts, weights)))
    want = [
        -np.log2(scale_of(amax, dtype))
        for amax, dtype in (
            (np.abs(parts).max(), E4M3), (np.abs(kernel).max(), E4M3), (np.abs(weights).max(), E5M2)
        )
    ]  # fmt: skip
    np.testing.assert_array_equal(together, want)
    np.testing.assert_array_equal(counts(parts, weights * 0), np.zeros(AGES_SHAPE))
    unused = counts(parts, weights * np.array([1, 0, 1])[:, None, None])
    assert quantized.delayed_exponents(aged(fresh, unused))[0] == want[0] - 6


def test_int8_products_equal_numpy_and_the_kernels_gradient_is_not_rounded():
    x, kernel, gradient = operands()
    x[2] = 0.0

    def low(x, axis):
        amax = np.abs(x).max(axis, keepdims=True)
        scale = np.where(amax == 0, np.float32(1), amax / np.float32(127))
        return np.round(x / scale).astype(np.float64) * scale

    @jax.jit
    def run(x, kernel, gradient):
        y, backward = jax.vjp(int8_matmul, x, kernel)
        return y, *backward(gradient)

    y, to_x, to_kernel = run(x, kernel, gradient)
    assert np.all(np.asarray(to_int8(x, 1)[1]) > 0)  # of the row of zeros, too
    wanted = low(x, 1) @ low(kernel, 0), low(gradient, 1) @ low(kernel, 1).T
    for got, want in zip((y, to_x), wanted):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * np.abs(want).max())
        exact = x @ kernel if got is y else gradient @ kernel.T
        assert 1e-4 < np.abs(want - exact).max() / np.abs(exact).max() < 0.02
    np.testing.assert_allclose(to_kernel, x.T @ gradient, rtol=1e-4, atol=1e-10)
    assert run(x.astype(jnp.bfloat16), kernel, gradient.astype(jnp.bfloat16))[1].dtype == "bfloat16"
