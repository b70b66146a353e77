"""A run's model, optimizer, state and step, put together for one mesh."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from llm_jax import models, optim
from llm_jax.losses import registry
from llm_jax.losses.robust import robust_loss
from llm_jax.parallel import mesh as meshes
from llm_jax.parallel.sharding import tree_shardings
from llm_jax.training import state, step, tuning
from llm_jax.training.precision import Policy, policy
from llm_jax.training.run import RunConfig


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What a training program needs, before any array is made.

    Attributes:
      mesh: the devices.
      policy: the precision policy, already active.
      model: its pure functions; while it is trained its projections may be in eight bits besides.
      target: the state as `jax.ShapeDtypeStruct`s with their shardings: what a checkpoint is
        restored into.
      loss: what a step adds up over microbatches, see `llm_jax.training.step.LossFunction`.
      train_step: `(state, batch) -> (state, metrics)`, jitted, the state donated; call it under
        `jax.set_mesh(mesh)`.
      new_state: makes the state at step 0, sharded from the start; with parameters of the
        family's own, in the shapes and shardings of `base`, it begins with these.
      base: these parameters as `jax.ShapeDtypeStruct`s.
      axes: logical axes of the parameters that train.
      params: all parameters of a state for `model`: those that train, or their average where one is
        kept, and those that do not.
    """

    mesh: Mesh
    policy: Policy
    model: models.Model
    target: state.TrainState
    loss: step.LossFunction
    train_step: Callable
    new_state: Callable[..., state.TrainState]
    base: Any
    axes: Any
    params: Callable[[state.TrainState], Any]

    @property
    def trained(self) -> int:
        """Number of parameters that train."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.target.params))


def make_trainer(run: RunConfig, devices: Sequence[jax.Device] | None = None) -> Trainer:
    """Returns the `Trainer` of a run.

    Args:
      run: its configuration.
      devices: of the mesh; None for all of this process's backend. They may be a topology's that
        is not there: no array is made before `new_state`.

    Raises:
      ConfigError: an objective that is not the family's; a mesh that does not fit the devices, the
        batch or the parameters; an optimizer table that does not fit the parameters.
    """
    trains_tokenizer = not (run.data.tokenizer.path or run.init_from)
    registry.check(run.objective, run.model, own_tokenizer=trains_tokenizer)
    numbers = policy(run.precision)
    numbers.activate()
    mesh = meshes.make_mesh(run.mesh, devices)
    meshes.check_batch(mesh, run.batch_size, run.accumulation)
    own = models.build(run.model, run.execution, numbers.dtype)
    model = tuning.applied(own, run)
    outputs = model.head.outputs if model.head else getattr(run.model, "num_classes", 0)
    registry.check_loss(run.objective, run.loss, outputs)
    trained = dataclasses.replace(model, quantization=numbers.quantization)
    freezing = tuning.freezing(model, run)
    shapes, _ = jax.eval_shape(freezing.split, model.abstract_params)
    axes, frozen_axes = freezing.split_axes(model.logical_axes, model.abstract_params)
    optimizer = tuning.optimizer(run, shapes, axes)

    def begin(key, base=None):
        whole = tuning.beginning(model, key, base, new_layers=run.tuning.new_layers)
        params, frozen = freezing.split(whole)
        scaling = trained.new_scaling()
        return state.new_state(
            params,
            optimizer,
            numbers,
            frozen=frozen,
            scaling=scaling,
            averages=run.optim.averages,
        )

    key = jax.random.key(run.seed)
    abstract = jax.eval_shape(begin, key)
    state_axes = optim.state_axes(optimizer, shapes, axes)
    shardings = state.shardings(
        abstract, axes, state_axes, mesh, run.parallel,
        scaling_axes=trained.scaling_axes, frozen_axes=frozen_axes,
    )  # fmt: skip

    def loss(params, batch, dropout_key, scaling=None, frozen=None):
        task = registry.TASKS[run.objective.name]
        scaled = dataclasses.replace(trained, scaling=scaling)
        whole = freezing.join(params, frozen)
        if run.robust.active:
            more = {"config": run.loss, "robust": run.robust}
            return robust_loss(scaled, whole, batch, dropout_key=dropout_key, **more)
        return task.loss(scaled, whole, batch, dropout_key=dropout_key, config=run.loss)

    train_step = step.make_train_step(
        loss,
        optimizer,
        optim.schedule(tuning.rated(run), run.steps),
        seed=run.seed,
        policy=numbers,
        accumulation=run.accumulation,
        newest_share=optim.newest_share(run.optim, run.steps),
        gradient_shardings=tree_shardings(shapes, axes, mesh, run.parallel.rules(2)),
    )
    if getattr(run.objective, "device_augmentation", None):
        train_step = _augmented(train_step, run)
    return Trainer(
        mesh=mesh,
        policy=numbers,
        model=model,
        target=state.placed(abstract, shardings),
        loss=loss,
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, None)),
        new_state=lambda *base: state.create(begin, shardings, mesh, key, *base),
        base=state.placed(
            own.abstract_params,
            tree_shardings(own.abstract_params, own.logical_axes, mesh, run.parallel.rules(3)),
        ),
        axes=axes,
        params=lambda state: freezing.join(
            state.average if run.optim.averages else state.params, state.frozen
        ),
    )


def _augmented(train_step, run: RunConfig):
    """Returns `train_step` with the batch augmented in it, before it is cut into microbatches."""
    augment = run.objective.device_augmentation.in_step

    def whole(state, batch):
        return train_step(state, augment(batch, run.seed, state.step, run.model.num_classes))

    return whole
