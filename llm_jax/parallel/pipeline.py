"""Pipeline stages: each device of the axis `pipe` has some of the layers, microbatches pass by.

GPipe (Huang et al. 2018, arXiv:1811.06965): with p stages and m microbatches a step has m + p - 1
ticks. At each one every stage runs its layers on one microbatch and hands the result to the next;
of a stage's ticks p - 1 are empty. The backward pass is the same, backwards: it is the gradient of
what stands here. Other mesh axes stay as they are.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from llm_jax.configuration import ConfigError
from llm_jax.parallel.sharding import axis_size, constrain, widened

AXIS = "pipe"


def empty_share(stages: int, microbatches: int) -> float:
    """Returns how much of a pipeline's time is empty: `(p - 1) / (m + p - 1)`."""
    return (stages - 1) / (microbatches + stages - 1)


def pipelined(run, params, layers, x, shared, *, num_layers: int, microbatches: int):
    """Returns `(y [B, ...], extras)`: `x` behind all layers, each stage's on its own device.

    Args:
      run: `(params, layers, x, shared) -> (y, extras)`, some layers after each other; extras are
        arrays [layers, B, ...] or None.
      params, layers: trees whose leaves have a leading layer axis.
      x: [B, ...].
      shared: a tree of what all layers see; leaves [B, ...] go with their rows.
      num_layers: of all stages.
      microbatches: that a batch is passed in; 0: as many as stages.

    Raises:
      ConfigError: layers, or rows, that do not divide.
    """
    stages, rows = axis_size(AXIS), x.shape[0]
    count = microbatches or stages
    if num_layers % stages:
        raise ConfigError(
            f"{num_layers} layers do not divide over mesh.pipe={stages} stages: choose a number of "
            "stages that divides them"
        )
    if count < stages or rows % count:
        raise ConfigError(
            f"execution.microbatches is {count} for {stages} stages and {rows} rows: give a "
            f"divisor of the rows that is at least {stages}"
        )
    leaves, treedef = jax.tree.flatten(shared)
    by_row = [jnp.ndim(leaf) > 0 and leaf.shape[0] == rows for leaf in leaves]
    leaves = [_split(leaf, count) if split else leaf for leaf, split in zip(leaves, by_row)]
    stage = PartitionSpec(AXIS)

    whole, narrowed = widened((_split(x, count), leaves))

    def on_each(params, layers, whole):
        parts, leaves = narrowed(whole)
        me = jax.lax.axis_index(AXIS)

        def tick(state, number):
            arrived, done = state
            # What comes out before a stage's first microbatch is overwritten by that one; behind
            # its last it does that one again.
            place = jnp.clip(number - me, 0, count - 1)
            mine = [leaf[place] if split else leaf for leaf, split in zip(leaves, by_row)]
            first = parts[jnp.minimum(number, count - 1)]
            out = run(params, layers, jnp.where(me == 0, first, arrived), treedef.unflatten(mine))
            done = jax.tree.map(lambda all_, new: all_.at[place].set(new), done, out)
            onward = [(i, i + 1) for i in range(stages - 1)]
            return (jax.lax.ppermute(out[0], AXIS, onward), done), None

        shapes = jax.eval_shape(
            run, params, layers, parts[0],
            treedef.unflatten([x[0] if split else x for x, split in zip(leaves, by_row)]),
        )  # fmt: skip
        done = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), shapes)
        start = jnp.zeros_like(parts[0]), done
        (_, (y, extras)), _ = jax.lax.scan(tick, start, jnp.arange(count + stages - 1))
        return y[None], extras

    y, extras = jax.shard_map(
        on_each,
        in_specs=(stage, stage, PartitionSpec()),
        out_specs=(stage, PartitionSpec(None, AXIS)),
        axis_names={AXIS},
        check_vma=False,
    )(params, layers, whole)
    extras = jax.tree.map(lambda e: jax.vmap(_joined, 1)(e), extras)
    return constrain(_joined(y[-1]), ("batch", *[None] * (x.ndim - 1))), extras


def _split(x, parts: int):
    """[B, ...] to [parts, B / parts, ...], every `parts`-th row in one, so that none moves."""
    return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)


def _joined(x):
    """Undoes `_split`."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])
