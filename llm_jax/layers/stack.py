"""A stack of equal blocks: one set of parameters with a leading layer axis, run by a scan.

Over the mesh axis `pipe` each stage has some of the layers, see `llm_jax.parallel.pipeline`.
"""

import dataclasses
import functools

import flax.linen as nn
import jax

from llm_jax.configuration import ConfigError
from llm_jax.kernels.flash import SAVED
from llm_jax.kernels.packed import unpacked
from llm_jax.layers.linear import in_eight_bits
from llm_jax.parallel.pipeline import pipelined
from llm_jax.parallel.sharding import axis_size

# What `layers.block` calls the input of a block.
BLOCK_INPUT = "block_input"
HOST_MEMORY = "pinned_host"
POLICIES = jax.checkpoint_policies


def _and_attention(policy):
    """Products, and those of a kernel, which no policy sees into."""
    return POLICIES.save_from_both_policies(policy, POLICIES.save_only_these_names(SAVED))


# "offload" is "full" whose one residual per layer, the block's input, waits in the host's memory.
REMAT = {
    "none": None,
    "full": POLICIES.nothing_saveable,
    "attention": POLICIES.save_only_these_names(SAVED, "query", "key", "value", "output"),
    "attention_gate": POLICIES.save_only_these_names(
        SAVED, "query", "key", "value", "output", "gate"
    ),
    "dots": _and_attention(POLICIES.dots_saveable),
    "dots_no_batch": _and_attention(POLICIES.dots_with_no_batch_dims_saveable),
    "offload": POLICIES.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[BLOCK_INPUT],
        offload_src="device",
        offload_dst=HOST_MEMORY,
    ),
}


@dataclasses.dataclass(frozen=True)
class Scan:
    """How layers are run; never their layout.

    Attributes:
      remat: a key of `REMAT`: what the forward pass keeps for the backward pass.
      unroll: layers per iteration of the scan; 0 means all.
      microbatches: that pass a pipeline's stages; 0 means as many as there are stages.
      rounds: that each of them makes through the stages.
      quantization: None, or what the layers' projections multiply in: "fp8" or "int8".
      packed: some of the layers' parameters are `llm_jax.kernels.packed.Packed`; each layer's are
        unpacked when its turn comes, and again in the backward pass; remat "none" is "dots" then.
    """

    remat: str = "none"
    unroll: int = 1
    microbatches: int = 0
    rounds: int = 1
    quantization: str | None = None
    packed: bool = False

    def __post_init__(self):
        if self.remat not in REMAT:
            raise ConfigError(f"remat {self.remat!r} is unknown: choose one of {', '.join(REMAT)}")
        if self.unroll < 0:
            raise ConfigError(f"execution.unroll is {self.unroll}: give 0 (all layers) or more")
        if self.microbatches < 0:
            raise ConfigError(
                f"execution.microbatches is {self.microbatches}: give 0 (as many as stages) or more"
            )
        if self.rounds < 1:
            raise ConfigError(f"execution.pipeline_rounds is {self.rounds}: give 1 or more")


def stack(block, *, num_layers: int, scan: Scan, name: str, **attributes):
    """Returns a function `(carry, layers, shared) -> (carry, extras)` of `num_layers` blocks.

    Args:
      block: a Linen module class; its call takes `((x, cache), layer, shared)` and returns the
        same pair, and what else it made, [B, ...], or None.
      num_layers: length of the scan.
      scan: how it is run.
      name: of the parameters' subtree.
      **attributes: of `block`.

    Raises:
      ConfigError: residuals are to be offloaded and these devices see no memory of their host.
    """
    if scan.remat == "offload":
        device = jax.devices()[0]
        kinds = [memory.kind for memory in device.addressable_memories()]
        if HOST_MEMORY not in kinds:
            raise ConfigError(
                f"execution.remat is 'offload', and {device.device_kind} has no {HOST_MEMORY} "
                f"memory but {', '.join(kinds)}: choose 'full'"
            )
    if scan.packed:
        block = nn.map_variables(block, "params", unpacked)
    # What is unpacked must not be kept for the backward pass: products are, all else is made again.
    remat = "dots" if scan.packed and scan.remat == "none" else scan.remat
    if REMAT[remat] is not None:
        block = nn.remat(block, prevent_cse=False, policy=REMAT[remat])
    scanned = nn.scan(
        block,
        variable_axes={"params": 0, "scaling": 0, "adapters": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast),
        length=num_layers,
        unroll=scan.unroll or num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )(name=name, **attributes)
    run = scanned
    if axis_size("pipe") > 1:
        run = functools.partial(
            _staged, scanned, block(parent=None, **attributes), num_layers, scan
        )
    if scan.quantization is None:
        return run

    def quantized(*inputs):
        with nn.intercept_methods(in_eight_bits(scan.quantization)):
            return run(*inputs)

    return quantized


def _staged(scanned, block, num_layers, scan, carry, layers, shared):
    x, cache = carry
    if cache is not None:
        raise ConfigError("a pipeline has no cache: generate on a mesh with mesh.pipe=1")

    def run(variables, layers, x, shared):
        def one(x, each):
            variables, layer = each
            (x, _), extra = block.apply(variables, (x, None), layer, shared)
            return x, extra

        return jax.lax.scan(one, x, (variables, layers))

    x, extras = pipelined(
        run, dict(scanned.variables), layers, x, shared,
        num_layers=num_layers, microbatches=scan.microbatches, rounds=scan.rounds,
    )  # fmt: skip
    return (x, None), extras
