"""Ring attention over the axis `seq` equals plain attention, gradients too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from llm_jax.configuration import ConfigError
from llm_jax.kernels.attention import plain
from llm_jax.kernels.mask import Mask, Scores
from llm_jax.kernels.pattern import Pattern
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.parallel.ring import ring_attention
from llm_jax.parallel.sharding import batch_sharding
from llm_jax.testing import random_batch, relative_error
from llm_jax.training.run import default_config, parse_run
from llm_jax.training.trainer import make_trainer

HEADS, GROUPS, SIZE = 4, 2, 16


def drawn(length, rows=4):
    """Returns query, key, value, the gradient of the result, segments, and which keys are real."""
    rng = np.random.default_rng(0)
    shapes = [(rows, length, count, SIZE) for count in (HEADS, GROUPS, GROUPS, HEADS)]
    segments = np.sort(rng.integers(3, size=(rows, length)), axis=1).astype(np.int32)
    real = (np.arange(length) < rng.integers(length // 2, length, size=(rows, 1))).astype(np.int32)
    return *(rng.normal(size=shape).astype(np.float32) for shape in shapes), segments, real


def both(function, mask, scores, d_out):
    """Returns a jitted function of query, key and value: the result and their gradients."""

    def total(*operands):
        out = function(*operands, mask, scores)
        return jnp.sum(out * d_out), out

    run = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))

    def result_and_gradients(*operands):
        (_, out), gradients = run(*operands)
        return out, *gradients

    return result_and_gradients


@pytest.mark.parametrize(
    ("axes", "length", "choices", "scores"),
    [
        pytest.param({"seq": 8}, 64, {"segments": True}, Scores(), marks=pytest.mark.slow),
        ({"seq": 3, "data": 1}, 48, {"segments": True}, Scores()),
        ({"seq": 2, "data": 2, "tensor": 2}, 64, {"segments": True}, Scores()),
        ({"seq": 4, "fsdp": 2, "data": 1}, 64, {"window": 9}, Scores()),
        ({"seq": 4}, 64, {"causal": False, "padding": True}, Scores()),
        pytest.param(
            {"seq": 4}, 64, {"causal": False, "window": 7}, Scores(), marks=pytest.mark.slow
        ),
        pytest.param({"seq": 4}, 64, {}, Scores(alibi=True), marks=pytest.mark.slow),
        pytest.param({"seq": 4}, 64, {}, Scores(cap=2.0), marks=pytest.mark.slow),
        pytest.param(
            {"seq": 2, "data": 4}, 4224, {"segments": True}, Scores(), marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_the_ring_equals_plain_attention(axes, length, choices, scores):
    *operands, d_out, segments, real = drawn(length)
    rest = {"window": choices.get("window"), "causal": choices.get("causal", True)}
    if choices.get("segments"):
        rest |= {"query_segments": segments, "key_segments": segments}
    if choices.get("padding"):
        rest |= {"query_segments": np.ones_like(real), "key_segments": real}
    mask = Mask(**rest)
    expected = both(plain, mask, scores, d_out)(*operands)
    mesh = make_mesh(MeshConfig(**axes))
    with jax.set_mesh(mesh):
        placed = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "seq", "tensor"))
        got = both(ring_attention, mask, scores, d_out)(*jax.device_put(operands, placed))
    assert got[0].sharding.is_equivalent_to(placed, 4)
    for ours, wanted in zip(got, expected):
        assert relative_error(ours, wanted) < 1e-5


def test_what_a_ring_cannot_do_is_refused():
    query, key, value, *_ = drawn(60)
    with jax.set_mesh(make_mesh(MeshConfig(seq=4))):
        with pytest.raises(ConfigError, match="60 does not divide into the 8 blocks"):
            ring_attention(query, key, value, Mask())
        with pytest.raises(ConfigError, match="all_to_all"):
            ring_attention(query, key[:, :30], value[:, :30], Mask(causal=False))
        sparse = Pattern(kind="block_sparse")
        with pytest.raises(ConfigError, match="all_to_all"):
            ring_attention(query, key, value, Mask(pattern=sparse))


@pytest.mark.slow
def test_eight_devices_hold_a_sixth_of_a_long_row_at_most():
    length = 32768

    def temporaries(**axes):
        config = default_config("llama")
        config.model.update(num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, hidden_size=64)
        config.model.update(mlp_size=192, vocab_size=256, max_positions=length)
        config.data.sequence_length, config.batch_size, config.precision = length, 1, "fp32"
        config.mesh.update(data=1, **axes)
        trainer = make_trainer(parse_run(config))
        place = batch_sharding(trainer.mesh)
        batch = {
            name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=place)
            for name, value in random_batch(batch=1, length=length).items()
        }
        with jax.set_mesh(trainer.mesh):
            step = trainer.train_step.lower(trainer.target, batch).compile()
        return step.memory_analysis().temp_size_in_bytes

    one, eight = temporaries(), temporaries(seq=8)
    print(f"{one / 1e6:.0f} MB on one device, {eight / 1e6:.0f} MB on each of eight")
    assert eight < one / 6
