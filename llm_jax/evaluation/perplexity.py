"""The evaluation room's first measure: the loss of a whole split, in batches of one shape."""

import collections
import functools
import itertools
import math

import jax
import numpy as np
from jax.sharding import NamedSharding

from llm_jax.configuration import ConfigError
from llm_jax.data import Rows, eval_batches
from llm_jax.data.objectives import NextToken
from llm_jax.losses.registry import TASKS
from llm_jax.models import Model
from llm_jax.parallel.mesh import BATCH_AXES, batch_block
from llm_jax.parallel.sharding import batch_sharding


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sums(model: Model, objective: str, params, batch) -> dict:
    """Returns float32 sums over a batch: `weight`, and what the loss counts, weighted."""
    (_, weight), sums = TASKS[objective].loss(model, params, batch)
    return sums | {"weight": weight}


def evaluate(
    model: Model,
    params,
    rows: Rows,
    *,
    batch_size: int,
    limit: int | None = None,
    objective=NextToken(),
) -> dict:
    """Returns the loss of `rows` and what else their objective measures, every row once.

    The loss is the plain one, whatever smoothing a run trained with. Batches are summed in float32
    on the device and added in float64 on the host.

    Args:
      model: a model of pure functions.
      params: its parameters, on any mesh; where one has `data` or `fsdp` axes, the batch is split
        over them (call it under `jax.set_mesh` then).
      rows: the split's examples.
      batch_size: rows per batch, rounded up to what the mesh divides; the last batch is filled up
        with rows of weight 0.
      limit: only the first so many rows, rounded up to whole batches; None or 0 for all.
      objective: the one that `rows` were opened for.

    Returns:
      `loss` (of text in nats per predicted token) and, where the objective counts it, `accuracy`;
      of text `perplexity`; of next tokens, which are all of a text, `bits_per_byte` (total nats /
      ln 2 / UTF-8 bytes), `tokens` and `bytes`, with a limit the split's share of the tokens seen.

    Raises:
      ConfigError: `batch_size` below 1, or rows without a token.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}: give 1 or more")
    place, shards, block = placement(params)
    batch_size = math.ceil(batch_size / shards) * shards
    batches = eval_batches(rows, batch_size=batch_size, **block)
    rounds = math.ceil(min(limit or len(rows), len(rows)) / batch_size)
    totals, pending = collections.Counter(), []
    for batch in itertools.islice(batches, rounds):
        pending.append(_sums(model, objective.name, params, jax.tree.map(place, batch)))
        if len(pending) > 1:  # read one batch late: the device does not wait for the host
            totals.update(_floats(pending.pop(0)))
    totals.update(_floats(pending.pop()) if pending else {})
    weight = totals.pop("weight", 0.0)
    if not weight:
        raise ConfigError("the split has no tokens to evaluate on: give more data")
    nats = totals.pop("nll")
    scores = {"loss": nats / weight} | {name: sum_ / weight for name, sum_ in totals.items()}
    if objective.kind in ("text", "pairs"):
        scores["perplexity"] = math.exp(min(scores["loss"], 700.0))
    if isinstance(objective, NextToken):
        seen = rows.bytes * weight / rows.tokens
        scores["bits_per_byte"] = nats / math.log(2) / seen
        scores |= {"tokens": round(weight), "bytes": round(seen)}
    return scores


def loss_by_part(model: Model, params, rows: Rows, *, batch_size: int, objective) -> dict:
    """Returns the loss of each part of a mixture as `loss_PART`; nothing where there is but one.

    Arguments are those of `evaluate`.
    """
    return {
        f"loss_{name}": evaluate(model, params, part, batch_size=batch_size, objective=objective)[
            "loss"
        ]
        for name, part in getattr(rows, "parts", {}).items()
    }


def _floats(sums: dict) -> dict[str, float]:
    return {name: float(value) for name, value in sums.items()}


def placement(params):
    """Returns how a batch reaches the parameters' devices.

    Returns:
      `(place, shards, block)`: what places this process's rows, in how many parts the batch is
      divided, and which block of it is this process's, for `eval_batches`.
    """
    sharding = jax.tree.leaves(params)[0].sharding
    if not isinstance(sharding, NamedSharding):
        return np.asarray, 1, {}
    mesh = sharding.mesh
    place = functools.partial(jax.make_array_from_process_local_data, batch_sharding(mesh))
    return place, math.prod(mesh.shape[axis] for axis in BATCH_AXES), batch_block(mesh)
