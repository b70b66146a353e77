import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.layers.rope import RopeScaling, rotary_tables

TRAINED = {"original_max_position_embeddings": 16}
CASES = {
    "linear": ({"factor": 2.5}, RopeScaling("linear", 2.5)),
    "dynamic": ({"factor": 2.5}, RopeScaling("dynamic", 2.5, 16)),
    "yarn": (TRAINED | {"factor": 4.0}, RopeScaling("yarn", 4.0, 16)),
    "yarn-beta": (
        TRAINED | {"factor": 4.0, "beta_fast": 2.0, "beta_slow": 0.1, "truncate": False},
        RopeScaling("yarn", 4.0, 16, beta_fast=2.0, beta_slow=0.1, truncate=False),
    ),
    "yarn-attention": (
        TRAINED | {"factor": 4.0, "attention_factor": 0.7},
        RopeScaling("yarn", 4.0, 16, attention_factor=0.7),
    ),
    "yarn-mscale": (
        TRAINED | {"factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.4},
        RopeScaling("yarn", 4.0, 16, mscale=0.7, mscale_all_dim=0.4),
    ),
    "llama3": (
        TRAINED | {"factor": 8.0, "low_freq_factor": 0.5, "high_freq_factor": 3.0},
        RopeScaling("llama3", 8.0, 16, 0.5, 3.0),
    ),
}


@pytest.mark.parametrize("length", [12, 40])
@pytest.mark.parametrize("name", CASES)
def test_scaled_tables_are_those_of_transformers(name, length):
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
    options, scaling = CASES[name]
    options = options | {"rope_type": name.split("-")[0], "rope_theta": 700.0}
    config = modeling.LlamaConfig(
        hidden_size=64, num_attention_heads=4, max_position_embeddings=16, rope_parameters=options
    )
    places = np.arange(length)[None]
    expected = modeling.LlamaRotaryEmbedding(config)(torch.zeros(1), torch.tensor(places))
    for positions in (places, jnp.asarray(places)):
        got = rotary_tables(positions, 16, 700.0, scaling)
        for ours, theirs in zip(got, expected):
            np.testing.assert_allclose(ours, theirs.numpy()[..., :8], atol=1e-5)
    traced = jax.jit(lambda places: rotary_tables(places, 16, 700.0, scaling))(places)
    np.testing.assert_allclose(traced, got, atol=1e-5)


def test_a_rows_dynamic_base_is_its_own():
    scaling = RopeScaling("dynamic", 2.0, 16)
    places = jnp.stack([jnp.arange(30), jnp.minimum(jnp.arange(30), 9)])
    cosine, _ = rotary_tables(places, 16, scaling=scaling)
    np.testing.assert_array_equal(cosine[0], rotary_tables(places[:1], 16, scaling=scaling)[0][0])
    np.testing.assert_array_equal(cosine[1], rotary_tables(places[1:], 16)[0][0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "longrope"}, "linear, dynamic, yarn, llama3"),
        ({"factor": 0.5}, "factor is 0.5"),
        ({"original_positions": None}, "original_positions"),
        ({"low_frequency_factor": 4.0}, "low_frequency_factor"),
    ],
)
def test_impossible_scalings_are_refused(change, words):
    with pytest.raises(ConfigError, match=words) as caught:
        RopeScaling(**{"kind": "llama3", "factor": 2.0, "original_positions": 8} | change)
    assert "\n" not in str(caught.value)
