import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.models import encoder_decoder, seq2seq
from llm_jax.testing import relative_error

SIZES = {
    "family": "seq2seq", "num_encoder_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
    "hidden_size": 32, "mlp_size": 48, "vocab_size": 97, "max_positions": 16,
}  # fmt: skip


def tiny(**changes):
    return models.build(models.parse_config(SIZES | changes))


@functools.cache
def params_of(model):
    return jax.jit(model.init)(jax.random.key(0))


def batch():
    rng = np.random.default_rng(0)
    return {
        "input_ids": rng.integers(2, 97, (2, 10)),
        "decoder_input_ids": rng.integers(2, 97, (2, 8)),
        "attention_mask": np.array([[1] * 10, [1] * 6 + [0] * 4]),
    }


def logits(model, inputs):
    run = jax.jit(lambda p, i: seq2seq.forward(model, p, **i)["logits"])
    return np.asarray(run(params_of(model), inputs))


def test_positions_are_those_of_the_paper():
    got = encoder_decoder.sinusoids(50, 64, 32)
    for position, pair in ((0, 0), (3, 5), (49, 31)):
        angle = position / 10_000 ** (2 * pair / 64)
        assert got[position, pair] == pytest.approx(np.sin(angle), abs=1e-6)
        assert got[position, 32 + pair] == pytest.approx(np.cos(angle), abs=1e-6)


def test_targets_see_no_future_and_no_padding_and_all_of_the_source():
    model, inputs = tiny(), batch()
    before = logits(model, inputs)
    later = {n: np.array(v) for n, v in inputs.items()}
    later["decoder_input_ids"][:, 5:] = 3
    after = logits(model, later)
    np.testing.assert_allclose(after[:, :5], before[:, :5], atol=1e-6)
    assert np.abs(after[:, 5:] - before[:, 5:]).max() > 1e-3
    padding = {n: np.array(v) for n, v in inputs.items()}
    padding["input_ids"][1, 6:] = 5
    np.testing.assert_allclose(logits(model, padding), before, atol=1e-6)
    source = {n: np.array(v) for n, v in inputs.items()}
    source["input_ids"][:, 5] = 7
    assert np.all(np.abs(logits(model, source) - before).max(axis=-1) > 1e-6)


def test_dropout_draws_by_example_and_leaves_evaluation_alone():
    model, inputs = tiny(dropout_rate=0.3, attention_dropout_rate=0.2), batch()
    params = params_of(model)

    @jax.jit
    def run(inputs, ids, key):
        return encoder_decoder.run(model, params, dropout_key=key, example_ids=ids, **inputs)

    key = jax.random.key(1)
    first = run(inputs, jnp.array([4, 9]), key)
    swapped = run({n: v[::-1] for n, v in inputs.items()}, jnp.array([9, 4]), key)
    for name in first:
        assert relative_error(swapped[name][::-1], first[name]) < 1e-6
        other = run(inputs, jnp.array([4, 9]), jax.random.key(2))
        assert relative_error(other[name], first[name]) > 1e-2
    np.testing.assert_array_equal(logits(model, inputs), logits(tiny(), inputs))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"vocab_size": 0}, "model.vocab_size is 0"),
        ({"num_heads": 3}, "model.hidden_size 32 does not divide"),
        ({"hidden_size": 33, "num_heads": 3}, "model.hidden_size is 33"),
        ({"activation": "tanh"}, "model.activation is 'tanh'"),
        ({"dropout_rate": 1.5}, "model.dropout_rate is 1.5"),
    ],
)
def test_impossible_sizes_are_refused(change, named):
    with pytest.raises(ConfigError, match=named):
        models.parse_config(SIZES | change)


def test_a_sequence_beyond_the_positions_is_refused():
    model = tiny()
    long, short = np.zeros((1, 17), np.int32), np.zeros((1, 3), np.int32)
    for source, target in ((long, short), (short, long)):
        inputs = {"input_ids": source, "decoder_input_ids": target}
        with pytest.raises(ConfigError, match="17 tokens is longer than the model's 16"):
            jax.eval_shape(
                lambda p, i=inputs: seq2seq.forward(model, p, **i), model.abstract_params
            )


def test_presets_have_their_published_sizes():
    for name, millions in {"base": 63.1, "big": 214.2}.items():
        model = models.build(models.parse_config({"family": "seq2seq"} | seq2seq.PRESETS[name]))
        assert model.num_params / 1e6 == pytest.approx(millions, abs=0.3)
        flops = model.flops_per_token(64)
        # Every weight but the encoder's half of cross-attention meets one token of the pair.
        assert flops.matmul == pytest.approx(6 * model.num_params, rel=0.03)
