"""The evaluation room's first measure: perplexity of a whole split, in batches of one shape."""

import functools
import itertools
import math

import jax
import numpy as np
from jax.sharding import NamedSharding

from llm_jax.configuration import ConfigError
from llm_jax.data import TokenRows, eval_batches
from llm_jax.losses.language_model import next_token_loss
from llm_jax.models import Model
from llm_jax.parallel.mesh import BATCH_AXES
from llm_jax.parallel.sharding import batch_sharding


@functools.partial(jax.jit, static_argnums=0)
def _sums(model: Model, params, batch):
    """Returns `(nats, tokens)` of a batch: float32 sums, of weighted loss and of weights."""
    (_, weight), sums = next_token_loss(model, params, batch)
    return sums["nll"], weight


def evaluate(
    model: Model,
    params,
    rows: TokenRows,
    *,
    batch_size: int,
    limit: int | None = None,
) -> dict:
    """Returns loss, perplexity and bits per byte of `rows`, every row once.

    The loss is the plain cross-entropy of the next token, whatever smoothing a run trained with.
    Batches are summed in float32 on the device and added in float64 on the host.

    Args:
      model: a model of pure functions.
      params: its parameters, on any mesh; where one has `data` or `fsdp` axes, the batch is split
        over them (call it under `jax.set_mesh` then).
      rows: the split's packed rows.
      batch_size: rows per batch, rounded up to what the mesh divides; the last batch is filled up
        with rows of weight 0.
      limit: only the first so many rows, rounded up to whole batches; None or 0 for all.

    Returns:
      `loss` (nats per token), `perplexity`, `bits_per_byte` (total nats / ln 2 / UTF-8 bytes),
      `tokens` and `bytes`. With a limit the bytes are the split's share of the tokens seen.

    Raises:
      ConfigError: `batch_size` below 1, or rows without a token.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}: give 1 or more")
    if rows.tokens < 1:
        raise ConfigError("the split has no tokens to evaluate on: give more text")
    place, shards = _placement(params)
    batch_size = math.ceil(batch_size / shards) * shards
    batches = eval_batches(
        rows,
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    rounds = math.ceil(min(limit or len(rows), len(rows)) / batch_size)
    nats, tokens, pending = 0.0, 0.0, []
    for batch in itertools.islice(batches, rounds):
        pending.append(_sums(model, params, jax.tree.map(place, batch)))
        if len(pending) > 1:  # read one batch late: the device does not wait for the host
            nats, tokens = _add(nats, tokens, pending.pop(0))
    nats, tokens = _add(nats, tokens, pending.pop())
    loss = nats / tokens
    share = tokens / rows.tokens
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": nats / math.log(2) / (rows.bytes * share),
        "tokens": round(tokens),
        "bytes": round(rows.bytes * share),
    }


def _add(nats: float, tokens: float, sums) -> tuple[float, float]:
    return nats + float(sums[0]), tokens + float(sums[1])


def _placement(params):
    """Returns `(place, shards)`: how a batch reaches the parameters' devices, in how many parts."""
    sharding = jax.tree.leaves(params)[0].sharding
    if not isinstance(sharding, NamedSharding):
        return np.asarray, 1
    mesh = sharding.mesh
    place = functools.partial(jax.make_array_from_process_local_data, batch_sharding(mesh))
    return place, math.prod(mesh.shape[axis] for axis in BATCH_AXES)
