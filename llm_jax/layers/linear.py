"""Affine maps between groups of axes, computed as one two-dimensional matrix product."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from llm_jax.kernels.quantized import AGES_SHAPE, HORIZON, fp8_matmul, int8_matmul
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
      exact: never in eight bits, wherever it stands.
    """

    in_shape: tuple
    out_shape: tuple
    names: tuple
    init_std: float
    use_bias: bool
    dtype: jnp.dtype
    exact: bool = False

    @nn.compact
    def __call__(self, x):
        """Returns [..., *out_shape] of `x [..., *in_shape]`."""
        kernel_init = named(nn.initializers.normal(self.init_std), self.names)
        kernel = self.param("kernel", kernel_init, (*self.in_shape, *self.out_shape))
        lead = x.shape[: x.ndim - len(self.in_shape)]
        size_in, size_out = math.prod(self.in_shape), math.prod(self.out_shape)
        flat = x.reshape(-1, size_in).astype(self.dtype)
        y = checkpoint_name(self.product(flat, kernel.reshape(size_in, size_out)), self.name)
        if self.use_bias:
            bias_init = named(nn.initializers.zeros, self.names[len(self.in_shape) :])
            bias = self.param("bias", bias_init, self.out_shape)
            y = y + bias.reshape(size_out).astype(self.dtype)
        return y.reshape(*lead, *self.out_shape)

    def product(self, x, kernel):
        """Returns `x [N, in] @ kernel [in, out]`; what `in_eight_bits` replaces."""
        return x @ kernel.astype(self.dtype)


def in_eight_bits(quantization: str):
    """Returns an interceptor for `nn.intercept_methods`: projections multiply in "fp8" or "int8".

    A projection in fp8 has the memory of its scales in the collection "scaling", see
    `llm_jax.kernels.quantized`; it is the same at the start for all.
    """

    def intercept(multiply, args, kwargs, context):
        module = context.module
        wanted = isinstance(module, Projection) and context.method_name == "product"
        if not wanted or module.exact:
            return multiply(*args, **kwargs)
        if quantization == "int8":
            return int8_matmul(*args)
        start = named(nn.initializers.constant(HORIZON), (None, None))
        ages = module.variable("scaling", "ages", start, None, AGES_SHAPE, jnp.float32)
        return fp8_matmul(*args, ages.value)

    return intercept
