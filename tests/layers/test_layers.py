import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.layers.dropout import dropout, site_key
from llm_jax.layers.rope import rotary_tables, rotate


def test_masks_depend_on_the_example_and_not_on_the_batch():
    x, key, ids = jnp.ones((4, 6, 8)), jax.random.key(0), jnp.array([9, 4, 2, 7])
    whole = dropout(x, 0.4, key, ids)
    np.testing.assert_array_equal(dropout(x[1:3], 0.4, key, ids[1:3]), whole[1:3])
    np.testing.assert_array_equal(dropout(x, 0.4, key, ids[::-1]), whole[::-1])
    longer = dropout(jnp.ones((4, 10, 8)), 0.4, key, ids)
    np.testing.assert_array_equal(longer[:, :6], whole)
    assert not np.array_equal(dropout(x, 0.4, site_key(key, "mlp"), ids), whole)
    assert not np.array_equal(whole[0], whole[1])


def test_dropout_keeps_the_mean_and_the_rate():
    out = dropout(jnp.ones((8, 100, 100)), 0.3, jax.random.key(1), jnp.arange(8))
    assert abs(float((out == 0).mean()) - 0.3) < 0.01
    assert abs(float(out.mean()) - 1.0) < 0.01
    assert set(np.unique(out)) == {np.float32(0), np.float32(1) / np.float32(0.7)}


def test_rotary_equals_transformers():
    torch = pytest.importorskip("torch")
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    x = np.random.default_rng(0).normal(size=(2, 9, 3, 8)).astype(np.float32)
    places = np.stack([np.arange(9), np.arange(9) + 30])
    angle = places[..., None] * 10_000.0 ** (-np.arange(0, 8, 2) / 8)
    angle = torch.tensor(np.concatenate([angle, angle], -1), dtype=torch.float32)
    query = torch.tensor(x).transpose(1, 2)
    expected, _ = llama.apply_rotary_pos_emb(query, query, angle.cos(), angle.sin())
    got = rotate(jnp.asarray(x), rotary_tables(jnp.asarray(places), 8))
    np.testing.assert_allclose(got, expected.transpose(1, 2).numpy(), atol=1e-5)
