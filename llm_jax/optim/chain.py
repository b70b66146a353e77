"""Optimizer room, the chains: an `OptimConfig` as one optax transformation.

Every chain is: clip -> the optimizer's direction -> weight decay -> rate and multipliers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llm_jax.configuration import ConfigError
from llm_jax.optim import muon, transforms
from llm_jax.optim.config import OptimConfig
from llm_jax.optim.schedules import schedule
from llm_jax.optim.tables import Layout, layouts, match, paths


def build(
    config: OptimConfig, params_abstract, total_steps: int, logical_axes
) -> optax.GradientTransformation:
    """Returns the optimizer: `init(params) -> state`, `update(gradients, state, params)`.

    Updates are float32 and are to be added to the parameters (`optax.apply_updates` keeps their
    dtype). The state holds float32 moments and int32 counts only; see `state_axes` to shard it.

    Args:
      config: which optimizer, rate, decay and limits.
      params_abstract: nested dicts of arrays or `jax.ShapeDtypeStruct`.
      total_steps: updates in the run; the schedule is fitted to them.
      logical_axes: a pytree like the parameters with a tuple of axis names per leaf; tells stacked
        layers from rows and columns (`tables.layouts`).

    Raises:
      ConfigError: a schedule that does not fit the run, a table that does not fit the parameters,
        or a layer-wise decay where no parameter has layers.
    """
    rate = schedule(config, total_steps)
    shapes = layouts(params_abstract, logical_axes)
    decays = _decays(config, params_abstract, shapes)
    multipliers = _multipliers(config, params_abstract, logical_axes)
    return optax.chain(
        transforms.clip(config.clip_value, config.clip_norm),
        *_DIRECTIONS[config.name](config, rate, shapes, decays),
        transforms.scale_by_rate(rate, multipliers),
    )


def _adamw(config, rate, shapes, decays):
    return transforms.scale_by_adam(*config.moments), transforms.add_decay(decays)


def _lamb(config, rate, shapes, decays):
    return *_adamw(config, rate, shapes, decays), transforms.scale_by_trust_ratio(shapes)


def _lion(config, rate, shapes, decays):
    beta1, beta2, _ = config.moments
    return optax.scale_by_lion(beta1, beta2, mu_dtype=jnp.float32), transforms.add_decay(decays)


def _adafactor(config, rate, shapes, decays):
    _, exponent, least_scale = config.moments
    direction = transforms.scale_by_adafactor(rate, shapes, exponent, least_scale)
    return direction, transforms.add_decay(decays)


def _sgd(config, rate, shapes, decays):
    momentum, nesterov = config.velocity
    decay = transforms.add_decay(decays)
    if not momentum:
        return (decay,)
    return decay, optax.trace(momentum, nesterov, accumulator_dtype=jnp.float32)


def _muon(config, rate, shapes, decays):
    momentum, nesterov = config.velocity
    beta1, beta2, epsilon = config.moments
    direction = muon.scale_by_muon(
        shapes,
        momentum=momentum,
        nesterov=nesterov,
        scale=config.muon_scale,
        steps=config.newton_schulz_steps,
        method=config.newton_schulz,
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
    )
    return direction, transforms.add_decay(decays)


_DIRECTIONS = {
    "adamw": _adamw,
    "lamb": _lamb,
    "lion": _lion,
    "adafactor": _adafactor,
    "sgd": _sgd,
    "muon": _muon,
}


def _decays(config: OptimConfig, params, shapes: list[Layout]) -> list[float]:
    """The weight decay of each leaf."""
    if config.weight_decay_table is None:
        shares = [float(layout.is_matrix) for layout in shapes]
    else:
        shares = match(config.weight_decay_table, paths(params), "optim.weight_decay_table")
    return [config.weight_decay * share for share in shares]


def _multipliers(config: OptimConfig, params, logical_axes) -> list:
    """The rate's multiplier of each leaf: a float, or float32 [L, 1, ...] with a layer-wise decay.

    With L layers, layer i has layer_decay^(L - 1 - i), parameters below them layer_decay^L, and
    those above them 1. ELECTRA (Clark et al. 2020) and BEiT count so.
    """
    names = paths(params)
    table = config.learning_rate_table or ((".*", 1.0),)
    values = match(table, names, "optim.learning_rate_table")
    if config.layer_decay == 1.0:
        return values
    leaves, treedef = jax.tree.flatten(params)
    axes = treedef.flatten_up_to(logical_axes)
    depths = {p.shape[0] for p, name in zip(leaves, axes) if name and name[0] == "layers"}
    if len(depths) != 1:
        raise ConfigError(
            f"optim.layer_decay is {config.layer_decay} over stacks of {sorted(depths)} layers: "
            "it needs one depth; set it to 1 and use optim.learning_rate_table"
        )
    (depth,) = depths
    lowest = below(config.layer_decay_bottom, params)
    falling = config.layer_decay ** np.arange(depth - 1, -1, -1, dtype=np.float64)
    scaled = []
    for value, leaf, name, is_below in zip(values, leaves, axes, lowest, strict=True):
        if name and name[0] == "layers":
            layers = falling.reshape(depth, *[1] * (leaf.ndim - 1))
            scaled.append((value * layers).astype(np.float32))
        else:
            scaled.append(value * config.layer_decay**depth if is_below else value)
    return scaled


def below(pattern: str, params) -> list[bool]:
    """Returns of each leaf whether its path matches `pattern`, that of `layer_decay_bottom`."""
    values = match(((pattern, 1.0), (".*", 0.0)), paths(params), "optim.layer_decay_bottom")
    return [bool(value) for value in values]
