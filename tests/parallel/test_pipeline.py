"""Layers divided into stages over the axis `pipe` train as on one device."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
        ({"pipe": 4, "data": 2}, {"microbatches": 8}),
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


def test_a_step_has_as_many_ticks_as_microbatches_and_stages_before_the_last():
    def run(params, layers, x, shared):
        return x + params.sum(), None

    def call(params, x):
        return pipelined(run, params, params, x, (), num_layers=8, microbatches=6)[0]

    operands = jnp.arange(8.0), jnp.arange(12.0)
    with jax.set_mesh(make_mesh(MeshConfig(pipe=4, data=1), jax.devices()[:4])):
        program = str(jax.make_jaxpr(call)(*operands))
        y = jax.jit(call)(*operands)
    np.testing.assert_array_equal(y, np.arange(12.0) + 28.0)
    (ticks,) = re.findall(r"\blength=(\d+)", program)
    assert int(ticks) == 6 + 4 - 1
    assert empty_share(4, 6) == pytest.approx(1 - 6 / int(ticks))


@pytest.mark.parametrize(
    ("layers", "microbatches", "words"),
    [
        (3, 4, "3 layers do not divide over mesh.pipe=2"),
        (4, 1, "execution.microbatches is 1 for 2 stages and 8 rows"),
        (4, 3, "give a divisor of the rows that is at least 2"),
    ],
)
def test_what_does_not_divide_is_refused(layers, microbatches, words):
    model = tiny_model(Execution(microbatches=microbatches), num_layers=layers)
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
