"""Adapters: small MLPs with a residual, behind or beside a model's own sublayers."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.configuration import ConfigError, nearest
from llm_jax.layers.attention import Attention
from llm_jax.layers.mlp import ACTIVATIONS, MLP
from llm_jax.layers.partition import named
from llm_jax.peft.lora import reached

# By kind: the sublayers, and whether an adapter stands beside one, reading its input.
KINDS = {"houlsby": ("attention|mlp", False), "pfeiffer": ("mlp", False), "parallel": ("mlp", True)}


@dataclasses.dataclass(frozen=True)
class Bottleneck:
    """`y + scale f(y D + d) U + u` of a sublayer's result y; U, u and d begin at zero.

    Attributes:
      kind: "houlsby", behind attention and MLP (Houlsby et al. 2019, arXiv:1902.00751);
        "pfeiffer", behind the MLP (Pfeiffer et al. 2020, arXiv:2005.00247); "parallel", of the
        MLP's input (He et al. 2021, arXiv:2110.04366).
      size: hidden units.
      activation: a key of `llm_jax.layers.mlp.ACTIVATIONS`.
      scale: of what is added.
    """

    kind: str = "pfeiffer"
    size: int = 16
    activation: str = "relu"
    scale: float = 1.0

    def __post_init__(self):
        for key, known in (("kind", KINDS), ("activation", ACTIVATIONS)):
            if getattr(self, key) not in known:
                given = getattr(self, key)
                raise ConfigError(f"Bottleneck.{key} is {given!r}: {nearest(given, known)}")
        if self.size < 1:
            raise ConfigError(f"Bottleneck.size is {self.size}: give 1 or more")

    @property
    def targets(self) -> str:
        """The paths' ends of the sublayers that it is added to."""
        return KINDS[self.kind][0]

    def intercept(self, call, args, kwargs, context):
        """Adds to sublayers, see `flax.linen.intercept_methods`."""
        module = context.module
        wanted = isinstance(module, Attention | MLP) and context.method_name == "__call__"
        if not wanted or not reached(module, self.targets):
            return call(*args, **kwargs)
        found = call(*args, **kwargs)
        y, *rest = found if isinstance(found, tuple) else (found,)
        y = y + self._added(module, args[0] if KINDS[self.kind][1] else y)
        return (y, *rest) if rest else y

    def _added(self, module: nn.Module, x):
        width = x.shape[-1]

        def parameter(name, start, shape, names):
            def first():
                return start(module.make_rng("params"), shape, jnp.float32)

            found = module.variable("adapters", f"bottleneck_{name}", named(first, names))
            return found.value.astype(x.dtype)

        zeros = nn.initializers.zeros
        down = parameter("down", nn.initializers.normal(0.02), (width, self.size), ("embed", None))
        up = parameter("up", zeros, (self.size, width), (None, "embed"))
        hidden = x @ down + parameter("down_bias", zeros, (self.size,), (None,))
        bias = parameter("up_bias", zeros, (width,), ("embed",))
        return self.scale * (ACTIVATIONS[self.activation](hidden) @ up + bias)
