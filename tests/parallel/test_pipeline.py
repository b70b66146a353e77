"""Layers divided into stages over the axis `pipe` train as on one device."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from llm_jax.configuration import ConfigError
from llm_jax.losses.language_model import next_token_loss
from llm_jax.models import Execution
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.parallel.pipeline import empty_share, pipelined
from llm_jax.testing import random_batch, tiny_model
from tests.models import test_family_meshes
from tests.training.test_meshes import fit, train

FOUR = {"num_layers": 4}


@pytest.fixture(scope="module")
def alone():
    return train(MeshConfig(data=1), **FOUR)[:2]


@pytest.mark.parametrize(
    ("axes", "settings"),
    [
        pytest.param({"pipe": 4, "data": 2}, {"microbatches": 8}, marks=pytest.mark.slow),
        ({"pipe": 2, "data": 1, "fsdp": 4}, {"pipeline_rounds": 2}),
        pytest.param({"pipe": 2, "data": 2, "tensor": 2}, {}, marks=pytest.mark.slow),
        pytest.param({"pipe": 2, "fsdp": 2, "data": 2}, {"remat": "full"}, marks=pytest.mark.slow),
        pytest.param({"pipe": 2, "seq": 2, "data": 2}, {}, marks=pytest.mark.slow),
        pytest.param({"pipe": 2, "data": 1, "fsdp": 2, "tensor": 2}, {}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_twenty_steps_with_dropout_equal_one_device(alone, axes, settings):
    losses, norm = alone
    got, got_norm, now, _ = train(MeshConfig(**axes), execution=Execution(**settings), **FOUR)
    np.testing.assert_allclose(got, losses, rtol=1e-5)
    assert abs(got_norm - norm) < 1e-5 * norm
    layers = jax.tree.leaves(now.params["layers"])
    held = sum(leaf.addressable_shards[0].data.shape[0] for leaf in layers)
    assert held * axes["pipe"] == sum(leaf.shape[0] for leaf in layers)


@pytest.mark.slow
@pytest.mark.parametrize("name", test_family_meshes.CONFIGS)
def test_every_family_passes_its_stages(name):
    made = test_family_meshes.parts(name)
    mesh = MeshConfig(pipe=2, data=2, expert=2) if name == "mixtral" else MeshConfig(pipe=2, data=4)
    settings = {"optim_config": test_family_meshes.ADAMW, "steps": 4}
    expected, norm, _, _ = fit(*made, MeshConfig(data=1), **settings)
    got, got_norm, _, _ = fit(*made, mesh, **settings)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert abs(got_norm - norm) < 1e-5 * norm


def scaled(params, layers, x, shared):
    """Layers whose result tells which were passed, in which order."""
    for number in range(params.shape[0]):
        x = x * params[number] + layers[number]
    return x, None


@pytest.mark.parametrize("rounds", [1, 2, 4])
@pytest.mark.parametrize("count", [4, 6])
def test_a_step_has_the_ticks_that_empty_share_counts(rounds, count):
    def call(params, layers, x):
        settings = {"num_layers": 16, "microbatches": count, "rounds": rounds}
        return pipelined(scaled, params, layers, x, (), **settings)[0]

    params, layers, x = jnp.linspace(0.5, 2.0, 16), jnp.arange(16.0), jnp.arange(12.0)
    expected = scaled(params, layers, x, ())[0]
    with jax.set_mesh(make_mesh(MeshConfig(pipe=4, data=1), jax.devices()[:4])):
        program = str(jax.make_jaxpr(call)(params, layers, x))
        y = jax.jit(call)(params, layers, x)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    (ticks,) = re.findall(r"\blength=(\d+)", program)
    assert int(ticks) == rounds * count + 4 - 1
    assert empty_share(4, count, rounds) == pytest.approx(1 - rounds * count / int(ticks))


def test_parameters_are_gathered_once_and_gradients_summed_once_a_step():
    def run(params, layers, x, shared):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params)

    def loss(params, x):
        return pipelined(run, params, jnp.arange(4), x, (), num_layers=4, microbatches=4)[0].sum()

    mesh = make_mesh(MeshConfig(pipe=2, data=2, fsdp=2))
    by_name = {"params": PartitionSpec("pipe", "fsdp"), "x": PartitionSpec(("data", "fsdp"))}
    where = {name: NamedSharding(mesh, spec) for name, spec in by_name.items()}
    params = jax.ShapeDtypeStruct((4, 8, 8), jnp.float32, sharding=where["params"])
    x = jax.ShapeDtypeStruct((32, 8), jnp.float32, sharding=where["x"])
    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(loss), out_shardings=where["params"])
        program = step.lower(params, x).compile().as_text()
    found = re.findall(r"(all-gather|all-reduce|reduce-scatter)\(.*op_name=\"([^\"]*)", program)
    assert {kind for kind, _ in found} >= {"all-gather", "all-reduce"}
    assert not [name for _, name in found if "while" in name]


@pytest.mark.parametrize(
    ("layers", "settings", "words"),
    [
        (3, {"microbatches": 4}, "3 layers do not divide over mesh.pipe=2"),
        (6, {"pipeline_rounds": 2}, "mesh.pipe=2 stages times execution.pipeline_rounds=2"),
        (4, {"microbatches": 1}, "execution.microbatches is 1 for 2 stages and 8 rows"),
        (4, {"microbatches": 3}, "give a divisor of the rows that is at least 2"),
    ],
)
def test_what_does_not_divide_is_refused(layers, settings, words):
    model = tiny_model(Execution(**settings), num_layers=layers)
    params = jax.eval_shape(model.init, jax.random.key(0))
    mesh = make_mesh(MeshConfig(pipe=2, data=4))
    with jax.set_mesh(mesh), pytest.raises(ConfigError, match=words):
        jax.eval_shape(lambda p, b: next_token_loss(model, p, b), params, random_batch())


def test_a_pipeline_has_no_cache():
    model = tiny_model()
    params = jax.eval_shape(model.init, jax.random.key(0))
    tokens, mesh = jnp.zeros((8, 4), jnp.int32), make_mesh(MeshConfig(pipe=2, data=4))
    with jax.set_mesh(mesh), pytest.raises(ConfigError, match="no cache"):
        jax.eval_shape(lambda p: model.hidden(p, tokens, cache=model.init_cache(8, 8)), params)
