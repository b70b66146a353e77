"""The TPU's flash kernel, interpreted on a CPU, is the plain reference, gradients included."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.kernels.attention import Mask, Scores, attention, choose, plain
from llm_jax.kernels.flash import SAVED, flash
from llm_jax.kernels.pattern import Pattern
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.testing import relative_error, tiny_model

EVERYTHING = 2**30
# Of several windows the kernel of the one that is given is taken when it runs.
CASES = {
    "all_at_once": {"segments": True, "window": 40, "cap": 1.5, "groups": 1},
    "causal": {},
    "odd_lengths": {"causal": False, "keys": 150},
    "both_ways": {"causal": False, "segments": True, "window": 9},
    "wide_window": {"window": 300, "length": 256},
    "first_of_two": {"window": jnp.int32(40), "windows": (40, EVERYTHING)},
    "second_of_two": {"window": jnp.int32(EVERYTHING), "windows": (40, EVERYTHING)},
}


def error(
    dtype, *, length=200, keys=None, groups=2, heads=4, batch=2, segments=False, window=None,
    windows=(), causal=True, cap=None, mesh=None,
):  # fmt: skip
    """Returns the largest error of the result and of each gradient, relative to its largest."""
    random = np.random.default_rng(0)
    draw = lambda n, h: jnp.asarray(random.normal(size=(batch, n, h, 16)), dtype)  # noqa: E731
    arrays = draw(length, heads), draw(keys or length, groups), draw(keys or length, groups)
    direction, ids = draw(length, heads), None
    if segments:
        ids = jnp.asarray(random.integers(0, 3, (batch, 1)) + np.arange(length) // 70, jnp.int32)
    mask = Mask(None, ids, ids, window, causal=causal, windows=windows)

    def run(function, arrays):
        def both(*arrays):
            out, pull = jax.vjp(lambda *x: function(*x, mask, Scores(cap=cap)), *arrays)
            return out, *pull(direction.astype(out.dtype))

        return jax.jit(both)(*arrays)

    expected = run(plain, [x.astype(jnp.float32) for x in arrays])
    interpreted = functools.partial(flash, interpret=True)
    if mesh is None:
        got = run(interpreted, arrays)
    else:
        with jax.set_mesh(mesh):
            got = run(interpreted, arrays)
    return max(relative_error([g], [e]) for g, e in zip(got, expected))


def test_segments_window_cap_and_grouped_heads_equal_the_plain_reference():
    assert error(jnp.float32, heads=2, batch=1, length=100, **CASES["all_at_once"]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_float32_equals_the_plain_reference(case):
    assert error(jnp.float32, **CASES[case]) < 1e-5


@pytest.mark.slow
def test_bfloat16_equals_the_plain_reference():
    assert error(jnp.bfloat16, **CASES["all_at_once"]) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(
    "axes", [{"data": 2, "fsdp": 2, "tensor": 2}, {"seq": 2, "tensor": 2, "data": 2}], ids=str
)
def test_each_device_of_a_mesh_has_its_rows_and_heads(axes):
    mesh = make_mesh(MeshConfig(**axes))
    assert error(jnp.float32, batch=4, segments=True, groups=1, mesh=mesh) < 1e-5
    assert error(jnp.float32, batch=4, window=40, groups=4, mesh=mesh) < 1e-5


def test_choice_is_by_platform_and_what_it_cannot_do_is_refused_by_name():
    shape = {"platform": "tpu", "query_shape": (2, 256, 4, 16), "dtype": jnp.bfloat16}
    assert choose("auto", **shape) == choose("flash", **shape) == "flash"
    assert choose("auto", **shape, scores=Scores(cap=30.0)) == "flash"
    assert choose("auto", **shape | {"query_shape": (2, 64, 4, 16)}) == "chunked"
    assert choose("flash", **shape, cached=True) == choose("auto", **shape, cached=True)
    others = {
        "the platform 'gpu'": {"platform": "gpu"},
        "float16": {"dtype": jnp.float16},
        "ALiBi": {"scores": Scores(alibi=True)},
        "a block-sparse pattern": {"pattern": Pattern("block_sparse")},
        "a window that is computed": {"known_window": False},
    }
    for words, change in others.items():
        assert choose("auto", **shape | change) in ("chunked", "cudnn")
        with pytest.raises(ConfigError, match=f"'flash' is not for {words}"):
            choose("flash", **shape | change)
    with pytest.raises(ConfigError, match="cannot drop"):
        choose("flash", **shape, dropout=True)
    query = jnp.zeros((1, 128, 2, 16))
    with pytest.raises(ConfigError, match="the platform 'cpu'"):
        attention(query, query, query, Mask(), implementation="flash")


def tpu_mesh():
    device = jax.sharding.AbstractDevice("TPU v6 lite", 1, "tpu")
    return jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh((1,), ("tensor",), abstract_device=device)
    )


def test_the_active_mesh_says_the_platform_whatever_runs_here():
    model = tiny_model(num_layers=1, max_positions=128)
    mixture = {"family": "mixtral", "hidden_size": 32, "num_heads": 2, "num_layers": 1}
    assert model.kernels(2, 128) == {"attention": "chunked"}
    with tpu_mesh():
        assert model.kernels(2, 128) == {"attention": "flash"}
        chosen = models.build(models.parse_config(mixture)).kernels(2, 128)
    assert chosen == {"attention": "flash", "experts": "megablox"}


@pytest.mark.parametrize(
    ("choices", "kernels"),
    [
        ({"family": "gpt2"}, 1),
        ({"family": "llama"}, 1),
        ({"family": "llama", "layer_types": ("sliding_attention", "full_attention")}, 2),
    ],
    ids=str,
)
def test_a_model_with_windows_has_a_kernel_for_each(choices, kernels):
    sizes = {"hidden_size": 32, "num_heads": 2, "num_layers": 2, "window": 50}
    model = models.build(models.parse_config(sizes | choices))
    tokens = jnp.zeros((1, 128), jnp.int32)
    with tpu_mesh():
        traced = jax.make_jaxpr(lambda p: model.hidden(p, tokens)[0])(model.abstract_params)
    assert str(traced).count("pallas_call[") == kernels


def test_new_parameters_need_no_kernel(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    sizes = {"hidden_size": 32, "num_heads": 2, "num_layers": 1}
    model = models.build(models.parse_config({"family": "mixtral"} | sizes))
    assert model.kernels(2, 128)["experts"] == "megablox"
    assert "pallas_call" not in str(jax.make_jaxpr(model.init)(jax.random.key(0)))


@pytest.mark.parametrize(("remat", "kept"), [("dots", True), ("full", False)])
def test_a_policy_that_keeps_products_keeps_the_kernels_result(remat, kept):
    sizes = {"family": "llama", "hidden_size": 32, "num_heads": 2, "num_layers": 2}
    model = models.build(models.parse_config(sizes), models.Execution(remat=remat))
    tokens = jnp.zeros((1, 128), jnp.int32)

    def loss(params):
        return jnp.sum(model.hidden(params, tokens)[0])

    with tpu_mesh():
        traced = str(jax.make_jaxpr(jax.grad(loss))(model.abstract_params))
    # The result and its log-normalizers have a name where they are made: in the backward pass the
    # log-normalizers are made again, or nothing is.
    assert traced.count(f"name={SAVED}") == (2 if kept else 3)


def test_a_mask_keeps_its_windows_as_it_travels():
    mask = Mask(window=7)
    leaves, treedef = jax.tree.flatten(mask)
    assert treedef.unflatten(leaves).windows == (7,)
    assert dataclasses.replace(mask, window=jnp.int32(7)).windows == (7,)
    assert Mask(window=jnp.int32(7)).windows == ()
