"""What a model with a head says of every example of a split."""

import functools
import itertools

import jax
import numpy as np

from llm_jax.data import Rows, eval_batches
from llm_jax.evaluation.perplexity import placement
from llm_jax.models import Model


@functools.partial(jax.jit, static_argnums=0)
def _read(model: Model, params, tokens, mask):
    return model.read(params, tokens, mask)


def outputs(model: Model, params, rows: Rows, *, batch_size: int) -> np.ndarray:
    """Returns what the head gives for `rows`, in their order: float32 [n, outputs].

    Args:
      model: with a head.
      params: its parameters; on a mesh of several processes each has its own part of a batch.
      rows: of labelled texts.
      batch_size: rows per batch, rounded up to what the mesh divides.
    """
    place, shards, block = placement(params)
    batch_size = -(-batch_size // shards) * shards
    rounds = -(-len(rows) // batch_size)
    found, pending = [], None
    for batch in itertools.islice(eval_batches(rows, batch_size=batch_size, **block), rounds):
        taken = _read(model, params, place(batch["tokens"]), place(batch["mask"]))
        if pending is not None:  # one batch late: the device does not wait for the host
            found.append(_whole(pending))
        pending = taken
    found.append(_whole(pending))
    return np.concatenate(found)[: len(rows)]


def _whole(array) -> np.ndarray:
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
