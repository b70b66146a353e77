"""Windows: texts of their own to a model of any family, and one to the head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.testing import relative_error
from llm_jax.training.trainer import make_trainer
from tests.training.test_tuning import MODELS, batch, run_of, trained

DATA = {"source": "labelled", "path": "x", "sequence_length": 32, "window": 8}
HEAD = {"outputs": 3, "pooling": "attention"}


def window_run_of(name="bert", **changes):
    return run_of(name, **{"data": DATA, "tuning": {"head": HEAD}} | changes)


def window_batch(seed=0):
    """Texts of one to four windows of 8 tokens."""
    rng, given = np.random.default_rng(seed), batch(seed)
    sizes = rng.integers(3, 33, 8)
    mask = (np.arange(32) < sizes[:, None]).astype(np.int32)
    tokens = rng.integers(5, 97, (8, 32), dtype=np.int32)
    return given | {"tokens": tokens.reshape(8, 4, 8), "mask": mask.reshape(8, 4, 8)}


@pytest.mark.parametrize("method", ["full", "prompt"])
@pytest.mark.parametrize("name", MODELS)
def test_the_head_reads_all_windows_and_the_model_each(name, method):
    model = make_trainer(window_run_of(name, method=method)).model
    params = model.init(jax.random.key(0))
    given = window_batch()
    found = jax.jit(model.read)(params, given["tokens"], given["mask"])
    for row in range(8):
        states, real = [], []
        for tokens, mask in zip(given["tokens"][row], given["mask"][row]):
            size = int(mask.sum())
            if size:  # alone, and without padding
                one, full = tokens[None, :size], jnp.ones((1, size), jnp.int32)
                states.append(model._read(params, one, full, None))
                real.append(full > 0)
        together = (jnp.concatenate(x, axis=1) for x in (states, real))
        want = model.head.apply(params["task_head"], *together)
        assert relative_error(found[row], np.asarray(want)[0]) < 2e-5


def test_each_window_has_its_own_dropout():
    run = window_run_of(tuning={"head": HEAD | {"pooling": "mean"}})
    model = make_trainer(run).model
    params, given = model.init(jax.random.key(0)), window_batch()
    tokens = np.broadcast_to(given["tokens"][:, :1], (8, 4, 8))
    key, full = jax.random.key(1), np.ones((8, 4, 8), np.int32)
    one = model.read(params, tokens[:, :1], full[:, :1], dropout_key=key)
    four = model.read(params, tokens, full, dropout_key=key)
    assert np.abs(one - four).max() > 1e-3  # the mean of four draws is not one of them
    two = model.read(params, tokens[:, :2], full[:, :2], dropout_key=key)
    more = model.read(params, tokens, full * (np.arange(4) < 2)[:, None], dropout_key=key)
    assert relative_error(more, np.asarray(two)) < 1e-5  # windows that are none change nothing
    moved = model.read(params, tokens[::-1], full, dropout_key=key, example_ids=jnp.arange(8)[::-1])
    assert relative_error(moved[::-1], np.asarray(four)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora,prompt"])
def test_a_mesh_computes_the_same_of_windows(method):
    losses = trained(window_run_of(method=method), steps=4, batch=window_batch)[3]
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    found = trained(window_run_of(method=method, mesh=mesh), steps=4, batch=window_batch)[3]
    np.testing.assert_allclose(found, losses, rtol=1e-5)


def test_the_model_s_positions_are_those_of_a_window():
    window_run_of(data=DATA | {"sequence_length": 256})
    with pytest.raises(ConfigError, match="longer than the model's 32 positions"):
        window_run_of(data=DATA | {"window": 64, "sequence_length": 256})
    for robust in ({"adversarial": "fgm"}, {"mixing": 0.2}):
        with pytest.raises(ConfigError, match="data.window is 8, and robust"):
            window_run_of(robust=robust)
