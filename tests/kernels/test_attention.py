import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.kernels.attention import Mask, Scores, attention, choose, chunked

CASES = {
    "plain_causal": {},
    "odd_length": {"length": 37},
    "segments": {"segments": True},
    "grouped": {"groups": 2},
    "grouped_segments": {"groups": 1, "segments": True},
    "slots": {"keys": 64, "slots": True},
    "window": {"window": 5, "groups": 2},
    "window_slots": {"keys": 64, "slots": True, "window": 20},
    "bidirectional": {"causal": False, "segments": True},
    "cross": {"causal": False, "keys": 21},
    "both_ways_window": {"causal": False, "window": 9, "length": 37},
}
SCORES = {"scaled": Scores(scale=0.7), "capped": Scores(scale=0.7, cap=1.5)}


def inputs(
    dtype, length=48, keys=None, heads=4, groups=4, segments=False, slots=False, window=None,
    causal=True,
):  # fmt: skip
    random = np.random.default_rng(0)
    draw = lambda n, h: jnp.asarray(random.normal(size=(2, n, h, 16)), dtype)  # noqa: E731
    arrays = draw(length, heads), draw(keys or length, groups), draw(keys or length, groups)
    ids = jnp.asarray(np.repeat([[1, 2], [3, 4]], [20, length - 20], axis=1), jnp.int32)
    places = jnp.asarray(np.stack([np.arange(length), np.arange(length) + 7]), jnp.int32)
    near = None if window is None else jnp.int32(window)
    mask = Mask(
        places if slots else None, *((ids, ids) if segments else (None, None)), near, causal=causal
    )
    return arrays, mask, jnp.asarray(random.normal(size=(2, length, heads, 16)), dtype)


def formula(query, key, value, mask, scores=Scores()):
    """Softmax attention in float64 numpy: one loop per query, no masking constant."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros_like(query)
    for b, t, n in np.ndindex(query.shape[:3]):
        place = t if mask.query_positions is None else int(mask.query_positions[b, t])
        slots = np.arange(key.shape[1])
        seen = slots <= place if mask.causal else slots >= 0
        if mask.window is not None:
            seen &= np.abs(slots - place) < int(mask.window)
        if mask.query_segments is not None:
            seen &= np.asarray(mask.key_segments[b]) == int(mask.query_segments[b, t])
        k = n // (query.shape[2] // key.shape[2])
        logits = key[b, seen, k] @ query[b, t, n] * (scores.scale or 0.25)
        if scores.cap:
            logits = scores.cap * np.tanh(logits / scores.cap)
        weights = np.exp(logits)
        out[b, t, n] = weights @ value[b, seen, k] / weights.sum()
    return out


def close(got, expected, tolerance):
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("case", CASES)
def test_plain_is_the_formula(case):
    arrays, mask, _ = inputs(jnp.float32, **CASES[case])
    close(attention(*arrays, mask, implementation="plain"), formula(*arrays, mask), 1e-5)


@pytest.mark.parametrize("name", SCORES)
def test_scale_and_cap_are_the_formula_with_its_gradient(name):
    arrays, mask, direction = inputs(jnp.float32, segments=True, groups=2)
    pulled = []
    for function in (chunked, functools.partial(attention, implementation="plain")):
        out, pull = jax.vjp(lambda *x, f=function: f(*x, mask, SCORES[name]), *arrays)
        close(out, formula(*arrays, mask, SCORES[name]), 1e-5)
        pulled.append(pull(direction))
    for got, expected in zip(*pulled):
        close(got, expected, 1e-5)


def test_a_bias_is_added_to_the_scores_of_its_head():
    (query, key, value), mask, _ = inputs(jnp.float32)
    position = jnp.arange(48)
    # A bias of -1000 behind ten slots is a window of ten.
    far = jnp.where(position[:, None] - position >= 10, -1000.0, 0.0)
    bias = jnp.stack([far, 0 * far, 0 * far, far])[None]
    got = attention(query, key, value, mask, bias=bias)
    near = attention(query, key, value, dataclasses.replace(mask, window=jnp.int32(10)))
    whole = attention(query, key, value, mask)
    close(got, jnp.concatenate([near[:, :, :1], whole[:, :, 1:3], near[:, :, 3:]], axis=2), 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)])
@pytest.mark.parametrize("name", ["chunked", "looped", "xla"])
@pytest.mark.parametrize("case", CASES)
def test_implementations_equal_plain(case, name, dtype, tolerance):
    (query, key, value), mask, direction = inputs(dtype, **CASES[case])

    def run(implementation, *arrays):
        def f(*arrays):
            if implementation == "chunked":
                return chunked(*arrays, mask, chunk=16)
            if implementation == "looped":
                return chunked(*arrays, mask, chunk=4)
            return attention(*arrays, mask, implementation=implementation)

        def both(*arrays):
            out, pull = jax.vjp(f, *arrays)
            return out, *pull(direction.astype(out.dtype))

        return jax.jit(both)(*arrays)

    wide = [x.astype(jnp.float32) for x in (query, key, value)]
    for got, expected in zip(run(name, query, key, value), run("plain", *wide)):
        close(got, expected, tolerance)


def test_choice_is_explicit_or_refused():
    shape = {"platform": "cpu", "query_shape": (2, 64, 4, 16), "dtype": jnp.float32}
    assert choose("auto", **shape) == "chunked"
    assert choose("auto", **shape, cached=True) == "plain"
    assert choose("auto", **shape, dropout=True) == "plain"
    assert choose("xla", **shape) == "xla"
    with pytest.raises(ConfigError, match="cannot drop"):
        choose("chunked", **shape, dropout=True)
    with pytest.raises(ConfigError, match="unknown"):
        choose("flesh", **shape)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [256, 2048])
def test_no_mask_is_made_before_the_layers(length, causal):
    ids = jnp.zeros((1, length), jnp.int32)
    mask = Mask(None, ids, ids, causal=causal)

    def loss(weights, x):
        def layer(x, weight):
            x = x * weight
            return x + chunked(x, x, x, mask), None

        return jax.lax.scan(layer, x, weights)[0].sum()

    program = jax.make_jaxpr(jax.grad(loss))(jnp.ones(2), jnp.ones((1, length, 2, 8))).jaxpr
    assert [equation for equation in program.eqns if equation.primitive.name == "scan"]
    made = [variable.aval for equation in program.eqns for variable in equation.outvars]
    assert not [aval for aval in made if aval.dtype == bool and aval.ndim > 3]
