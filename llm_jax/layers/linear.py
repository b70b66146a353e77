"""Affine maps between groups of axes, computed as one two-dimensional matrix product."""

import math

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.layers.partition import named


class Projection(nn.Module):
    """Maps the trailing axes `in_shape` of its input to `out_shape`.

    The kernel's shape is `in_shape + out_shape`, e.g. [embed, heads, head_dim]: it keeps the axes
    apart for sharding, and only the product sees them flattened.

    Attributes:
      in_shape: trailing axes of the input that are summed over.
      out_shape: axes of the output that take their place.
      names: logical names of `in_shape + out_shape`.
      init_std: standard deviation of the normal initializer.
      use_bias: adds a bias of `out_shape`, zero at the start.
      dtype: of the computation and of the result; parameters are float32.
    """

    in_shape: tuple
    out_shape: tuple
    names: tuple
    init_std: float
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """Returns [..., *out_shape] of `x [..., *in_shape]`."""
        kernel_init = named(nn.initializers.normal(self.init_std), self.names)
        kernel = self.param("kernel", kernel_init, (*self.in_shape, *self.out_shape))
        lead = x.shape[: x.ndim - len(self.in_shape)]
        size_in, size_out = math.prod(self.in_shape), math.prod(self.out_shape)
        flat = x.reshape(-1, size_in).astype(self.dtype)
        y = flat @ kernel.reshape(size_in, size_out).astype(self.dtype)
        if self.use_bias:
            bias_init = named(nn.initializers.zeros, self.names[len(self.in_shape) :])
            bias = self.param("bias", bias_init, self.out_shape)
            y = y + bias.reshape(size_out).astype(self.dtype)
        return y.reshape(*lead, *self.out_shape)
