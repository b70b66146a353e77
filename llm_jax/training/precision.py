"""Precision policies: what parameters, activations and matmuls are computed in.

Parameters, gradients' sums and optimizer state are fp32 under every policy; a policy says what
the forward and backward pass compute in, and whether the loss is scaled (fp16).

Under fp8 and int8 a model computes in bf16 but for the products of its blocks' projections
(attention and MLP), see `llm_jax.kernels.quantized`. Embeddings, norms, attention itself, routers,
routed experts and the vocabulary's head stay in bf16, and so does all that uses a trained model,
evaluation during the run included.
"""

import dataclasses

import jax
import jax.numpy as jnp

from llm_jax.configuration import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Policy:
    """One precision policy.

    Attributes:
      name: what `config.precision` says.
      dtype: the dtype of activations, and of parameters where they meet them.
      matmul: JAX's matmul precision; "highest" keeps fp32 exact where hardware would round.
      scales_loss: whether a dynamic loss scale guards small gradients.
      quantization: what the blocks' projections multiply in while training; None: `dtype`.
    """

    name: str
    dtype: jnp.dtype
    matmul: str | None
    scales_loss: bool = False
    quantization: str | None = None

    def activate(self) -> None:
        """Makes this process's matmuls follow the policy."""
        jax.config.update("jax_default_matmul_precision", self.matmul)


POLICIES = {
    "fp32": Policy("fp32", jnp.dtype(jnp.float32), "highest"),
    "bf16": Policy("bf16", jnp.dtype(jnp.bfloat16), None),
    "fp16": Policy("fp16", jnp.dtype(jnp.float16), None, scales_loss=True),
    "fp8": Policy("fp8", jnp.dtype(jnp.bfloat16), None, quantization="fp8"),
    "int8": Policy("int8", jnp.dtype(jnp.bfloat16), None, quantization="int8"),
}


def policy(name: str) -> Policy:
    """Returns the policy called `name`; `ConfigError` if there is none."""
    if name not in POLICIES:
        raise ConfigError(f"config.precision is {name!r}: {nearest(name, POLICIES)}")
    return POLICIES[name]


# Dynamic loss scaling (Micikevicius et al. 2018, section 3.2, with the constants of NVIDIA's Apex):
# halve on overflow, double after this many finite steps in a row. The loss that is scaled is a sum
# over tokens, not their mean, so the scale starts lower than the customary 2**15 or 2**16.
INITIAL_SCALE = 2.0**10
GROWTH_INTERVAL = 2000
MAX_SCALE = 2.0**24


def next_scale(scale: jax.Array, good_steps: jax.Array, finite: jax.Array):
    """Returns the loss scale and the count of finite steps in a row, after one more step.

    Args:
      scale: fp32 scalar, the scale this step used.
      good_steps: int32 scalar, finite steps since the scale last changed.
      finite: bool scalar, whether this step's gradients were finite.
    """
    grow = finite & (good_steps + 1 >= GROWTH_INTERVAL)
    grown = jnp.where(grow, jnp.minimum(scale * 2, MAX_SCALE), scale)
    good = jnp.where(finite & ~grow, good_steps + 1, 0)
    return jnp.where(finite, grown, jnp.maximum(scale / 2, 1.0)), good
