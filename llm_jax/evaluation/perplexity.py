"""Perplexity: a whole split once, in batches of one shape."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from llm_jax.data import TokenRows, eval_batches
from llm_jax.losses.language_model import next_token_loss
from llm_jax.models import Model


@functools.partial(jax.jit, static_argnums=0)
def _sums(model: Model, params, batch):
    (_, weight), sums = next_token_loss(model, params, batch)
    return sums["nll"], weight


def evaluate(
    model: Model, params, rows: TokenRows, *, batch_size: int, limit: int | None = None
) -> dict[str, float]:
    """Returns loss, perplexity and bits per byte of `rows`, every row once.

    Args:
      model: a model of pure functions.
      params: its parameters, on any mesh.
      rows: the split's packed rows.
      batch_size: rows per batch; the last batch is filled up with rows of weight 0.
      limit: only about the first so many rows; None or 0 for all.

    Returns:
      `loss` (nats per token), `perplexity`, `bits_per_byte` (total nats / ln 2 / UTF-8 bytes),
      `tokens` and `bytes`. With a limit the bytes are the split's share of the tokens seen.
    """
    rounds = math.ceil((limit or len(rows)) / batch_size)
    place = _placement(params)
    pending, nats, tokens = None, 0.0, 0.0
    for _, batch in zip(range(rounds), eval_batches(rows, batch_size=batch_size)):
        sums = _sums(model, params, {name: place(value) for name, value in batch.items()})
        if pending is not None:
            nats, tokens = nats + float(pending[0]), tokens + float(pending[1])
        pending = sums
    nats, tokens = nats + float(pending[0]), tokens + float(pending[1])
    size = rows.bytes * tokens / rows.tokens
    loss = nats / tokens
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": nats / math.log(2) / size,
        "tokens": round(tokens),
        "bytes": round(size),
    }


def _placement(params):
    sharding = jax.tree.leaves(params)[0].sharding
    if not isinstance(sharding, NamedSharding):
        return jnp.asarray
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    return lambda value: jax.device_put(value, everywhere)
