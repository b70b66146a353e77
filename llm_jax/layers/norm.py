"""Normalization over the last axis, with statistics in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.kernels.layer_norm import layer_norm
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
        bias = None
        if self.use_bias:
            bias = self.param("bias", named(nn.initializers.zeros, (self.axis,)), (x.shape[-1],))
        y = layer_norm(x, scale, bias, self.epsilon)
        return y.astype(self.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square normalization (Zhang & Sennrich 2019, arXiv:1910.07467) of `x [..., D]`.

    Attributes:
      epsilon: added to the mean square.
      dtype: of the result.
      axis: logical name of the normalized axis.
      offset: added to the learned scale, which begins at `1 - offset` (Gemma stores it so).
    """

    epsilon: float
    dtype: jnp.dtype
    axis: str | None = "embed"
    offset: float = 0.0

    @nn.compact
    def __call__(self, x):
        """Returns `x` normalized, same shape."""
        start = named(nn.initializers.constant(1.0 - self.offset), (self.axis,))
        scale = self.param("scale", start, (x.shape[-1],)) + self.offset
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return (x * jax.lax.rsqrt(mean_square + self.epsilon) * scale).astype(self.dtype)


def make(
    kind: str, *, epsilon: float, use_bias: bool, dtype, name: str, offset: float = 0.0
) -> nn.Module:
    """Returns the norm of a kind: "layer_norm" or "rms_norm" (which has no bias)."""
    if kind == "layer_norm":
        return LayerNorm(epsilon=epsilon, use_bias=use_bias, dtype=dtype, name=name)
    return RMSNorm(epsilon=epsilon, dtype=dtype, offset=offset, name=name)
