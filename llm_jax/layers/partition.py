"""Parameters that carry the logical names of their axes.

One declaration gives a parameter its shape, initializer and names; `llm_jax.parallel` maps the
names to mesh axes. Nothing here constrains a value: placement is decided outside the model.
"""

import flax.linen as nn
import jax


class Named(nn.Partitioned):
    """A boxed parameter with one logical name (or None) for each axis; unboxing is free."""

    def unbox(self, apply_constraint=True):
        """Returns the array itself."""
        del apply_constraint
        return self.value


def named(initializer, names: tuple):
    """Returns `initializer` with its result boxed under axis `names`."""

    def init(*args, **kwargs):
        return Named(initializer(*args, **kwargs), names)

    return init


def axis_names(boxed):
    """Returns, for a tree of boxed parameters, the same tree with tuples of names as leaves."""
    return jax.tree.map(lambda box: box.names, boxed, is_leaf=lambda leaf: isinstance(leaf, Named))
