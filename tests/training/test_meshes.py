"""One device, or any mesh: the same losses and the same first gradients."""

import functools

import jax
import numpy as np
import pytest

from llm_jax import optim
from llm_jax.losses.language_model import next_token_loss
from llm_jax.models import Execution
from llm_jax.parallel.mesh import MeshConfig, batch_block, make_mesh
from llm_jax.parallel.sharding import ParallelConfig, batch_sharding, tree_shardings
from llm_jax.testing import random_batch, relative_error, tiny_model
from llm_jax.training import loop, state
from llm_jax.training.precision import policy
from llm_jax.training.step import make_train_step

STEPS = 20
OPTIM = optim.OptimConfig(name="adamw", learning_rate=1e-2, warmup_steps=5, clip_norm=1.0)


def train(
    mesh_config, optim_config=OPTIM, *,
    accumulation=1, steps=STEPS, parallel=ParallelConfig(), execution=Execution(),
    **model_changes,
):  # fmt: skip
    """`fit` of a tiny GPT-2."""
    model = tiny_model(execution, dropout_rate=0.1, **model_changes)
    batches = [random_batch(number, batch=16, length=16) for number in range(3)]

    def loss(params, batch, key):
        return next_token_loss(model, params, batch, dropout_key=key)

    settings = {"accumulation": accumulation, "steps": steps, "parallel": parallel}
    return fit(model, loss, batches, mesh_config, optim_config, **settings)


def fit(
    model, loss, batches, mesh_config, optim_config=OPTIM, *,
    accumulation=1, steps=STEPS, parallel=ParallelConfig(),
):  # fmt: skip
    """Returns the losses, the gradient's norm at step 1, the final state and its shardings."""
    mesh = make_mesh(mesh_config)
    axes, shapes = model.logical_axes, model.abstract_params
    optimizer = optim.build(optim_config, shapes, STEPS, axes)

    def init(key):
        return state.new_state(model.init(key), optimizer, policy("fp32"))

    abstract = jax.eval_shape(init, jax.random.key(0))
    state_axes = optim.state_axes(optimizer, shapes, axes)
    shardings = state.shardings(abstract, axes, state_axes, mesh, parallel)
    now = state.create(init, shardings, mesh, jax.random.key(0))
    train_step = jax.jit(
        make_train_step(
            loss,
            optimizer,
            optim.schedule(optim_config, STEPS),
            seed=0,
            policy=policy("fp32"),
            accumulation=accumulation,
            gradient_shardings=tree_shardings(shapes, axes, mesh, parallel.rules(2)),
        ),
        donate_argnums=0,
        out_shardings=(shardings, None),
    )
    numbers = []
    own = batch_block(mesh)

    def part(rows):
        return np.split(rows, own["process_count"])[own["process_index"]]

    feed = (jax.tree.map(part, batches[number % len(batches)]) for number in range(steps))
    with jax.set_mesh(mesh):
        now, _ = loop.fit(
            train_step,
            now,
            loop.place_ahead(feed, batch_sharding(mesh)),
            first=0,
            steps=steps,
            on_metrics=lambda step, metrics: numbers.append(metrics),
        )
    if jax.process_count() == 1:  # `fit` compiles it apart for several
        assert train_step._cache_size() == 1
    return [n["loss"] for n in numbers], numbers[0]["gradient_norm"], now, shardings


@functools.cache
def alone():
    losses, norm, now, _ = train(MeshConfig(data=1))
    return losses, norm, jax.device_get(now.params)


@pytest.mark.parametrize(
    "axes",
    [
        pytest.param({"data": 8}, marks=pytest.mark.slow),
        {"fsdp": 8, "data": 1},
        {"tensor": 2, "data": 4},
        {"data": 2, "fsdp": 2, "tensor": 2},
        {"data": 1, "fsdp": 2, "seq": 2, "tensor": 2},
    ],
    ids=lambda axes: ",".join(f"{name}={size}" for name, size in axes.items()),
)
def test_twenty_steps_with_dropout_equal_one_device(axes):
    losses, norm, _ = alone()
    got, got_norm, now, shardings = train(MeshConfig(**axes))
    assert len(got) == STEPS
    assert got[-1] < got[0] - 0.1
    np.testing.assert_allclose(got, losses, rtol=1e-5)
    assert abs(got_norm - norm) < 1e-5 * norm
    for leaf, sharding in zip(jax.tree.leaves(now), jax.tree.leaves(shardings)):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


@pytest.mark.parametrize(
    ("attention", "axes"), [("ring", {"data": 2, "seq": 4}), ("all_to_all", {"data": 4, "seq": 2})]
)
def test_rows_divided_over_devices_train_as_on_one(attention, axes):
    losses, norm, _ = alone()
    got, got_norm, _, _ = train(MeshConfig(**axes), execution=Execution(attention=attention))
    np.testing.assert_allclose(got, losses, rtol=1e-5)
    assert abs(got_norm - norm) < 1e-5 * norm


def test_the_first_gradient_equals_one_device_on_every_parameter():
    sgd = optim.OptimConfig(name="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.0,
                            clip_norm=0.0, schedule="constant")  # fmt: skip
    expected = jax.device_get(train(MeshConfig(data=1), sgd, steps=1)[2].params)
    for axes in ({"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}):
        got = jax.device_get(train(MeshConfig(**axes), sgd, steps=1)[2].params)
        start = tiny_model().init(jax.random.key(0))
        gradient = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), start, expected)
        other = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), start, got)
        assert relative_error(other, gradient) < 1e-5


def share_on_first(tree):
    """Returns how much of a tree's bytes the first device holds."""
    leaves = jax.tree.leaves(tree)
    shards = [shard for leaf in leaves for shard in leaf.addressable_shards]
    held = sum(shard.data.nbytes for shard in shards if shard.device == jax.devices()[0])
    return held / sum(leaf.nbytes for leaf in leaves)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_each_stage_of_zero_trains_alike_and_shards_what_it_says(zero):
    losses, norm, _ = alone()
    got, got_norm, now, _ = train(
        MeshConfig(data=1, fsdp=8), parallel=ParallelConfig(zero=zero), accumulation=2
    )
    np.testing.assert_allclose(got, losses, rtol=1e-5)
    assert abs(got_norm - norm) < 1e-5 * norm
    for tree, first in ((now.opt_state, 1), (now.params, 3)):
        share = share_on_first(tree)
        assert share < 0.2 if zero >= first else share == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_every_optimizer_trains_on_a_mesh_as_on_one_device(name):
    config = optim.OptimConfig(name=name, learning_rate=1e-3, warmup_steps=2)
    expected = train(MeshConfig(data=1), config, steps=5)[0]
    got = train(MeshConfig(data=2, fsdp=2, tensor=2), config, steps=5)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.slow
def test_accumulation_on_a_mesh_equals_one_device():
    losses, _, _ = alone()
    got = train(MeshConfig(data=2, fsdp=2, tensor=2), accumulation=2)[0]
    np.testing.assert_allclose(got, losses, rtol=1e-5)
