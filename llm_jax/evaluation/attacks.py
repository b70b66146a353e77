"""Attacks: how many texts a classifier still gets right when its inputs are moved against it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.losses.labels import head_outputs, judged
from llm_jax.losses.language_model import LossConfig
from llm_jax.losses.robust import ascend, radii, start, unit


@functools.partial(jax.jit, static_argnums=(0, 4))
def _ascent(model, params, batch, key, steps: int, epsilon, step_size):
    """Returns bool [steps + 1, B]: still right behind each step, the random start counting as 0."""
    radius = radii(model, params, batch, epsilon)
    real = (batch["mask"] > 0)[..., None].astype(jnp.float32)
    shape = (*batch["tokens"].shape, model.config.hidden_size)
    first = radius * unit(start(key, batch, shape, jax.random.normal) * real)

    def harm(now):
        outputs = head_outputs(model, params, batch, None, now)
        loss = judged(outputs, batch, LossConfig())[0][0]
        return loss, jnp.argmax(outputs, axis=-1) == batch["labels"]

    def step(now, _):
        gradient, right = jax.grad(harm, has_aux=True)(now)
        return ascend(now, gradient * real, radius, step_size), right

    last, right = jax.lax.scan(step, first, None, length=steps)
    return jnp.concatenate([right, harm(last)[1][None]])


def attack_word_vectors(
    model, params, rows, *, epsilon: float, steps: int = 20, restarts: int = 3, seed: int = 0,
    batch_size: int = 32, limit: int = 0,
) -> dict:  # fmt: skip
    """Returns the accuracy under projected gradient ascent (Madry et al. 2018, arXiv:1706.06083).

    The word vectors of a text move within an L2 ball, see `llm_jax.losses.robust.RobustConfig`. A
    text counts as wrong once any point of any restart is taken for another class; what is wrong is
    not tried again.

    Args:
      model, params: with a head of classes, on one device.
      rows: labelled texts with one class each.
      epsilon: radius, as a share of the norm of a text's word vectors.
      steps: of each restart, of 2.5 / steps of the radius.
      restarts: random starts, on the ball.
      seed: of the starts.
      batch_size: texts at a time.
      limit: so many first rows; 0: all.

    Returns:
      `rows`, `accuracy`, `accuracy_under_attack`, and `by_step`, the accuracy of the first restart
      behind 0 (the unmoved text) .. `steps` steps: it is flat at its end where more steps would
      find little more.

    Raises:
      ConfigError: `epsilon`, `steps`, `restarts` or `batch_size` is not positive, or the rows have
        no classes.
    """
    for name, value in (
        ("epsilon", epsilon), ("steps", steps), ("restarts", restarts), ("batch_size", batch_size),
    ):  # fmt: skip
        if not value > 0:
            raise ConfigError(f"{name} is {value}: give more than 0")
    labels = np.asarray(rows.labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ConfigError("the data have no single class for each text, which this attack needs")
    count = min(limit or len(rows), len(rows))
    clean = _over(
        lambda batch: _right(model, params, batch), rows, np.arange(count), batch_size, 1
    )[0]  # fmt: skip
    left, curve = np.flatnonzero(clean), None
    for restart in range(restarts):
        key = jax.random.fold_in(jax.random.key(seed), restart)
        right = _over(
            lambda batch, key=key: _ascent(model, params, batch, key, steps, epsilon, 2.5 / steps),
            rows, left, batch_size, steps + 1,
        )  # fmt: skip
        right = np.logical_and.accumulate(right, axis=0)
        if curve is None:
            # The start stands for no step of its own: what it fools, the first step has.
            curve = [float(clean.mean()), *(right[1:].sum(axis=1) / count).tolist()]
        left = left[right[-1]]
    return {
        "rows": count,
        "accuracy": float(clean.mean()),
        "accuracy_under_attack": len(left) / count,
        "by_step": curve,
    }


@functools.partial(jax.jit, static_argnums=0)
def _right(model, params, batch):
    return (jnp.argmax(head_outputs(model, params, batch), axis=-1) == batch["labels"])[None]


def _over(judge, rows, indices, batch_size: int, count: int) -> np.ndarray:
    """Returns bool [count, n] of `judge`, batch by batch; the last one is filled up."""
    found = [np.zeros((count, 0), bool)]
    for first in range(0, len(indices), batch_size):
        own = indices[first : first + batch_size]
        filled = np.concatenate([own, np.full(batch_size - len(own), -1)])
        batch = rows.take(filled) | {"example_ids": np.maximum(filled, 0).astype(np.int32)}
        read = ("tokens", "mask", "token_types", "labels", "weights", "example_ids")
        batch = {name: batch[name] for name in read if name in batch}
        found.append(np.asarray(judge(batch))[:, : len(own)])
    return np.concatenate(found, axis=1)
