"""A stack of equal blocks: one set of parameters with a leading layer axis, run by a scan."""

import flax.linen as nn
import jax

from llm_jax.configuration import ConfigError

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def check_remat(name: str) -> None:
    """Raises ConfigError if `name` is no key of `REMAT`."""
    if name not in REMAT:
        raise ConfigError(f"remat {name!r} is unknown: choose one of {', '.join(REMAT)}")


def stack(block, *, num_layers: int, remat: str, unroll: int, name: str, **attributes):
    """Returns a Linen module that runs `block` `num_layers` times.

    Args:
      block: a Linen module class; its call takes `(carry, per_layer, shared)` and returns
        `(carry, None)`.
      num_layers: length of the scan.
      remat: a key of `REMAT`: what the forward pass keeps for the backward pass.
      unroll: layers per iteration of the scan; 0 means all. Speed only, never layout.
      name: of the parameters' subtree.
      **attributes: of `block`.
    """
    if REMAT[remat] is not None:
        block = nn.remat(block, prevent_cse=False, policy=REMAT[remat])
    scanned = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast),
        length=num_layers,
        unroll=unroll or num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return scanned(name=name, **attributes)
