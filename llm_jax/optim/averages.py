"""Optimizer room, averages of the parameters over a run's updates, which are what it ends with.

Both are `average + share * (parameters - average)` after each update, in float32.
"""

import jax
import jax.numpy as jnp

from llm_jax.optim.config import OptimConfig


def newest_share(config: OptimConfig, total_steps: int):
    """Returns `count -> share`: which part of the average update `count`, from 1, becomes.

    With `ema_decay` it is 1 - min(ema_decay, (1 + count) / (10 + count)), TensorFlow's
    ExponentialMovingAverage with its warm-up. With `swa_start` the parameters after update
    s = floor(swa_start * total_steps) and all later ones count the same (Izmailov et al. 2018,
    arXiv:1803.05407, there once an epoch); before that the average is the newest ones.

    Args:
      config: the optimizer's.
      total_steps: updates in the run.

    Returns:
      a function of an int32 scalar that gives a float32 one; None where nothing is averaged.
    """
    if config.ema_decay:
        return lambda count: jnp.maximum(1.0 - config.ema_decay, 9.0 / (10.0 + count))
    if config.swa_start:
        first = int(config.swa_start * total_steps)
        return lambda count: 1.0 / (1.0 + jnp.maximum(count - first, 0))
    return None


def moved(average, params, share):
    """Returns the average after another update, which gave `params`; leaves stay float32."""
    return jax.tree.map(lambda a, p: a + share * (p - a), average, params)
