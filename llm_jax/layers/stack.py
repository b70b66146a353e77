"""A stack of equal blocks: one set of parameters with a leading layer axis, run by a scan.

Over the mesh axis `pipe` each stage has some of the layers, see `llm_jax.parallel.pipeline`.
"""

import dataclasses
import functools

import flax.linen as nn
import jax

from llm_jax.configuration import ConfigError
from llm_jax.parallel.pipeline import pipelined
from llm_jax.parallel.sharding import axis_size

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class Scan:
    """How layers are run; speed and memory only, never layout.

    Attributes:
      remat: a key of `REMAT`: what the forward pass keeps for the backward pass.
      unroll: layers per iteration of the scan; 0 means all.
      microbatches: that pass a pipeline's stages; 0 means as many as there are stages.
    """

    remat: str = "none"
    unroll: int = 1
    microbatches: int = 0

    def __post_init__(self):
        if self.remat not in REMAT:
            raise ConfigError(f"remat {self.remat!r} is unknown: choose one of {', '.join(REMAT)}")
        if self.unroll < 0:
            raise ConfigError(f"execution.unroll is {self.unroll}: give 0 (all layers) or more")
        if self.microbatches < 0:
            raise ConfigError(
                f"execution.microbatches is {self.microbatches}: give 0 (as many as stages) or more"
            )


def stack(block, *, num_layers: int, scan: Scan, name: str, **attributes):
    """Returns a function `(carry, layers, shared) -> (carry, extras)` of `num_layers` blocks.

    Args:
      block: a Linen module class; its call takes `((x, cache), layer, shared)` and returns the
        same pair, and what else it made, [B, ...], or None.
      num_layers: length of the scan.
      scan: how it is run.
      name: of the parameters' subtree.
      **attributes: of `block`.
    """
    if REMAT[scan.remat] is not None:
        block = nn.remat(block, prevent_cse=False, policy=REMAT[scan.remat])
    scanned = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast),
        length=num_layers,
        unroll=scan.unroll or num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )(name=name, **attributes)
    if axis_size("pipe") == 1:
        return scanned
    return functools.partial(_staged, scanned, block(parent=None, **attributes), num_layers, scan)


def _staged(scanned, block, num_layers, scan, carry, layers, shared):
    x, cache = carry
    if cache is not None:
        raise ConfigError("a pipeline has no cache: generate on a mesh with mesh.pipe=1")

    def run(params, layers, x, shared):
        def one(x, each):
            params, layer = each
            (x, _), extra = block.apply({"params": params}, (x, None), layer, shared)
            return x, extra

        return jax.lax.scan(one, x, (params, layers))

    count = {"num_layers": num_layers, "microbatches": scan.microbatches}
    x, extras = pipelined(run, scanned.variables["params"], layers, x, shared, **count)
    return (x, None), extras
