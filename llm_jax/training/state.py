"""The state of a training run: what a step takes and gives back, and what a checkpoint holds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from llm_jax.parallel.sharding import ParallelConfig, tree_shardings
from llm_jax.training.precision import INITIAL_SCALE, Policy


class TrainState(NamedTuple):
    """Everything that changes from step to step.

    Attributes:
      step: int32 scalar, steps taken (skipped ones included: each uses up a batch).
      params: fp32 parameters that train.
      opt_state: the optax state.
      loss_scale: fp32 scalar; 1 unless the policy scales the loss.
      good_steps: int32 scalar, finite steps since the scale last changed.
      skipped: int32 scalar, steps skipped for a gradient that was not finite, in all.
      skipped_in_a_row: int32 scalar, the same since the last finite step.
      scaling: the memory of fp8's scales, see `llm_jax.kernels.quantized`; None elsewhere.
      frozen: parameters that stay as they are, see `llm_jax.training.tuning`; None where all train.
        A checkpoint has them not.
      average: of the parameters that train, see `llm_jax.optim.averages`; None where none is kept.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    loss_scale: jax.Array
    good_steps: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array
    scaling: Any = None
    frozen: Any = None
    average: Any = None


def new_state(
    params,
    optimizer: optax.GradientTransformation,
    policy: Policy,
    *,
    frozen=None,
    scaling=None,
    averages: bool = False,
) -> TrainState:
    """Returns the state at step 0; `frozen` and `scaling` as of `TrainState`. Made for jit.

    With `averages` the average begins as a copy of the parameters.
    """
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        loss_scale=jnp.float32(INITIAL_SCALE if policy.scales_loss else 1.0),
        good_steps=jnp.int32(0),
        skipped=jnp.int32(0),
        skipped_in_a_row=jnp.int32(0),
        scaling=scaling,
        frozen=frozen,
        average=jax.tree.map(jnp.copy, params) if averages else None,
    )


def shardings(
    abstract: TrainState,
    parameter_axes,
    optimizer_axes,
    mesh: Mesh,
    parallel: ParallelConfig = ParallelConfig(),
    scaling_axes=None,
    frozen_axes=None,
) -> TrainState:
    """Returns where every leaf of the state `abstract` lies on `mesh`.

    Args:
      abstract: the state as `jax.ShapeDtypeStruct`s.
      parameter_axes: logical axis names of the parameters' leaves.
      optimizer_axes: the same of the optimizer state's.
      mesh: the device mesh.
      parallel: says which of them are sharded over `fsdp`.
      scaling_axes, frozen_axes: as `parameter_axes`, of the memory of scales and of what does not
        train.
    """
    bare = abstract._replace(params=(), frozen=())
    axes = jax.tree.map(lambda _: (), bare._replace(opt_state=()))
    # The average is touched where the optimizer's state is, and lies as that does.
    average_axes = None if abstract.average is None else parameter_axes
    axes = axes._replace(opt_state=optimizer_axes, scaling=scaling_axes, average=average_axes)
    rest = tree_shardings(bare, axes, mesh, parallel.rules(1))

    def whole(shapes, axes):
        return tree_shardings(shapes, axes, mesh, parallel.rules(3))

    frozen = None if frozen_axes is None else whole(abstract.frozen, frozen_axes)
    return rest._replace(params=whole(abstract.params, parameter_axes), frozen=frozen)


def placed(abstract, shardings):
    """Returns `abstract`, any tree, with its shardings, as a target to restore into."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def create(
    init: Callable[..., TrainState], state_shardings: TrainState, mesh: Mesh, *inputs
) -> TrainState:
    """Returns `init(*inputs)`, made shard by shard inside jit: nothing is whole on one device."""
    with jax.set_mesh(mesh):
        return jax.jit(init, out_shardings=state_shardings)(*inputs)
