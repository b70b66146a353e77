"""One training step: microbatches, gradients, the update, and what it reports."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from llm_jax.kernels.quantized import aged
from llm_jax.optim import averages
from llm_jax.training.precision import Policy, next_scale
from llm_jax.training.state import TrainState

# (params, microbatch, dropout_key) -> ((loss_sum, weight), further sums by name); it is given
# the state's `scaling` and `frozen` as well, by these names, where they are not None.
LossFunction = Callable[..., tuple[tuple[jax.Array, jax.Array], dict[str, jax.Array]]]


def make_train_step(
    loss_function: LossFunction,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    seed: int,
    policy: Policy,
    accumulation: int = 1,
    gradient_shardings=None,
    newest_share: Callable | None = None,
):
    """Returns `train_step(state, batch) -> (state, metrics)`, a pure function to be jitted.

    The gradient is that of sum(losses) / sum(weights) over the whole batch: microbatches add
    both and the step divides once, so `accumulation` changes memory and nothing else. A step
    whose loss or gradient is not finite leaves parameters, average and optimizer state as they
    were.

    Args:
      loss_function: gives `((loss_sum, weight), sums)` for a microbatch; `sums` (by name, may be
        empty) are added over microbatches and divided by the weight as well.
      optimizer: the optax transformation, learning rate included.
      schedule: the learning rate by step, to report it.
      seed: of the run; dropout draws from `fold_in(key(seed), step)`.
      policy: the precision policy.
      accumulation: microbatches per step; it divides the batch.
      gradient_shardings: where gradients lie, a tree like the parameters; None leaves it open.
      newest_share: of `llm_jax.optim`: how the state's average moves; None: it has none.

    Metrics are fp32 scalars: loss, weight, learning_rate, gradient_norm, skipped,
    skipped_in_a_row, loss_scale (where the policy scales) and those of `sums`.
    """

    def scaled_loss(variables, microbatch, key, scale, frozen):
        params, scaling = variables
        given = {"scaling": scaling, "frozen": frozen}
        more = {name: value for name, value in given.items() if value is not None}
        (loss, weight), sums = loss_function(params, microbatch, key, **more)
        return loss * scale, {"loss": loss, "weight": weight, **sums}

    def gradient(*inputs):
        (grads, counts), sums = jax.grad(scaled_loss, has_aux=True)(*inputs)
        if gradient_shardings is not None:
            grads = jax.lax.with_sharding_constraint(grads, gradient_shardings)
        return (grads, counts), sums

    def accumulate(variables, batch, *rest):
        if accumulation == 1:
            return gradient(variables, batch, *rest)
        parts = jax.tree.map(lambda x: _split(x, accumulation), batch)
        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(gradient, variables, first, *rest)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def add(sums, microbatch):
            return jax.tree.map(jnp.add, sums, gradient(variables, microbatch, *rest)), None

        return jax.lax.scan(add, zeros, parts)[0]

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        variables = state.params, state.scaling
        (grads, counts), sums = accumulate(variables, batch, key, state.loss_scale, state.frozen)
        weight = jnp.maximum(sums["weight"], 1e-8)
        grads = jax.tree.map(lambda g: g / (weight * state.loss_scale), grads)
        norm = optax.global_norm(grads)
        loss = sums["loss"] / weight
        finite = jnp.isfinite(norm) & jnp.isfinite(loss)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        def keep(new, old):
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        average = state.average
        if newest_share is not None:
            share = newest_share(state.step - state.skipped + 1)
            average = averages.moved(average, params, share)

        scale, good_steps = state.loss_scale, state.good_steps
        if policy.scales_loss:
            scale, good_steps = next_scale(scale, good_steps, finite)
        new = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            opt_state=keep(opt_state, state.opt_state),
            loss_scale=scale,
            good_steps=good_steps,
            skipped=state.skipped + ~finite,
            skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
            scaling=keep(jax.tree.map(aged, state.scaling, counts), state.scaling),
            frozen=state.frozen,
            average=keep(average, state.average),
        )
        metrics = {name: value / weight for name, value in sums.items()} | {
            "weight": sums["weight"],
            "learning_rate": schedule(state.step - state.skipped),  # skipped steps do not count
            "gradient_norm": norm,
            "skipped": new.skipped,
            "skipped_in_a_row": new.skipped_in_a_row,
        }
        if policy.scales_loss:
            metrics["loss_scale"] = state.loss_scale
        return new, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), metrics)

    return train_step


def _split(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] to [parts, B/parts, ...], taking every `parts`-th row.

    Neighbouring rows go to different microbatches, so that a batch sharded over devices splits
    without moving a row to another device.
    """
    return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)
