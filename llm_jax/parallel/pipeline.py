"""Pipeline stages: each device of the axis `pipe` has some of the layers, microbatches pass by.

With p stages and m microbatches, which go round the stages v times, a step has v m + p - 1 ticks.
At each one every stage runs 1 / (v p) of the layers on one microbatch and hands the result to the
next stage, the last one to the first; of a stage's ticks p - 1 are empty. One round is GPipe (Huang
et al. 2018, arXiv:1811.06965); more make the ticks shorter, and so the empty part (the interleaved
or circular schedule, Narayanan et al. 2021, arXiv:2104.04473, section 2.2). The backward pass is
the same, backwards: it is the gradient of what stands here.

The axes that divide the batch are cut by hand as well, unless layers couple rows: so parameters
that `fsdp` shards are gathered once a step, and gradients summed once, not at every tick. What
remains (`tensor`, `seq`) stays as it is.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from llm_jax.configuration import ConfigError
from llm_jax.parallel.mesh import BATCH_AXES
from llm_jax.parallel.sharding import axis_size, constrain, widened

AXIS = "pipe"


def empty_share(stages: int, microbatches: int, rounds: int = 1) -> float:
    """Returns how much of a pipeline's time is empty: `(p - 1) / (v m + p - 1)`."""
    return (stages - 1) / (rounds * microbatches + stages - 1)


def pipelined(
    run, params, layers, x, shared, *, num_layers: int, microbatches: int, rounds: int = 1
):
    """Returns `(y [B, ...], extras)`: `x` behind all layers, each stage's on its own device.

    Args:
      run: `(params, layers, x, shared) -> (y, extras)`, some layers after each other; extras are
        arrays [layers, B, ...], of layers that couple rows, or None.
      params, layers: trees whose leaves have a leading layer axis.
      x: [B, ...].
      shared: a tree of what all layers see; leaves [B, ...] go with their rows.
      num_layers: of all stages.
      microbatches: that a batch is passed in; 0: as many as stages.
      rounds: that each of them makes. Above 1 the layers of a stage are no neighbours: parameters
        move to their stage, and their gradients back, once a step.

    Raises:
      ConfigError: layers, or rows, that do not divide.
    """
    stages, rows = axis_size(AXIS), x.shape[0]
    count = microbatches or stages
    if num_layers % (stages * rounds):
        times = f" times execution.pipeline_rounds={rounds}" if rounds > 1 else ""
        raise ConfigError(
            f"{num_layers} layers do not divide over mesh.pipe={stages} stages{times}: choose "
            "numbers whose product divides them"
        )
    if count < stages or rows % count:
        raise ConfigError(
            f"execution.microbatches is {count} for {stages} stages and {rows} rows: give a "
            f"divisor of the rows that is at least {stages}"
        )
    leaves, treedef = jax.tree.flatten(shared)
    by_row = [jnp.ndim(leaf) > 0 and leaf.shape[0] == rows for leaf in leaves]
    leaves = [_split(leaf, count) if split else leaf for leaf, split in zip(leaves, by_row)]
    parts = _split(x, count)
    # Round r of stage s has the layers that stand at [r, s].
    chunks = jax.tree.map(lambda w: w.reshape(rounds, stages, -1, *w.shape[1:]), (params, layers))

    def run_one(chunk, x, leaves, place):
        seen = [leaf[place] if split else leaf for leaf, split in zip(leaves, by_row)]
        return run(*chunk, x, treedef.unflatten(seen))

    chunk = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape[2:], w.dtype), chunks)
    _, extra = jax.eval_shape(
        run_one, chunk, jax.ShapeDtypeStruct(parts.shape[1:], parts.dtype), leaves, 0
    )
    batch = BATCH_AXES if extra is None else ()
    whole, narrowed = widened((parts, leaves))

    def on_each(chunks, whole):
        parts, leaves = narrowed(whole)
        chunks = jax.tree.map(lambda w: w[:, 0], chunks)
        me = jax.lax.axis_index(AXIS)

        def tick(state, number):
            arrived, waiting, y, extras = state
            # What comes out before a stage's first microbatch is overwritten by that one; behind
            # its last it does that one again.
            mine = jnp.clip(number - me, 0, rounds * count - 1)
            turn, place = mine // count, mine % count
            # At the first stage, what the last one sent waits for its next round.
            back = (number - stages) % count
            kept = jnp.where(number < stages, waiting[back], arrived)
            waiting = waiting.at[back].set(kept)
            x = jnp.where(me == 0, waiting[place], arrived)
            chunk = jax.tree.map(lambda w: w[turn], chunks)
            x, extra = run_one(chunk, x, leaves, place)
            y = y.at[place].set(x)
            extras = jax.tree.map(lambda all_, new: all_.at[turn, place].set(new), extras, extra)
            onward = [(i, (i + 1) % stages) for i in range(stages)]
            return (jax.lax.ppermute(x, AXIS, onward), waiting, y, extras), None

        extras = jax.tree.map(lambda e: jnp.zeros((rounds, count, *e.shape), e.dtype), extra)
        start = jnp.zeros_like(parts[0]), parts, jnp.zeros_like(parts), extras
        ticks = jnp.arange(rounds * count + stages - 1)
        (_, _, y, extras), _ = jax.lax.scan(tick, start, ticks)
        return y[None], jax.tree.map(lambda e: jnp.moveaxis(e, 0, 1)[:, :, None], extras)

    divided = PartitionSpec(None, batch)
    y, extras = jax.shard_map(
        on_each,
        in_specs=(
            PartitionSpec(None, AXIS),
            (divided, [divided if split else PartitionSpec() for split in by_row]),
        ),
        out_specs=(PartitionSpec(AXIS, None, batch), PartitionSpec(None, None, AXIS)),
        axis_names={AXIS, *batch},
        check_vma=False,
    )(chunks, whole)
    extras = jax.tree.map(lambda e: e.reshape(count, num_layers, *e.shape[4:]), extras)
    extras = jax.tree.map(lambda e: jax.vmap(_joined, 1)(e), extras)
    return constrain(_joined(y[-1]), ("batch", *[None] * (x.ndim - 1))), extras


def _split(x, parts: int):
    """[B, ...] to [parts, B / parts, ...], every `parts`-th row in one, so that none moves."""
    return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)


def _joined(x):
    """Undoes `_split`."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])
