import json
import resource
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.training.checkpoint import CheckpointError, Checkpoints


def state_of(step):
    return {"params": {"w": jnp.arange(1000.0) + step, "b": jnp.float32(step)}, "step": step}


def abstract():
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.asarray(x).dtype), state_of(0)
    )


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 10, 20 and 30, of which the last two were to be kept."""
    checkpoints = Checkpoints(tmp_path, keep_last=2, files={"config.json": b"{}"})
    for step in (10, 20, 30):
        checkpoints.save(step, state_of(step))
    checkpoints.wait()
    yield checkpoints
    checkpoints.close()


def test_what_is_saved_comes_back_and_only_the_newest_stay(saved):
    assert saved.steps() == [20, 30]
    assert saved.newest() == 30
    state = saved.restore(20, abstract())
    np.testing.assert_array_equal(state["params"]["w"], np.arange(1000.0) + 20)
    part = saved.restore(30, {"params": abstract()["params"]})
    assert part["params"]["b"] == 30


def test_the_best_stays_however_old(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    assert not checkpoints.mark_best(5, float("nan"))
    assert checkpoints.best() is None
    for step, loss in ((10, 2.0), (20, 1.0), (30, 1.5), (40, 1.0)):
        checkpoints.save(step, state_of(step))
        checkpoints.wait()
        assert checkpoints.mark_best(step, loss) == (step in (10, 20))
    assert checkpoints.steps() == [20, 40]
    assert checkpoints.best() == {"step": 20, "loss": 1.0}
    checkpoints.close()


def test_a_saved_state_is_untouched_by_the_steps_after_it(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    train = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 7, s), donate_argnums=0)
    state = jax.tree.map(jnp.asarray, {"params": {"w": jnp.arange(2_000_000.0)}})
    checkpoints.save(1, state)
    for _ in range(3):
        state = train(state)
    checkpoints.wait()
    shape = {"params": {"w": jax.ShapeDtypeStruct((2_000_000,), jnp.float32)}}
    np.testing.assert_array_equal(
        checkpoints.restore(1, shape)["params"]["w"], np.arange(2_000_000.0)
    )
    checkpoints.close()


def data_files(checkpoints, step):
    root = checkpoints.directory / f"{step:08d}"
    return [p for p in sorted(root.rglob("*")) if p.is_file() and p.name != "checksums.json"]


def test_a_flipped_bit_in_any_file_is_refused_by_name(saved):
    for file in data_files(saved, 30):
        content = file.read_bytes()
        if not content:
            continue
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 1
        file.write_bytes(changed)
        with pytest.raises(CheckpointError, match=f"{file.name} is not what was saved") as caught:
            saved.newest()
        assert "--fallback to continue from step 20" in str(caught.value)
        file.write_bytes(content)
    assert saved.newest() == 30


def test_a_missing_file_is_refused_by_name(saved):
    for file in [*data_files(saved, 30), saved.directory / "00000030" / "checksums.json"]:
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(CheckpointError, match=f"{file.name} is missing"):
            saved.newest()
        file.write_bytes(content)


def test_fallback_takes_the_step_before_and_keeps_the_damaged_one_aside(saved):
    data_files(saved, 30)[-1].unlink()
    assert saved.newest(fallback=True) == 20
    assert (saved.directory / "damaged-00000030").is_dir()
    saved.save(30, state_of(30))
    saved.wait()
    assert saved.newest() == 30


def test_another_layout_version_is_refused(saved):
    path = saved.directory / "00000030"
    sums = json.loads((path / "checksums.json").read_text())
    (path / "info.json").write_text(json.dumps({"step": 30, "layout_version": 99}))
    del sums["info.json"]
    (path / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(CheckpointError, match="layout version is 99.*convert --source="):
        saved.newest()


def test_an_unfinished_save_counts_for_nothing_and_is_cleared(saved):
    left = saved.directory / "saving-00000040"
    (left / "state").mkdir(parents=True)
    assert saved.newest() == 30
    saved.save(50, state_of(50))
    saved.wait()
    assert not left.exists()
    assert saved.steps() == [30, 50]


def test_a_disk_that_refuses_to_write_leaves_the_last_good_checkpoint(saved):
    """A file size limit stands for the full disk: both fail in the middle of a write."""
    big = {"params": {"w": jax.random.normal(jax.random.key(0), (300_000,))}}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match="saving step 40 .*step 30 is whole and stays"):
            saved.save(40, big)
            saved.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert saved.steps() == [20, 30]
    assert not list(saved.directory.glob("saving-*"))
    assert saved.newest() == 30
    saved.save(40, big)
    saved.wait()
    assert saved.newest() == 40
