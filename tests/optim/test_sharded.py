"""An update over a mesh, its state sharded by `state_axes`, against one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax import models, optim
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.parallel.sharding import tree_shardings

MODEL = models.build(
    models.parse_config(
        {
            "family": "gpt2",
            "num_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "hidden_size": 32,
            "vocab_size": 100,
            "max_positions": 16,
        }
    )
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "adafactor", "lamb", "muon"])
def test_sharded_update_equals_one_device(name):
    shapes, axes = MODEL.abstract_params, MODEL.logical_axes
    tx = optim.build(optim.OptimConfig(name=name, learning_rate=1e-2), shapes, 10, axes)
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    over_mesh = tree_shardings(shapes, axes, mesh)
    state_axes = optim.state_axes(tx, shapes, axes)
    state_over_mesh = tree_shardings(jax.eval_shape(tx.init, shapes), state_axes, mesh)

    def two_steps(params):
        state = tx.init(params)
        for step in range(2):
            grads = jax.tree.map(lambda x, step=step: jnp.cos(step + 900 * x), params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    params = jax.jit(MODEL.init)(jax.random.key(0))
    expected, _ = jax.jit(two_steps)(params)
    sharded = jax.jit(
        two_steps, in_shardings=(over_mesh,), out_shardings=(over_mesh, state_over_mesh)
    )
    given, state = sharded(params)
    for one, other in zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-6)
    large = [x for x in jax.tree.leaves(state) if x.size >= 32 * 2]
    assert len(large) > 8
    assert not any(x.sharding.is_fully_replicated for x in large)
