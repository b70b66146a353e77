"""Layer normalization with a backward pass of its own."""

import functools

import jax
import jax.numpy as jnp


def plain(x, scale, bias, epsilon: float):
    """The reference: `x [..., D]` to zero mean and unit variance, times `scale`, plus `bias`.

    Statistics in float32; `scale` and `bias` are float32 [D], `bias` may be None; the result is
    float32 (Ba et al. 2016, arXiv:1607.06450).
    """
    centered, deviation = _standardize(x, epsilon)
    y = centered * deviation * scale
    return y if bias is None else y + bias


def _standardize(x, epsilon):
    x = x.astype(jnp.float32)
    centered = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centered), axis=-1, keepdims=True)
    return centered, jax.lax.rsqrt(variance + epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x, scale, bias, epsilon: float):
    """As `plain`, but its gradient keeps the input and two numbers per row."""
    return plain(x, scale, bias, epsilon)


def _forward(x, scale, bias, epsilon):
    centered, deviation = _standardize(x, epsilon)
    y = centered * deviation * scale
    mean = jnp.mean(x.astype(jnp.float32), axis=-1, keepdims=True)
    return y if bias is None else y + bias, (x, scale, bias is None, mean, deviation)


def _backward(epsilon, residuals, d_y):
    del epsilon
    x, scale, no_bias, mean, deviation = residuals
    normal = (x.astype(jnp.float32) - mean) * deviation
    d_normal = d_y * scale
    along = jnp.mean(d_normal * normal, axis=-1, keepdims=True)
    d_x = deviation * (d_normal - jnp.mean(d_normal, axis=-1, keepdims=True) - normal * along)
    rows = tuple(range(x.ndim - 1))
    d_scale = jnp.sum(d_y * normal, axis=rows)
    return d_x.astype(x.dtype), d_scale, None if no_bias else jnp.sum(d_y, axis=rows)


layer_norm.defvjp(_forward, _backward)
