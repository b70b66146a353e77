"""Optimizer room, the links of the chains that are the project's own.

Each is an `optax.GradientTransformation`. Moments are float32 whatever the parameters are. Where a
norm or a mean of one tensor is meant, it is taken per layer and not over the stacked axis, so that
stacking the layers changes no result. Corrections `1 - beta**t` are reckoned by expm1: in float32
the plain form is off by 1e-5 at the first steps.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from llm_jax.optim.tables import Layout


class AdamState(NamedTuple):
    """The number of updates done, and the running means of gradient and squared gradient."""

    count: jax.Array
    mean: optax.Updates
    square: optax.Updates


class AdafactorState(NamedTuple):
    """Mean squares of a matrix's rows and of its columns, the reduced axes kept at size 1.

    A vector has its entries' mean squares in `rows` and none in `columns`.
    """

    count: jax.Array
    rows: optax.Updates
    columns: optax.Updates


def per_leaf(function, values: list, *trees):
    """Maps `function(value, *leaves)` over trees, with one value for each leaf of the first."""
    treedef = jax.tree.structure(trees[0])
    columns = [treedef.flatten_up_to(tree) for tree in trees]
    return treedef.unflatten(function(*items) for items in zip(values, *columns, strict=True))


def zeros(params):
    """Returns float32 zeros like `params`."""
    return jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)


def clip(value: float, norm: float) -> optax.GradientTransformation:
    """Gradients as float32, entries limited to [-value, value], then the global norm to `norm`.

    A limit of 0 is off. A gradient that is not finite stays so, for the step to see.
    """

    def update(updates, state, params=None):
        updates = jax.tree.map(lambda g: g.astype(jnp.float32), updates)
        if value:
            updates = jax.tree.map(lambda g: jnp.clip(g, -value, value), updates)
        if norm:
            scale = jnp.minimum(1.0, norm / optax.global_norm(updates))
            updates = jax.tree.map(lambda g: g * scale, updates)
        return updates, state

    return optax.GradientTransformation(optax.init_empty_state, update)


def one_minus_power(beta: float, count) -> jax.Array:
    """1 - beta**count in float32, exact to its last digits."""
    return -jnp.expm1(count.astype(jnp.float32) * math.log(beta)) if beta else jnp.float32(1.0)


def scale_by_adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """Adam's direction m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon), t from 1.

    Kingma & Ba 2015, algorithm 1, with epsilon outside the root as in PyTorch.
    """

    def init(params):
        return AdamState(jnp.zeros((), jnp.int32), zeros(params), zeros(params))

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        first, second = one_minus_power(beta1, count), one_minus_power(beta2, count)
        mean = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mean, updates)
        square = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.square, updates)
        updates = jax.tree.map(
            lambda m, v: (m / first) / (jnp.sqrt(v / second) + epsilon), mean, square
        )
        return updates, AdamState(count, mean, square)

    return optax.GradientTransformation(init, update)


def add_decay(decays: list[float]) -> optax.GradientTransformation:
    """Adds decay * parameter to each leaf's update; in front of the rate: decoupled decay.

    Loshchilov & Hutter 2019, with the decay multiplied by the whole rate as in PyTorch.
    """

    def update(updates, state, params=None):
        def one(decay, u, p):
            return u + decay * p.astype(jnp.float32) if decay else u

        return per_leaf(one, decays, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def scale_by_trust_ratio(layouts: list[Layout]) -> optax.GradientTransformation:
    """Gives each matrix of each layer an update of the parameter's own norm (LAMB, LARS).

    The ratio is |p| / |u|, and 1 where either is zero and for vectors, as in the authors' code.
    You et al. 2020, https://arxiv.org/abs/1904.00962, algorithm 2 with phi(z) = z.
    """

    def one(layout, u, p):
        if not layout.is_matrix:
            return u
        of_parameter, of_update = _norm(p.astype(jnp.float32), layout), _norm(u, layout)
        known = (of_parameter > 0) & (of_update > 0)
        return u * jnp.where(known, of_parameter / jnp.where(known, of_update, 1.0), 1.0)

    def update(updates, state, params=None):
        return per_leaf(one, layouts, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _norm(x, layout: Layout) -> jax.Array:
    return jnp.sqrt(jnp.sum(x * x, axis=layout.within, keepdims=True))


def _rms(x, layout: Layout) -> jax.Array:
    return jnp.sqrt(jnp.mean(x * x, axis=layout.within, keepdims=True))


def scale_by_adafactor(
    rate, layouts: list[Layout], decay_exponent: float, least_scale: float
) -> optax.GradientTransformation:
    """Adafactor's direction, such that `rate` times it is the paper's step.

    Mean squares decay by 1 - t^-decay_exponent and are kept per row and per column for a matrix,
    per entry otherwise; the direction's root mean square is cut at 1; the step is relative to the
    parameter's root mean square, at least `least_scale`, and to min(rate, 1/sqrt(t)).
    Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, algorithms 4 and 5, with the epsilons as
    in `torch.optim.Adafactor`.
    """
    tiny = float(jnp.finfo(jnp.float32).eps)

    def init(params):
        def reduced(p, axes):
            shape = [1 if axis in axes else size for axis, size in enumerate(p.shape)]
            return jnp.zeros(shape, jnp.float32)

        def of_columns(layout, p):
            return reduced(p, layout.rows) if layout.is_matrix else optax.MaskedNode()

        rows = per_leaf(lambda layout, p: reduced(p, layout.columns), layouts, params)
        columns = per_leaf(of_columns, layouts, params)
        return AdafactorState(jnp.zeros((), jnp.int32), rows, columns)

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        new = _float(count) ** -decay_exponent

        def row(layout, g, old):
            seen = jnp.mean(g * g, axis=layout.columns, keepdims=True) if layout.columns else g * g
            return old + new * (seen - old)

        def column(layout, g, old):
            if not layout.is_matrix:
                return old
            return old + new * (jnp.mean(g * g, axis=layout.rows, keepdims=True) - old)

        rows = per_leaf(row, layouts, updates, state.rows)
        columns = per_leaf(column, layouts, updates, state.columns)
        step_rate = rate(state.count)
        cap = jax.lax.rsqrt(_float(count))
        relative = jnp.minimum(step_rate, cap) / jnp.where(step_rate > 0, step_rate, 1.0)

        def direction(layout, g, p, row, column):
            square = row
            if layout.is_matrix:
                mean = jnp.mean(row, axis=layout.rows, keepdims=True)
                square = row * column / jnp.maximum(mean, tiny)
            u = g * jax.lax.rsqrt(jnp.maximum(square, tiny**2))
            u = u / jnp.maximum(1.0, _rms(u, layout))
            scale = jnp.maximum(least_scale, _rms(p.astype(jnp.float32), layout))
            return u * (scale * relative)

        updates = per_leaf(direction, layouts, updates, params, rows, columns)
        return updates, AdafactorState(count, rows, columns)

    return optax.GradientTransformation(init, update)


def _float(count) -> jax.Array:
    return count.astype(jnp.float32)


def scale_by_rate(rate, multipliers: list) -> optax.GradientTransformation:
    """Multiplies each leaf's update by -rate(step) * multiplier; a multiplier may be an array."""

    def init(params):
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        step_rate = -rate(state.count)
        updates = per_leaf(lambda scale, u: u * (step_rate * scale), multipliers, updates)
        return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)
