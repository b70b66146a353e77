"""Experts divided over the axis `expert` train as on one device."""

import functools

import jax
import numpy as np
import pytest

from llm_jax import models, optim
from llm_jax.losses.language_model import next_token_loss
from llm_jax.parallel.mesh import MeshConfig
from llm_jax.testing import random_batch
from tests.training.test_meshes import fit

ADAMW = optim.OptimConfig(name="adamw", learning_rate=2e-3, warmup_steps=5, clip_norm=1.0)
MIXTURE = {
    "family": "mixtral", "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "hidden_size": 32,
    "mlp_size": 64, "vocab_size": 97, "max_positions": 32, "num_experts": 4, "dropout_rate": 0.1,
    "balance_coefficient": 0.1, "router_z_coefficient": 0.01, "shared_mlp_size": 32,
}  # fmt: skip
# Room for every choice in a row, and for half of them.
CAPACITIES = {"dropless": None, "drops": 0.5}


@functools.cache
def trained(capacity, mesh):
    config = MIXTURE | {"capacity_factor": CAPACITIES[capacity]}
    model = models.build(models.parse_config(config))

    def loss(params, batch, key):
        return next_token_loss(model, params, batch, dropout_key=key)

    batches = [random_batch(seed, batch=16, length=16) for seed in range(3)]
    losses, norm, now, _ = fit(model, loss, batches, mesh, ADAMW)
    return losses, norm, now


@pytest.mark.parametrize("capacity", ["dropless", pytest.param("drops", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "axes",
    [
        {"expert": 4, "data": 2},
        pytest.param({"expert": 2, "fsdp": 2, "tensor": 2, "data": 1}, marks=pytest.mark.slow),
        pytest.param({"expert": 2, "seq": 2, "data": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_twenty_steps_with_dropout_equal_one_device(capacity, axes):
    expected, norm, _ = trained(capacity, MeshConfig(data=1))
    got, got_norm, now = trained(capacity, MeshConfig(**axes))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert abs(got_norm - norm) < 1e-5 * norm
    kernel = now.params["layers"]["mlp"]["gate"]
    shard = kernel.addressable_shards[0].data.shape
    assert shard[1] * axes["expert"] == kernel.shape[1] == 4
    assert jax.tree.all(jax.tree.map(lambda x: np.isfinite(x).all(), now.params))
