"""How the loss goes along a row: tokens that have more behind them are easier to predict.

Beyond the length that a model was trained at this shows whether it reads its context at all.
"""

import functools
import math

import jax
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data import eval_batches
from llm_jax.evaluation.perplexity import placement
from llm_jax.losses.cross_entropy import cross_entropy_from_hidden
from llm_jax.models import Model


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sums(model: Model, width: int, params, batch):
    """Returns float32 [2, ranges]: nats and weights of a batch."""
    inputs = {name: batch.get(name) for name in ("positions", "segment_ids")}
    hidden, _ = model.hidden(params, batch["tokens"], **inputs)
    sums = []
    for start in range(0, hidden.shape[1], width):
        part = slice(start, start + width)
        _, weight, nats = cross_entropy_from_hidden(
            hidden[:, part],
            model.output_embedding(params),
            batch["targets"][:, part],
            batch["weights"][:, part],
            vocab_size=model.config.vocab_size,
            logit_cap=model.logit_cap,
            chunk=model.execution.loss_chunk,
        )
        sums.append((nats, weight))
    return jax.numpy.asarray(sums).T


def loss_by_position(model: Model, params, rows, *, batch_size: int, width: int) -> dict:
    """Returns the loss, in nats per token, of every `width` tokens along the rows.

    Args:
      model: a decoder.
      params: its parameters, on a mesh (call it under `jax.set_mesh` then).
      rows: a split's packed rows.
      batch_size: rows per batch, rounded up to what the mesh divides.
      width: tokens of a range; it divides the rows' length.

    Returns:
      by range, "0-255" and so on, the mean over its tokens; None where it has no token.

    Raises:
      ConfigError: `width` does not divide the rows' length.
    """
    length = rows.sequence_length
    if width < 1 or length % width:
        raise ConfigError(f"a range of {width} tokens does not divide rows of {length}: change it")
    place, shards, block = placement(params)
    sums = np.zeros((2, length // width))
    batches = eval_batches(rows, batch_size=math.ceil(batch_size / shards) * shards, **block)
    for batch in batches:
        placed = jax.tree.map(place, batch)
        sums += np.asarray(_sums(model, width, params, placed), np.float64)
    nats, weights = sums
    return {
        f"{i * width}-{(i + 1) * width - 1}": float(nats[i] / weights[i]) if weights[i] else None
        for i in range(len(nats))
    }
