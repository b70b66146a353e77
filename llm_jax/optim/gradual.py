"""Optimizer room, gradual unfreezing: layers begin to train one after another, the last one first.

Howard & Ruder 2018 (arXiv:1801.06146), section 3.3. What waits is left bitwise as it is.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from llm_jax.optim.chain import below


class _State(NamedTuple):
    count: jax.Array
    inner: Any


def gradually(
    inner: optax.GradientTransformation, every: int, params_abstract, logical_axes, bottom: str
) -> optax.GradientTransformation:
    """Returns `inner`, whose updates reach a layer only when its turn has come.

    Args:
      inner: the optimizer.
      every: layer i of L trains from update `every * (L - i)` on, what is below the layers from
        `every * (L + 1)`, all else from the first one.
      params_abstract, logical_axes: as of `llm_jax.optim.build`.
      bottom: pattern of the parameters below the layers.

    Raises:
      ConfigError: no parameter has that pattern.
    """
    leaves, treedef = jax.tree.flatten(params_abstract)
    axes = treedef.flatten_up_to(logical_axes)
    stacked = [bool(name) and name[0] == "layers" for name in axes]
    deepest = max((leaf.shape[0] for leaf, has in zip(leaves, stacked) if has), default=0)
    starts = []
    for leaf, has, is_below in zip(leaves, stacked, below(bottom, params_abstract)):
        if has:
            turns = every * jnp.arange(leaf.shape[0], 0, -1)
            starts.append(turns.reshape(-1, *[1] * (leaf.ndim - 1)))
        else:
            starts.append(every * (deepest + 1) if is_below else 0)

    def begun(tree, count):
        values = treedef.flatten_up_to(tree)
        kept = [jnp.where(count >= start, x, 0) for x, start in zip(values, starts)]
        return jax.tree.unflatten(treedef, kept)

    def init(params):
        return _State(jnp.int32(0), inner.init(params))

    def update(gradients, state, params=None):
        updates, changed = inner.update(begun(gradients, state.count), state.inner, params)
        return begun(updates, state.count), _State(state.count + 1, changed)

    return optax.GradientTransformation(init, update)
