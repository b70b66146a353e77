"""Sharding as data: logical axis names, and two tables that give each name its mesh axes.

Parameters and activations carry tuples of logical names (`("layers", "embed", "mlp")`, one name
or None per dimension). The same name may go elsewhere in an activation than in a parameter: the
batch of an activation takes the axis that shards `embed` in the parameters.
"""

import math

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llm_jax.configuration import ConfigError
from llm_jax.parallel.mesh import BATCH_AXES

Rules = dict[str, str | tuple[str, ...] | None]

PARAMETER_RULES: Rules = {
    "layers": "pipe",
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "experts": "expert",
    "positions": None,
}

ACTIVATION_RULES: Rules = {
    "batch": BATCH_AXES,
    "length": "seq",
    "embed": None,
    "heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "experts": "expert",
    "vocab": "tensor",
    "positions": None,
}


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
        axes = tuple(axis for axis in axes if mesh.shape[axis] > 1)
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
