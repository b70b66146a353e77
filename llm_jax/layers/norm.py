"""Normalization over the last axis, with statistics in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.layers.partition import named


class LayerNorm(nn.Module):
    """Layer normalization (Ba et al. 2016, arXiv:1607.06450) over `x [..., D]`.

    Attributes:
      epsilon: added to the variance.
      use_bias: adds a learned shift.
      dtype: of the result.
      axis: logical name of the normalized axis.
    """

    epsilon: float
    use_bias: bool
    dtype: jnp.dtype
    axis: str | None = "embed"

    @nn.compact
    def __call__(self, x):
        """Returns `x` normalized, same shape."""
        scale = self.param("scale", named(nn.initializers.ones, (self.axis,)), (x.shape[-1],))
        x = x.astype(jnp.float32)
        centered = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centered), axis=-1, keepdims=True)
        y = centered * jax.lax.rsqrt(variance + self.epsilon) * scale
        if self.use_bias:
            y = y + self.param("bias", named(nn.initializers.zeros, (self.axis,)), (x.shape[-1],))
        return y.astype(self.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square normalization (Zhang & Sennrich 2019, arXiv:1910.07467) of `x [..., D]`.

    Attributes:
      epsilon: added to the mean square.
      dtype: of the result.
      axis: logical name of the normalized axis.
    """

    epsilon: float
    dtype: jnp.dtype
    axis: str | None = "embed"

    @nn.compact
    def __call__(self, x):
        """Returns `x` normalized, same shape."""
        scale = self.param("scale", named(nn.initializers.ones, (self.axis,)), (x.shape[-1],))
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return (x * jax.lax.rsqrt(mean_square + self.epsilon) * scale).astype(self.dtype)


def make(kind: str, *, epsilon: float, use_bias: bool, dtype, name: str) -> nn.Module:
    """Returns the norm of a kind: "layer_norm" or "rms_norm" (which has no bias)."""
    if kind == "layer_norm":
        return LayerNorm(epsilon=epsilon, use_bias=use_bias, dtype=dtype, name=name)
    return RMSNorm(epsilon=epsilon, dtype=dtype, name=name)
