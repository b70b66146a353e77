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
      params: fp32 parameters.
      opt_state: the optax state.
      loss_scale: fp32 scalar; 1 unless the policy scales the loss.
      good_steps: int32 scalar, finite steps since the scale last changed.
      skipped: int32 scalar, steps skipped for a gradient that was not finite, in all.
      skipped_in_a_row: int32 scalar, the same since the last finite step.
      scaling: the memory of fp8's scales, see `llm_jax.kernels.quantized`; None elsewhere.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    loss_scale: jax.Array
    good_steps: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array
    scaling: Any = None


def new_state(
    init: Callable[[jax.Array], Any],
    optimizer: optax.GradientTransformation,
    policy: Policy,
    key: jax.Array,
    new_scaling: Callable[[], Any] = lambda: None,
) -> TrainState:
    """Returns the state at step 0, its parameters `init(key)`. Pure: made to run under jit."""
    params = init(key)
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        loss_scale=jnp.float32(INITIAL_SCALE if policy.scales_loss else 1.0),
        good_steps=jnp.int32(0),
        skipped=jnp.int32(0),
        skipped_in_a_row=jnp.int32(0),
        scaling=new_scaling(),
    )


def shardings(
    abstract: TrainState,
    parameter_axes,
    optimizer_axes,
    mesh: Mesh,
    parallel: ParallelConfig = ParallelConfig(),
    scaling_axes=None,
) -> TrainState:
    """Returns where every leaf of the state `abstract` lies on `mesh`.

    Args:
      abstract: the state as `jax.ShapeDtypeStruct`s.
      parameter_axes: logical axis names of the parameters' leaves.
      optimizer_axes: the same of the optimizer state's.
      mesh: the device mesh.
      parallel: says which of them are sharded over `fsdp`.
      scaling_axes: as `parameter_axes`, of the memory of scales.
    """
    axes = jax.tree.map(lambda _: (), abstract._replace(params=(), opt_state=()))
    axes = axes._replace(opt_state=optimizer_axes, scaling=scaling_axes)
    rest = tree_shardings(abstract._replace(params=()), axes, mesh, parallel.rules(1))
    params = tree_shardings(abstract.params, parameter_axes, mesh, parallel.rules(3))
    return rest._replace(params=params)


def placed(abstract, shardings):
    """Returns `abstract`, any tree, with its shardings, as a target to restore into."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def create(
    init: Callable[[jax.Array], TrainState], key: jax.Array, state_shardings: TrainState, mesh: Mesh
) -> TrainState:
    """Returns `init(key)`, made shard by shard inside jit: nothing is ever whole on one device."""
    with jax.set_mesh(mesh):
        return jax.jit(init, out_shardings=state_shardings)(key)
