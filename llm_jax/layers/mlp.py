"""The feed-forward part of a block, plain or gated."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.kernels.activation import gelu_tanh
from llm_jax.layers.linear import Projection
from llm_jax.parallel.sharding import constrain


def relu_squared(x):
    """`max(x, 0) ** 2` (So et al. 2021, arXiv:2109.08668)."""
    return jnp.square(jax.nn.relu(x))


ACTIVATIONS = {
    "gelu_tanh": gelu_tanh,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "relu_squared": relu_squared,
    "silu": jax.nn.silu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


class MLP(nn.Module):
    """`down(activation(up(x)))` of `x [B, T, D]`, with `mlp_size` hidden units.

    `gated` makes it `down(activation(gate(x)) * up(x))` (Shazeer 2020, arXiv:2002.05202).
    """

    hidden_size: int
    mlp_size: int
    activation: str
    use_bias: bool
    output_std: float
    init_std: float
    dtype: jnp.dtype
    gated: bool = False

    @nn.compact
    def __call__(self, x):
        """Returns [B, T, D]."""
        size, width = self.hidden_size, self.mlp_size
        shared = {"use_bias": self.use_bias, "dtype": self.dtype}
        up = Projection((size,), (width,), ("embed", "mlp"), self.init_std, name="up", **shared)
        down = Projection(
            (width,), (size,), ("mlp", "embed"), self.output_std, name="down", **shared
        )
        inner = constrain(up(x), ("batch", "length", "mlp"))
        activation = ACTIVATIONS[self.activation]
        if not self.gated:
            return down(activation(inner))
        gate = Projection((size,), (width,), ("embed", "mlp"), self.init_std, name="gate", **shared)
        return down(activation(constrain(gate(x), ("batch", "length", "mlp"))) * inner)
