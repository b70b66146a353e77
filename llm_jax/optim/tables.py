"""Optimizer room, tables: (pattern, value) pairs over parameter paths, and matrix layouts.

A table must account for every parameter, and each of its patterns must be of use: a typing error
in a pattern is then an error and not a silent default.
"""

import dataclasses
import re

import jax

from llm_jax.configuration import ConfigError

STACKED_AXES = ("layers", "experts")  # leading axes over which independent tensors lie
HEAD_AXES = ("heads", "kv_heads", None)  # an axis "head_dim" behind one is the same dimension
LOOKUP_AXES = ("vocab", "positions")  # tables of vectors, where a row is not a direction


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one parameter's axes form matrices: `stacked` axes first, then `rows`, then `columns`.

    A parameter that is no matrix has all its axes but the stacked ones in `rows`.
    """

    stacked: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    lookup: bool = False

    @property
    def is_matrix(self) -> bool:
        """True for a kernel or an embedding, False for a vector such as a bias."""
        return bool(self.columns)

    @property
    def within(self) -> tuple[int, ...]:
        """The axes of one tensor, without those that stack several."""
        return self.rows + self.columns


def layouts(params, logical_axes) -> list[Layout]:
    """Returns the layout of each leaf of `params`, in `jax.tree.leaves` order.

    Leading axes named in `STACKED_AXES` stack tensors; heads and "head_dim" behind them count as
    one dimension; where two dimensions remain, they are a matrix's rows (inputs) and columns.

    Args:
      params: pytree of arrays or `jax.ShapeDtypeStruct`.
      logical_axes: a pytree like it, a tuple of names (or None) per leaf, one for each axis.

    Raises:
      ConfigError: names that do not fit a parameter's rank.
    """
    leaves, treedef = jax.tree.flatten(params)
    names = treedef.flatten_up_to(logical_axes)
    return [
        _layout(path, leaf.ndim, (None,) * leaf.ndim if name is None else tuple(name))
        for path, leaf, name in zip(paths(params), leaves, names, strict=True)
    ]


def _layout(path: str, ndim: int, names: tuple) -> Layout:
    if len(names) != ndim:
        raise ConfigError(
            f"parameter {path} has {ndim} axes and the logical names {names}: give one for each"
        )
    depth = 0
    while depth < ndim and names[depth] in STACKED_AXES:
        depth += 1
    groups: list[list[int]] = []
    for axis in range(depth, ndim):
        if groups and names[axis] == "head_dim" and names[axis - 1] in HEAD_AXES:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    stacked, lookup = tuple(range(depth)), any(name in LOOKUP_AXES for name in names)
    if len(groups) == 2:
        return Layout(stacked, tuple(groups[0]), tuple(groups[1]), lookup)
    return Layout(stacked, tuple(range(depth, ndim)), (), lookup)


def paths(tree) -> list[str]:
    """Returns "a/b/c" for each leaf of a nested dict, in `jax.tree.leaves` order."""
    return ["/".join(map(name, path)) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def name(entry) -> str:
    """Returns the text of one entry of a jax key path: a dict key, a field, an index."""
    return str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry))))


def match(table: tuple, names: list[str], key: str) -> list[float]:
    """Returns for each of `names` the value of the first pattern that matches it whole.

    Args:
      table: pairs (regular expression, number).
      names: parameter paths.
      key: the table's own config key, used in messages.

    Raises:
      ConfigError: a pair or pattern that is none, a parameter that no pattern matches, or a
        pattern that matches no parameter.
    """
    compiled = []
    for pair in table:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and _is_number(pair[1])):
            raise ConfigError(f"{key} holds {pair!r}: give pairs (pattern, number)")
        try:
            compiled.append((re.compile(pair[0]), float(pair[1])))
        except (re.error, TypeError) as error:
            raise ConfigError(
                f"{key} holds {pair[0]!r}, no regular expression ({error}): mend the pattern"
            ) from None
    for pattern, _ in compiled:
        if not any(pattern.fullmatch(path) for path in names):
            raise ConfigError(
                f"{key}: {pattern.pattern!r} matches none of {_some(names)}: mend or remove it"
            )
    values, unmatched = [], []
    for path in names:
        found = next((value for pattern, value in compiled if pattern.fullmatch(path)), None)
        values.append(found)
        if found is None:
            unmatched.append(path)
    if unmatched:
        raise ConfigError(
            f"{key} matches no {_some(unmatched)}: add patterns for them, last of all '.*'"
        )
    return values


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _some(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
