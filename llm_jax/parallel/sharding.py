"""Sharding as data: logical axis names, and two tables that give each name its mesh axes.

Parameters and activations carry tuples of logical names (`("layers", "embed", "mlp")`, one name
or None per dimension). The same name may go elsewhere in an activation than in a parameter: the
batch of an activation takes the axis that shards `embed` in the parameters.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llm_jax.configuration import ConfigError
from llm_jax.parallel.mesh import BATCH_AXES

Rules = dict[str, str | tuple[str, ...] | None]

PARAMETER_RULES: Rules = {
    "layers": "pipe",
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "experts": "expert",
    "positions": None,
}

WHOLE_RULES: Rules = PARAMETER_RULES | {"embed": None}

ACTIVATION_RULES: Rules = {
    "batch": BATCH_AXES,
    "length": "seq",
    "norm_length": ("seq", "tensor"),
    "expert_batch": ("data", "fsdp"),  # of what the expert axis divides by experts
    "parts": (*BATCH_AXES, "seq"),  # of rows, one beside the other
    "embed": None,
    "heads": "tensor",
    "kv_heads": "tensor",
    "exchanged_heads": ("tensor", "seq"),
    "head_dim": None,
    "mlp": "tensor",
    "experts": "expert",
    "vocab": "tensor",
    "positions": None,
}

WHOLE_WHERE_FEWER = ("kv_heads",)  # than devices: each has them all


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """How the state is spread over the mesh; no choice changes a result beyond rounding.

    Attributes:
      zero: what `mesh.fsdp` shards (ZeRO, Rajbhandari et al. 2019, arXiv:1910.02054): 0 the batch
        only, 1 the optimizer state as well, 2 and the gradients, 3 and the parameters.
    """

    zero: int = 3

    def __post_init__(self):
        if self.zero not in (0, 1, 2, 3):
            raise ConfigError(f"parallel.zero is {self.zero}: give 0, 1, 2 or 3")

    def rules(self, stage: int) -> Rules:
        """Returns the table for what ZeRO shards from `stage` on."""
        return PARAMETER_RULES if self.zero >= stage else WHOLE_RULES


def partition_spec(
    names: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh, rules: Rules
) -> PartitionSpec:
    """Returns how an array of `shape` whose dimensions are called `names` lies on `mesh`.

    Raises:
      ConfigError: an unknown name, two dimensions on one mesh axis, or a dimension that the
        axis does not divide.
    """
    if len(names) != len(shape):
        raise ConfigError(f"axis names {names} do not fit shape {tuple(shape)}: give one each")
    parts, taken = [], {}
    for name, size in zip(names, shape):
        if name is not None and name not in rules:
            raise ConfigError(f"axis {name!r} is in no sharding rule: known are {sorted(rules)}")
        axes = rules[name] if name is not None else None
        axes = (axes,) if isinstance(axes, str) else (axes or ())
        axes = tuple(axis for axis in axes if mesh.shape[axis] > 1 and axis not in mesh.manual_axes)
        if name in WHOLE_WHERE_FEWER and size < math.prod(mesh.shape[axis] for axis in axes):
            axes = ()
        for axis in axes:
            if axis in taken:
                raise ConfigError(
                    f"axes {taken[axis]!r} and {name!r} of one array both want mesh axis {axis!r}"
                )
            taken[axis] = name
        shards = math.prod(mesh.shape[axis] for axis in axes)
        if size % shards:
            raise ConfigError(
                f"axis {name!r} of size {size} does not divide over mesh axes "
                f"{'*'.join(axes)} = {shards}: choose a size that is a multiple of {shards}"
            )
        parts.append(axes[0] if len(axes) == 1 else axes or None)
    return PartitionSpec(*parts)


def tree_shardings(abstract, logical_axes, mesh: Mesh, rules: Rules = PARAMETER_RULES):
    """Returns a tree of `NamedSharding` for the tree `abstract` of shaped leaves.

    Args:
      abstract: arrays or `jax.ShapeDtypeStruct`s.
      logical_axes: the same tree with a tuple of names in place of each leaf.
      mesh: the device mesh.
      rules: the table from names to mesh axes.
    """
    leaves, treedef = jax.tree.flatten(abstract)
    names = treedef.flatten_up_to(logical_axes)
    return treedef.unflatten(
        NamedSharding(mesh, partition_spec(name, leaf.shape, mesh, rules))
        for leaf, name in zip(leaves, names)
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an input batch: its leading axis over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def axis_size(axis: str) -> int:
    """Returns the size of a mesh axis in the active mesh; 1 without one."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def platform() -> str:
    """Returns what the active mesh's devices are, "cpu", "gpu" or "tpu"; without one, the default.

    A program may be compiled for devices that are not there (`jax.experimental.topologies`).
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def automatic_axes() -> set[str]:
    """Returns the axes of the active mesh that the compiler divides by; none on one device.

    What it cannot divide, such as a kernel, goes into a `jax.shard_map` over all of them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return set(mesh.axis_names) - set(mesh.manual_axes) if mesh.size > 1 else set()


def widened(tree):
    """Returns `tree` with its floating-point leaves in float32, and a function that undoes it.

    For what enters `shard_map` whole on every device: its gradients are summed over the devices,
    better not in half precision, which XLA on a CPU cannot do there at all.
    """

    def floating(leaf):
        return jnp.issubdtype(leaf.dtype, jnp.floating)

    def narrowed(wide):
        return jax.tree.map(lambda w, x: w.astype(x.dtype) if floating(x) else w, wide, tree)

    return jax.tree.map(lambda x: x.astype(jnp.float32) if floating(x) else x, tree), narrowed


def constrain(x: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
    """Pins the activation `x` to the place its axis `names` have in the active mesh.

    It holds on every backend; without a mesh (`jax.set_mesh`), or on one device, it is `x`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(
        x, partition_spec(names, x.shape, mesh, ACTIVATION_RULES)
    )
