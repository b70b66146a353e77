"""Low-rank adaptation of projections, and its variants.

LoRA (Hu et al. 2021, arXiv:2106.09685), rank-stabilized LoRA (Kalajdzievski 2023, arXiv:2312.03732)
and DoRA (Liu et al. 2024, arXiv:2402.09353); behaviour and start are those of `peft`.
"""

import dataclasses
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.configuration import ConfigError
from llm_jax.layers.linear import Projection
from llm_jax.layers.partition import named


def reached(module: nn.Module, targets: str) -> bool:
    """Says whether `targets` is found in the path of `module`, a whole part of it at least."""
    return re.search(rf"(^|/)({targets})$", "/".join(module.path)) is not None


@dataclasses.dataclass(frozen=True)
class Lora:
    """`x W + scale (x A) B`: A begins by chance, B at zero.

    Attributes:
      rank: columns of A.
      alpha: `scale` is alpha / rank, or alpha / sqrt(rank) where `rank_stabilized`.
      targets: a regular expression of the paths' ends of the projections that it is added to.
      rank_stabilized: keeps the size of gradients at large ranks.
      magnitudes: learns the columns' lengths apart from their directions (DoRA).
    """

    rank: int = 8
    alpha: float = 16.0
    targets: str = "(attention|cross)/(query|value)"
    rank_stabilized: bool = False
    magnitudes: bool = False

    def __post_init__(self):
        if self.rank < 1:
            raise ConfigError(f"Lora.rank is {self.rank}: give 1 or more")

    @property
    def scale(self) -> float:
        """The factor of `A B`."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def intercept(self, multiply, args, kwargs, context):
        """Adds to the products of the projections, see `flax.linen.intercept_methods`."""
        module = context.module
        wanted = isinstance(module, Projection) and context.method_name == "product"
        if not wanted or not reached(module, self.targets):
            return multiply(*args, **kwargs)
        x, kernel = args
        size_in, size_out = kernel.shape
        inputs, outputs = module.names[: len(module.in_shape)], module.names[len(module.in_shape) :]
        # U(-1/sqrt(in), 1/sqrt(in)), torch's of a linear layer.
        start = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=0, out_axis=1)

        def first():
            value = start(module.make_rng("params"), (size_in, self.rank))
            return value.reshape(*module.in_shape, self.rank)

        a = module.variable("adapters", "lora_a", named(first, (*inputs, None)))
        shape = (self.rank, *module.out_shape)
        zeros = named(nn.initializers.zeros, (None, *outputs))
        b = module.variable("adapters", "lora_b", zeros, None, shape, jnp.float32)
        a, b = a.value.reshape(size_in, self.rank), b.value.reshape(self.rank, size_out)
        added = self.scale * ((x @ a.astype(x.dtype)) @ b.astype(x.dtype))
        y = multiply(*args, **kwargs) + added
        if not self.magnitudes:
            return y
        norms = column_norms(kernel, self.scale * (a @ b))
        length = named(lambda: norms.reshape(module.out_shape), outputs)
        magnitude = module.variable("adapters", "lora_magnitude", length).value.reshape(size_out)
        # Section 4.3: the norms take no gradient.
        return y * (magnitude / jax.lax.stop_gradient(norms)).astype(y.dtype)


def column_norms(kernel, delta):
    """Returns the lengths [out] of the columns of `kernel + delta`, both [in, out]."""
    return jnp.linalg.norm(kernel.astype(jnp.float32) + delta.astype(jnp.float32), axis=-2)
