import os
import resource
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from llm_jax.losses.language_model import next_token_loss
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.parallel.sharding import batch_sharding
from llm_jax.testing import random_batch, tiny_model
from llm_jax.training.loop import Hook, Interruption, fit, place_ahead
from llm_jax.training.metrics import MetricsWriter, read_metrics
from llm_jax.training.precision import policy
from llm_jax.training.state import new_state
from llm_jax.training.step import make_train_step


def counting_step(state, batch):
    return state + 1, {"loss": jnp.float32(batch)}


def test_metrics_come_in_order_and_hooks_see_the_right_state():
    seen, called = [], []
    hooks = [
        Hook(4, lambda step, state: called.append(("four", step, int(state), len(seen)))),
        Hook(0, lambda *_: called.append("never")),
    ]
    state, step = fit(
        counting_step,
        jnp.int32(2),
        iter(range(2, 100)),
        first=2,
        steps=10,
        on_metrics=lambda step, metrics: seen.append((step, metrics["loss"])),
        hooks=hooks,
    )
    assert (int(state), step) == (10, 10)
    assert seen == [(n + 1, float(n)) for n in range(2, 10)]
    assert called == [("four", 4, 4, 2), ("four", 8, 8, 6)]


def test_a_signal_ends_the_loop_after_the_step_and_a_second_one_acts_as_usual():
    def step_and_signal(state, batch):
        if batch == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return counting_step(state, batch)

    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        state, step = fit(
            step_and_signal,
            jnp.int32(0),
            iter(range(100)),
            first=0,
            steps=50,
            on_metrics=lambda *_: None,
            interruption=interruption,
        )
        assert interruption.signal == "SIGTERM"
        assert signal.getsignal(signal.SIGTERM) == before
    assert (int(state), step) == (4, 4)


def test_batches_are_placed_one_ahead_and_sharded():
    taken = []

    def source():
        for number in range(3):
            taken.append(number)
            yield {"tokens": np.full((8, 4), number)}

    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    placed = place_ahead(source(), batch_sharding(mesh))
    first = next(placed)
    assert taken == [0, 1]
    assert first["tokens"].sharding.shard_shape((8, 4)) == (1, 4)
    assert [int(batch["tokens"][0, 0]) for batch in placed] == [1, 2]


def test_metrics_of_steps_that_are_taken_again_are_dropped(tmp_path):
    columns = ("step", "split", "loss", "elapsed")
    writer = MetricsWriter(tmp_path, columns)
    for step in (1, 2, 3):
        writer.write(step, "train", {"loss": 1 / 3, "elapsed": float(step), "more": 1.0})
    writer.close()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,train,0.1")  # killed in the middle of a row
    assert [row["step"] for row in read_metrics(tmp_path)] == ["1", "2", "3"]
    writer = MetricsWriter(tmp_path, columns, after_step=2)
    assert writer.elapsed == 2.0
    writer.close()
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == ["1", "2"]
    assert rows[0]["loss"] == "0.33333333333333331"


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
def test_memory_is_flat_over_two_thousand_steps():
    model = tiny_model()
    train_step = make_train_step(
        lambda params, batch, key: next_token_loss(model, params, batch, dropout_key=key),
        optax.adam(1e-3),
        lambda step: 1e-3,
        seed=0,
        policy=policy("fp32"),
    )
    state = new_state(model.init(jax.random.key(0)), optax.adam(1e-3), policy("fp32"))
    train_step = jax.jit(train_step, donate_argnums=0)
    resident = []
    batches = (random_batch(number % 7) for number in range(2000))
    sharding = batch_sharding(make_mesh(MeshConfig(data=1)))
    state = jax.device_put(state, NamedSharding(sharding.mesh, PartitionSpec()))
    state, step = fit(
        train_step, state, place_ahead(batches, sharding), first=0, steps=2000,
        on_metrics=lambda *_: None,
        hooks=[Hook(100, lambda *_: resident.append(resident_bytes()))],
    )  # fmt: skip
    assert step == 2000
    assert train_step._cache_size() == 1
    early, late = resident[4], resident[-1]
    assert late < 1.05 * early, f"{early} to {late} bytes"
