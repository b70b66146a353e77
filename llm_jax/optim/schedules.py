"""Optimizer room, schedules: the learning rate as a pure function of the step.

A schedule is a shape (a fraction of the peak, made from the config and the run's length) behind a
linear warm-up. Step s is the s-th update counted from 0. A decay reaches its end at
`s == total_steps`, so that the last update, `total_steps - 1`, still moves.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.optim.config import OptimConfig

Rate = Callable[[jax.typing.ArrayLike], jax.Array]


def schedule(config: OptimConfig, total_steps: int) -> Rate:
    """Returns the function from a step to its learning rate.

    The function takes an int or an integer array of any shape, traced or not, and returns float32
    of that shape. In a warm-up of W steps the rate is (s + 1) / (W + 1) of the schedule's value at
    W, so that the first update is not lost; from `total_steps` on it stays at its last value.

    Sources: cosine and cosine_restarts, Loshchilov & Hutter 2017 (SGDR); inverse_sqrt, Vaswani et
    al. 2017; wsd, Hu et al. 2024 (MiniCPM), its "sqrt" decay Hägele et al. 2024; triangular, Smith
    2017; one_cycle, Smith & Topin 2018, two cosine halves as in PyTorch.

    Raises:
      ConfigError: the run has no step, or is too short for the warm-up, the decay or the cycles.
    """
    warmup = config.warmup_steps
    if total_steps < 1:
        raise ConfigError(f"steps is {total_steps}: a schedule needs at least 1")
    if warmup > total_steps:
        raise ConfigError(
            f"optim.warmup_steps is {warmup} in a run of {total_steps} steps: "
            "give fewer warm-up steps or a longer run"
        )
    shape = _SHAPES[config.schedule](config, total_steps)
    peak = config.learning_rate

    def rate(step):
        step = jnp.asarray(step)
        fraction = shape(step)
        if warmup and config.schedule != "one_cycle":
            rise = _float(step + 1) / (warmup + 1)
            fraction = jnp.where(step < warmup, rise * shape(jnp.asarray(warmup)), fraction)
        return jnp.float32(peak) * fraction

    return rate


def _float(step) -> jax.Array:
    return step.astype(jnp.float32)


def _progress(step, start: int, stop: int) -> jax.Array:
    """0 up to `start`, 1 from `stop` on, linear between."""
    return jnp.clip(_float(step - start) / max(stop - start, 1), 0.0, 1.0)


def _fall(progress, shape: str) -> jax.Array:
    """From 1 at progress 0 to exactly 0 at progress 1."""
    if shape == "cosine":
        return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    if shape == "sqrt":
        return 1.0 - jnp.sqrt(progress)
    return 1.0 - progress


def _between(low: float, high: float, share) -> jax.Array:
    return low + (high - low) * share


def _constant(config, total_steps):
    return lambda step: jnp.ones(step.shape, jnp.float32)


def _decay(shape: str):
    def make(config, total_steps):
        def fraction(step):
            progress = _progress(step, config.warmup_steps, total_steps)
            return _between(config.final_fraction, 1.0, _fall(progress, shape))

        return fraction

    return make


def _polynomial(config, total_steps):
    def fraction(step):
        progress = _progress(step, config.warmup_steps, total_steps)
        return _between(config.final_fraction, 1.0, (1.0 - progress) ** config.power)

    return fraction


def _inverse_sqrt(config, total_steps):
    timescale = config.timescale or max(config.warmup_steps, 1)

    def fraction(step):
        after = jnp.clip(step - config.warmup_steps, 0, total_steps - config.warmup_steps)
        return jax.lax.rsqrt(1.0 + _float(after) / timescale)

    return fraction


def _piecewise(config, total_steps):
    if not config.piecewise:
        raise ConfigError("optim.piecewise is empty: give pairs (share of the run, fraction)")
    starts = np.array([round(share * total_steps) for share, _ in config.piecewise])
    values = jnp.array([1.0, *(value for _, value in config.piecewise)], jnp.float32)
    return lambda step: values[jnp.searchsorted(starts, step, side="right")]


def _wsd(config, total_steps):
    start = total_steps - round(config.decay_fraction * total_steps)
    if start < config.warmup_steps:
        raise ConfigError(
            f"optim.warmup_steps {config.warmup_steps} and the last {total_steps - start} of "
            f"{total_steps} steps, optim.decay_fraction, overlap: make one of them smaller"
        )

    def fraction(step):
        share = _fall(_progress(step, start, total_steps), config.decay_shape)
        return _between(config.final_fraction, 1.0, share)

    return fraction


def _one_cycle(config, total_steps):
    peak = config.warmup_steps
    if not 0 < peak < total_steps:
        raise ConfigError(
            f"optim.warmup_steps is {peak} of {total_steps} steps: one_cycle rises over them, "
            f"give for instance {max(1, round(0.3 * total_steps))}"
        )

    def fraction(step):
        rise = _between(1.0, config.start_fraction, _fall(_progress(step, 0, peak), "cosine"))
        fall = _fall(_progress(step, peak, total_steps), "cosine")
        return jnp.where(step < peak, rise, _between(config.final_fraction, 1.0, fall))

    return fraction


def _cyclic(height):
    """Cycles that fill the steps after the warm-up; `height` is a cycle's shape over [0, 1]."""

    def make(config, total_steps):
        # Whole-numbered bounds, reckoned here: a restart then falls on its step in any precision.
        weights = config.cycle_growth ** np.arange(config.cycles)
        ends = np.cumsum(weights) / weights.sum() * (total_steps - config.warmup_steps)
        bounds = config.warmup_steps + np.concatenate([[0], np.round(ends)]).astype(np.int32)
        lengths = np.diff(bounds)
        if lengths.min() < 2:
            raise ConfigError(
                f"optim.cycles is {config.cycles}, the shortest of {lengths.min()} steps: "
                "give fewer cycles, a smaller optim.cycle_growth or a longer run"
            )
        starts, lengths = jnp.array(bounds[:-1]), jnp.array(lengths)
        peaks = jnp.array(config.cycle_decay ** np.arange(config.cycles), jnp.float32)

        def fraction(step):
            cycle = jnp.maximum(jnp.searchsorted(starts, step, side="right") - 1, 0)
            within = _float(step - starts[cycle]) / _float(lengths[cycle])
            share = peaks[cycle] * height(jnp.clip(within, 0.0, 1.0))
            return _between(config.final_fraction, 1.0, share)

        return fraction

    return make


_SHAPES = {
    "constant": _constant,
    "linear": _decay("linear"),
    "cosine": _decay("cosine"),
    "polynomial": _polynomial,
    "inverse_sqrt": _inverse_sqrt,
    "piecewise": _piecewise,
    "wsd": _wsd,
    "triangular": _cyclic(lambda within: 1.0 - jnp.abs(2.0 * within - 1.0)),
    "cosine_restarts": _cyclic(lambda within: _fall(within, "cosine")),
    "one_cycle": _one_cycle,
}
