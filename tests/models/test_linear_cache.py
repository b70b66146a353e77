"""Linear attention decodes from a state, whose size is the same at any length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.generation import Draft, Engine, SamplingOptions
from llm_jax.generation.beam import BeamOptions, beam_search, continue_prompts
from llm_jax.generation.cache import grow
from llm_jax.testing import relative_error

NEW, LENGTH = 14, 48
LINEAR = {
    "num_layers": 2, "num_heads": 4, "hidden_size": 32, "vocab_size": 61, "max_positions": LENGTH,
    "attention_pattern": {"kind": "linear"},
}  # fmt: skip
FAMILIES = {"gpt2": {"tied_embeddings": False}, "llama": {"mlp_size": 48, "num_kv_heads": 2}}
# Learned positions, and rotary ones with shared key-value heads.
BOTH = [pytest.param("gpt2", marks=pytest.mark.slow), "llama"]
PROMPTS = [np.random.default_rng(0).integers(61, size=size).tolist() for size in (3, 29, 9, 17)]


@functools.cache
def built(family):
    model = models.build(models.parse_config({"family": family} | LINEAR | FAMILIES[family]))
    rng = np.random.default_rng(1)
    params = jax.jit(model.init)(jax.random.key(0))
    return model, jax.tree.map(lambda p: p + 0.3 * rng.standard_normal(p.shape, np.float32), params)


@functools.cache
def whole(family):
    """Returns a function of tokens [B, T] to logits [B, T, V], without a cache."""
    model, params = built(family)
    return jax.jit(lambda tokens: model.logits(params, model.hidden(params, tokens)[0]))


@pytest.mark.parametrize("family", BOTH)
def test_the_engine_writes_what_the_whole_forward_pass_would(family):
    results = Engine(*built(family)).generate(
        PROMPTS, SamplingOptions(temperature=0, max_new_tokens=NEW)
    )
    tokens = np.zeros((len(PROMPTS), LENGTH), np.int32)
    lengths = np.array([len(prompt) for prompt in PROMPTS])
    for row, prompt in enumerate(PROMPTS):
        tokens[row, : len(prompt)] = prompt
    rows = np.arange(len(PROMPTS))
    for step in range(NEW):
        tokens[rows, lengths + step] = np.argmax(
            whole(family)(tokens)[rows, lengths + step - 1], axis=-1
        )
    for row, result in enumerate(results):
        assert list(result.tokens) == tokens[row, lengths[row] :][:NEW].tolist()
    assert len({token for result in results for token in result.tokens}) > len(PROMPTS)


@pytest.mark.parametrize("family", BOTH)
def test_logits_equal_the_full_forward_however_the_text_is_cut(family):
    """The whole at once, left and right padded, then pieces of one and of three."""
    model, params = built(family)
    tokens = np.random.default_rng(2).integers(61, size=(3, 40)).astype(np.int32)
    expected = whole(family)(tokens)

    @jax.jit
    def step(tokens, positions, cache):
        hidden, cache = model.hidden(params, tokens, positions=positions, cache=cache)
        return model.logits(params, hidden), cache

    places = np.arange(20)
    positions = np.stack([places, places - 6, np.where(places < 14, places, -1)]).astype(np.int32)
    begun = np.array([20, 14, 14])
    logits, cache = step(
        np.take_along_axis(tokens, np.maximum(positions, 0), 1), positions,
        model.init_cache(3, 40),
    )  # fmt: skip
    for row in range(3):
        seen = positions[row] >= 0
        assert relative_error(logits[row][seen], expected[row, : begun[row]]) < 1e-5
    for size in (1, 3, 3, 1):
        positions = begun[:, None] + np.arange(size)
        logits, cache = step(np.take_along_axis(tokens, positions, 1), positions, cache)
        assert relative_error(logits, np.take_along_axis(expected, positions[..., None], 1)) < 1e-5
        begun = begun + size


def test_a_state_is_float32_and_does_not_grow():
    model, _ = built("llama")
    half = models.build(model.config, dtype=jnp.bfloat16)
    short, long = half.init_cache(3, 8), half.init_cache(3, 40)
    assert short["state"].shape == long["state"].shape == (2, 3, 2, 8, 9)
    assert short["state"].dtype == jnp.float32
    assert grow(half, short, 40)["state"].shape == short["state"].shape


@pytest.mark.slow
def test_beams_take_their_states_along():
    model, params = built("gpt2")
    options = BeamOptions(num_beams=3, num_results=3, max_new_tokens=10, early_stopping=True)
    got = continue_prompts(model, params, PROMPTS, options, end_ids=(7,))

    def step(lengths, tokens, count, texts):
        # The whole text again at every step.
        rows = jnp.arange(len(tokens))
        texts = texts.at[0, rows, lengths + count].set(tokens)
        return whole("gpt2")(texts[0])[rows, lengths + count], texts

    lengths = np.array([len(prompt) for prompt in PROMPTS])
    texts = np.zeros((1, len(PROMPTS), LENGTH), np.int32)
    for row, prompt in enumerate(PROMPTS):
        texts[0, row, : len(prompt)] = prompt
    first = whole("gpt2")(texts[0])[np.arange(len(PROMPTS)), lengths - 1]
    expected = beam_search(
        step, jnp.repeat(lengths, 3), first, jnp.asarray(texts), options=options, end_ids=(7,)
    )
    np.testing.assert_array_equal(got.tokens, expected.tokens)
    np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-5)


def test_drafts_and_other_kernels_are_refused():
    linear, params = built("gpt2")
    with pytest.raises(ConfigError, match="leave the draft out"):
        Engine(linear, params, draft=Draft())
    full = models.build(models.parse_config(
        {"family": "gpt2"} | LINEAR | {"attention_pattern": {"kind": "full"}}
    ))  # fmt: skip
    with pytest.raises(ConfigError, match="leave the draft out"):
        Draft(model=linear, params=params).check(full)
    plain = models.build(linear.config, models.Execution(attention="plain"))
    tokens = jnp.zeros((1, 1), jnp.int32)
    with pytest.raises(ConfigError, match="set execution.attention='auto'"):
        plain.hidden(params, tokens, positions=tokens, cache=plain.init_cache(1, 4))
