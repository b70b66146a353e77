"""Optimizer room, the state's logical axes: how a state is sharded like its parameters."""

import jax


def state_axes(transformation, params_abstract, logical_axes):
    """Returns a pytree like the optimizer's state with a tuple of logical axis names per leaf.

    A state leaf mirrors a parameter when its path ends with the parameter's path and its rank is
    the same: each axis of the parameter's size then takes the parameter's name. Axes reduced to
    size 1 (factored statistics) and all leaves that mirror none (counts) are None: replicated.

    Args:
      transformation: an `optax.GradientTransformation`.
      params_abstract: pytree of arrays or `jax.ShapeDtypeStruct`.
      logical_axes: a pytree like it with a tuple of names (or None) per leaf.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params_abstract)
    names = treedef.flatten_up_to(logical_axes)
    parameters = {
        tuple(path): (leaf, (None,) * leaf.ndim if axes is None else tuple(axes))
        for (path, leaf), axes in zip(leaves, names, strict=True)
    }
    state = jax.eval_shape(transformation.init, params_abstract)
    state_leaves, state_treedef = jax.tree_util.tree_flatten_with_path(state)
    return state_treedef.unflatten(_axes(path, leaf, parameters) for path, leaf in state_leaves)


def _axes(path: tuple, leaf, parameters: dict) -> tuple:
    for start in range(len(path)):  # the longest suffix first: "a/b" before "b"
        parameter, names = parameters.get(tuple(path[start:]), (None, ()))
        if parameter is None or parameter.ndim != leaf.ndim:
            continue
        if any(size not in (full, 1) for size, full in zip(leaf.shape, parameter.shape)):
            continue
        return tuple(
            name if size == full else None
            for name, size, full in zip(names, leaf.shape, parameter.shape)
        )
    return (None,) * leaf.ndim
