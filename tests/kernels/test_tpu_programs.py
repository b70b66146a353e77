"""Gradients of whole models compile for a TPU that is not there, with its kernels in them."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from llm_jax import models
from llm_jax.losses.language_model import next_token_loss
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.parallel.sharding import batch_sharding, tree_shardings

SPLASH = ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv")
SIZES = {
    "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "hidden_size": 256, "mlp_size": 512,
    "vocab_size": 512, "max_positions": 256, "window": 100,
}  # fmt: skip
CASES = {
    "experts": (
        {"family": "mixtral", "num_experts": 4},
        {"expert": 2, "fsdp": 2, "tensor": 2, "data": 1},
        (*SPLASH, "@gmm(", "@tgmm(", "ragged_all_to_all"),
    ),
    "stages": ({"family": "llama"}, {"pipe": 2, "fsdp": 2, "tensor": 2, "data": 1}, SPLASH),
}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("case", CASES)
def test_the_kernels_are_in_a_program_that_compiles(case, monkeypatch):
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    choices, axes, kernels = CASES[case]
    mesh = make_mesh(MeshConfig(**axes), topologies.get_topology_desc("v6e:2x4", "tpu").devices)
    model = models.build(models.parse_config(SIZES | choices), dtype=jnp.bfloat16)
    shapes = model.abstract_params
    params = jax.tree.map(
        lambda leaf, sharding: leaf.update(sharding=sharding),
        shapes,
        tree_shardings(shapes, model.logical_axes, mesh),
    )

    def rows(dtype, *shape):
        return jax.ShapeDtypeStruct((8, *shape), dtype, sharding=batch_sharding(mesh))

    names = ("tokens", "targets", "segment_ids", "positions")
    batch = {name: rows(jnp.int32, 256) for name in names}
    batch |= {"weights": rows(jnp.float32, 256), "example_ids": rows(jnp.int32)}

    def loss(params, batch):
        return next_token_loss(model, params, batch, dropout_key=None)[0][0]

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered = jax.jit(jax.grad(loss)).lower(params, batch)
    # The compiled program's own text cannot always be read by a jaxlib older than libtpu.
    text = lowered.as_text()
    assert "tpu_custom_call" in text
    assert all(kernel in text for kernel in kernels)
    lowered.compile()
