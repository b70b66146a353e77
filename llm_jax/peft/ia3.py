"""(IA)3: learned factors of keys, values and the MLP's hidden units.

Liu et al. 2022 (arXiv:2205.05638), section 3.3; as in `peft`, biases are multiplied too.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.layers.linear import Projection
from llm_jax.layers.partition import named
from llm_jax.peft.lora import reached


@dataclasses.dataclass(frozen=True)
class IA3:
    """Factors that begin at 1.

    Attributes:
      targets: a regular expression of the paths' ends of the projections that it is added to.
      inputs: of these, those whose input is multiplied; of the others it is the output.
    """

    targets: str = "(attention|cross)/(key|value)|mlp/down"
    inputs: str = "mlp/down"

    def intercept(self, call, args, kwargs, context):
        """Multiplies projections, see `flax.linen.intercept_methods`."""
        module = context.module
        wanted = isinstance(module, Projection) and context.method_name == "__call__"
        if not wanted or not reached(module, self.targets):
            return call(*args, **kwargs)
        (x,) = args
        count = len(module.in_shape)
        first = reached(module, self.inputs)
        shape = module.in_shape if first else module.out_shape
        names = module.names[:count] if first else module.names[count:]
        ones = named(nn.initializers.ones, names)
        factor = module.variable("adapters", "ia3", ones, None, shape, jnp.float32).value
        if first:
            return call(x * factor.astype(x.dtype), **kwargs)
        y = call(x, **kwargs)
        return y * factor.astype(y.dtype)
