"""Tags: each is read where its token is, under every method, and on a mesh as on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.losses.labels import label_loss
from llm_jax.training import tuning
from llm_jax.training.trainer import make_trainer
from tests.training.test_tuning import MODELS, batch, by_path, run_of, trained


def tag_run_of(name="bert", **changes):
    """Of tags: the head reads each token, whatever its pooling is."""
    data = {"source": "tagged", "path": "x", "sequence_length": 8}
    return run_of(name, objective={"name": "token_classification"}, data=data, **changes)


def tag_batch(seed=0):
    rng, given = np.random.default_rng(seed), batch(seed)
    weights = given["mask"] * rng.integers(0, 2, (8, 8))
    labels = rng.integers(0, 3, (8, 8), dtype=np.int32)
    return given | {"labels": labels, "weights": weights.astype(np.float32)}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora,prompt", "prefix"])
def test_a_mesh_computes_the_same_of_tags(method):
    losses = trained(tag_run_of(method=method), steps=4, batch=tag_batch)[3]
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    found = trained(tag_run_of(method=method, mesh=mesh), steps=4, batch=tag_batch)[3]
    np.testing.assert_allclose(found, losses, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_a_tag_is_read_where_its_token_is(name, method):
    """Layers of zeros add nothing: a token is seen at its own place alone."""
    model = make_trainer(tag_run_of(name, method=method)).model
    params = model.init(jax.random.key(0))

    def emptied(path, leaf):
        layer = "layers" in path and path.endswith("kernel") and "adapters" not in path
        return jnp.zeros_like(leaf) if layer else leaf

    params = tuning._chosen(params, by_path(params), emptied)
    given = np.full((1, 8), 5, np.int32)
    other = given.copy()
    other[0, 3] = 6
    one, two = (np.asarray(model.read(params, t, np.ones_like(t))) for t in (given, other))
    assert one.shape == (1, 8, 3)
    assert np.flatnonzero(np.abs(one - two).max(axis=(0, 2)) > 1e-4).tolist() == [3]


def test_the_loss_of_tags_is_the_mean_over_those_that_count():
    model = make_trainer(tag_run_of()).model
    params, given = model.init(jax.random.key(0)), tag_batch()
    (total, weight), sums = label_loss(model, params, given)
    said = np.asarray(model.read(params, given["tokens"], given["mask"]), np.float64)
    shares = np.exp(said) / np.exp(said).sum(-1, keepdims=True)
    right = np.take_along_axis(shares, given["labels"][..., None], -1)[..., 0]
    assert float(weight) == given["weights"].sum()
    np.testing.assert_allclose(total, -(np.log(right) * given["weights"]).sum(), rtol=1e-5)
    hits = (said.argmax(-1) == given["labels"]) * given["weights"]
    assert float(sums["accuracy"]) == hits.sum()
