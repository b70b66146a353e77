"""Windows, block-sparse and linear patterns and ALiBi as keys of a family's configuration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import interop, models
from llm_jax.configuration import ConfigError
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.parallel.sharding import tree_shardings
from llm_jax.testing import relative_error

TINY = {"num_layers": 2, "num_heads": 4, "hidden_size": 32, "vocab_size": 97, "max_positions": 64}
FAMILIES = {"gpt2": {}, "llama": {"mlp_size": 64, "num_kv_heads": 2}, "bert": {"mlp_size": 64}}
SPARSE = {"kind": "block_sparse", "block_size": 4, "window_blocks": 1, "random_blocks": 1}
CHOICES = {
    "window": {"window": 7},
    "block_sparse": {"attention_pattern": SPARSE},
    "linear": {"attention_pattern": {"kind": "linear"}},
    "alibi": {"positions": "alibi"},
    "alibi_block_sparse": {"positions": "alibi", "attention_pattern": SPARSE},
}
TOKENS = np.random.default_rng(0).integers(0, 97, (4, 30))


def built(family, **changes):
    config = models.parse_config({"family": family} | TINY | FAMILIES[family] | changes)
    model = models.build(config)
    params = model.init(jax.random.key(0))
    rng = np.random.default_rng(1)
    return model, jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape, np.float32), params)


def run(model, params, tokens):
    forward = jax.jit(lambda params, x: model.family.forward(model, params, input_ids=x))
    return forward(params, tokens)["last_hidden_state"]


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", ["llama", "bert"])  # a decoder and an encoder
def test_a_choice_changes_what_a_token_sees_and_any_mesh_agrees(family, choice):
    model, params = built(family, **CHOICES[choice])
    out = run(model, params, TOKENS)
    changed = TOKENS.copy()
    changed[:, 11] = (changed[:, 11] + 1) % 97
    moved = np.abs(np.asarray(run(model, params, changed) - out)).max((0, 2)) > 1e-4
    assert moved[11]
    if family != "bert":
        assert not moved[:11].any()
    if choice == "window":
        reach = 2 * 6  # Two layers of six tokens.
        assert moved[11 + reach - 1]
        assert not moved[11 + reach + 1 :].any()
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    shardings = tree_shardings(model.abstract_params, model.logical_axes, mesh)
    with jax.set_mesh(mesh):
        got = run(model, jax.device_put(params, shardings), TOKENS)
    assert relative_error(got, out) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("choice", [name for name in CHOICES if name != "linear"])
@pytest.mark.parametrize("family", ["gpt2"])
def test_decoding_with_a_cache_is_the_forward_pass(family, choice):
    model, params = built(family, **CHOICES[choice])
    expected, _ = jax.jit(lambda *x: model.hidden(*x))(params, TOKENS)
    step = jax.jit(lambda *x: model.hidden(params, x[0], positions=x[1], cache=x[2]))
    places = np.broadcast_to(np.arange(30, dtype=np.int32), (4, 30))
    hidden, cache = step(TOKENS[:, :20], places[:, :20], model.init_cache(4, 40))
    parts = [hidden]
    for t in range(20, 30):
        hidden, cache = step(TOKENS[:, t : t + 1], places[:, t : t + 1], cache)
        parts.append(hidden)
    assert relative_error(jnp.concatenate(parts, axis=1), expected) < 1e-5


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_reference_has_not_is_not_written(family, choice):
    config = models.parse_config({"family": family} | TINY | FAMILIES[family] | CHOICES[choice])
    module = getattr(interop, family)
    if (family, choice) == ("llama", "window"):
        assert module.write_config(config)["model_type"] == "mistral"
        return
    with pytest.raises(ConfigError):
        module.write_config(config)


def test_the_header_says_what_computes():
    for choice, name in {"linear": "linear", "block_sparse": "chunked", "alibi": "chunked"}.items():
        config = models.parse_config({"family": "gpt2"} | TINY | CHOICES[choice])
        assert models.build(config).kernels(4, 30) == {"attention": name}
