"""Training in fp8 and int8: what is quantized, and the memory of fp8's scales."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import models
from llm_jax.kernels.quantized import HORIZON, delayed_exponents
from llm_jax.parallel.sharding import batch_sharding
from llm_jax.testing import random_batch, tiny_config
from llm_jax.training import hardware
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.run import parse_run
from llm_jax.training.trainer import make_trainer
from tests.models.test_family_meshes import CONFIGS


def trainer_of(precision, *, mesh=None, **changes):
    return make_trainer(parse_run({
        "model": tiny_config(dropout_rate=0.1), "steps": 8, "batch_size": 8, "mesh": {"data": 1},
        "data": {"sequence_length": 16}, "precision": precision,
        "optim": {"learning_rate": 1e-2, "warmup_steps": 2}, **changes,
        **({} if mesh is None else {"mesh": mesh}),
    }))  # fmt: skip


def train(trainer, steps, state=None, first=0):
    losses = []
    with jax.set_mesh(trainer.mesh):
        state = trainer.new_state() if state is None else state
        for number in range(first, first + steps):
            batch = jax.device_put(random_batch(number), batch_sharding(trainer.mesh))
            state, metrics = trainer.train_step(state, batch)
            losses.append(float(metrics["loss"]))
    return losses, state


def exponents(state):
    return np.concatenate([
        np.asarray(delayed_exponents(ages)).ravel() for ages in jax.tree.leaves(state.scaling)
    ] or [np.zeros(1)])  # fmt: skip


def assert_same_scales(got, wanted):
    """But for an amax that lies so near a power of two that bf16's rounding moves it across."""
    difference = np.abs(exponents(got) - exponents(wanted))
    assert difference.max() <= 1
    assert difference.mean() < 0.1


def assert_equal(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted)):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def fp8():
    return trainer_of("fp8")


@pytest.mark.parametrize(
    "name", ["mixtral", *(pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS)]
)
def test_all_projections_of_blocks_and_no_others_are_quantized(name):
    config = models.parse_config({"family": name} | CONFIGS[name])
    model = models.build(config, dtype=jnp.bfloat16, quantization="fp8")

    def paths(tree, leaf):
        flat, _ = jax.tree_util.tree_flatten_with_path(tree)
        found = ["/".join(key.key for key in path) for path, _ in flat]
        return {path.removesuffix(leaf) for path in found if path.endswith(leaf)}

    kernels = {
        path for path in paths(model.abstract_params, "/kernel")
        if "layers/" in path and not path.endswith(("router", "shared_gate"))
    }  # fmt: skip
    scaling = jax.eval_shape(model.new_scaling)
    assert kernels
    assert paths(scaling, "/ages") == kernels
    plain = models.build(config)
    assert jax.eval_shape(plain.new_scaling) is None
    assert model.abstract_params == plain.abstract_params


@pytest.mark.slow
def test_the_memory_is_saved_resumed_and_left_alone_by_a_skipped_step(fp8, tmp_path):
    _, now = train(fp8, 2)
    assert min(int(np.min(leaf)) for leaf in jax.tree.leaves(now.scaling)) == 0
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, now)
    checkpoints.wait()
    more, wanted = train(fp8, 2, jax.tree.map(jnp.copy, now), 2)
    restored = checkpoints.restore(2, fp8.target)
    checkpoints.close()
    forgot = jax.tree.map(jnp.copy, restored)
    ages = jax.tree.map(lambda ages: jnp.full_like(ages, HORIZON), restored.scaling)
    again, got = train(fp8, 2, restored, 2)
    assert again == more
    assert_equal(jax.device_get(got), jax.device_get(wanted))
    before = jax.device_get(got.scaling)
    with jax.set_mesh(fp8.mesh):
        batch = random_batch(4) | {"weights": np.full((8, 16), np.nan, np.float32)}
        got, metrics = fp8.train_step(got, jax.device_put(batch, batch_sharding(fp8.mesh)))
    assert metrics["skipped"] == 1
    assert_equal(jax.device_get(got.scaling), before)
    assert train(fp8, 1, forgot._replace(scaling=ages), 2)[0][0] != more[0]  # the scales are read


def test_other_policies_save_what_they_saved_before(tmp_path):
    trainer = trainer_of("bf16")
    state = trainer.target
    assert state.scaling is None
    with jax.set_mesh(trainer.mesh):
        program = str(jax.make_jaxpr(trainer.train_step)(trainer.target, random_batch()))
    assert "f8_" not in program
    assert "i8[" not in program
    small = state._replace(params={"w": jnp.ones(3)}, opt_state=(), **{
        name: jnp.zeros(()) for name in ("step", "loss_scale", "good_steps", "skipped",
                                         "skipped_in_a_row")
    })  # fmt: skip
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, small)
    checkpoints.wait()
    stored = json.loads(next(tmp_path.rglob("_METADATA")).read_text())["tree_metadata"]
    assert not any("scaling" in path for path in stored)
    assert len(stored) == 7
    checkpoints.close()


@pytest.mark.slow
def test_microbatches_see_the_same_scales_as_the_whole_batch(fp8):
    losses, now = train(fp8, 4)
    for parts in (2, 4):
        got, other = train(trainer_of("fp8", accumulation=parts), 4)
        np.testing.assert_allclose(got, losses, rtol=2e-3)
        assert_same_scales(other, now)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp8", "int8"])
@pytest.mark.parametrize(
    ("mesh", "execution"),
    [
        ({"data": 2, "fsdp": 2, "tensor": 2}, {}),
        ({"data": 1, "pipe": 2}, {"microbatches": 4}),
        ({"data": 2, "pipe": 2, "tensor": 2}, {"remat": "full"}),
        ({"data": 1}, {"remat": "dots", "unroll": 0}),
    ],
    ids=str,
)
def test_a_mesh_trains_with_the_scales_of_one_device(precision, mesh, execution):
    losses, now = train(trainer_of(precision), 4)
    got, other = train(trainer_of(precision, mesh=mesh, execution=execution), 4)
    np.testing.assert_allclose(got, losses, rtol=2e-3)
    assert_same_scales(other, now)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_a_short_run_learns_as_in_bf16(precision):
    def run(precision):
        trainer = trainer_of(precision, steps=40)
        state, losses = None, []
        for _ in range(10):
            more, state = train(trainer, 4, state)
            losses += more
        return losses

    got, wanted = run(precision), run("bf16")
    assert wanted[-1] < 0.7 * wanted[0]
    np.testing.assert_allclose(got, wanted, rtol=0.03)


@pytest.mark.parametrize(
    ("platform", "kind", "capability", "units"),
    [
        ("cpu", "cpu", None, ()),
        ("tpu", "TPU v4", None, ()),
        ("tpu", "TPU v6 lite", None, ("int8",)),
        ("tpu", "TPU7x", None, ("fp8",)),
        ("gpu", "NVIDIA A100-SXM4-80GB", "8.0", ("int8",)),
        ("gpu", "NVIDIA H200", "9.0", ("fp8", "int8")),
        ("gpu", "NVIDIA B200", "10.0", ("fp8", "int8")),
    ],
)
def test_which_devices_have_units(platform, kind, capability, units, monkeypatch):
    device = types.SimpleNamespace(
        platform=platform, device_kind=kind, compute_capability=capability
    )
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert [hardware.has_units(name) for name in ("fp8", "int8")] == [
        name in units for name in ("fp8", "int8")
    ]
