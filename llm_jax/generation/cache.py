"""The generation room's sizes: few shapes, so that few programs are compiled.

Prompts, batches and caches are rounded up to powers of two. A cache begins no longer than the
prompt or `FIRST_LENGTH` needs and doubles when it is full, so that a token costs what its own
context costs and not what the longest allowed text would.
"""

import functools

import jax
import jax.numpy as jnp

FIRST_LENGTH = 512


def bucket(size: int, largest: int, smallest: int = 16) -> int:
    """Returns the power of two that holds `size`, at least `smallest` and at most `largest`."""
    return min(max(smallest, 1 << (size - 1).bit_length()), largest)


def first_length(longest_prompt: int, total: int, largest: int) -> int:
    """Returns the slots to begin with for `total` tokens, `longest_prompt` of them given."""
    return bucket(min(total, max(FIRST_LENGTH, longest_prompt + 1)), largest)


@functools.partial(jax.jit, static_argnames=("model", "length", "ahead"))
def grow(model, cache, length: int, ahead: int = 0):
    """Returns `cache` with room for `length` positions; new slots are empty.

    No token may have been written behind the old one's end: a ring is not turned.
    """
    slots = model.cache_slots(length, ahead=ahead)
    rows = jax.tree.leaves(jax.eval_shape(lambda: model.init_cache(2, 1)))
    longer = jax.tree.leaves(jax.eval_shape(lambda: model.init_cache(2, 2)))
    leaves, treedef = jax.tree.flatten(cache)

    def extend(leaf, one, two):
        axes = [axis for axis in range(leaf.ndim) if one.shape[axis] != two.shape[axis]]
        if not axes:
            return leaf
        padding = [(0, 0)] * leaf.ndim
        padding[axes[0]] = (0, slots - leaf.shape[axes[0]])
        return jnp.pad(leaf, padding)

    return treedef.unflatten(extend(leaf, one, two) for leaf, one, two in zip(leaves, rows, longer))
