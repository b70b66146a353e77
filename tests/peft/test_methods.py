import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import models, peft
from llm_jax.configuration import ConfigError
from llm_jax.models import build, parse_config
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.parallel.sharding import tree_shardings
from llm_jax.peft import IA3, Bottleneck, Lora
from llm_jax.testing import relative_error

SIZES = {"num_heads": 4, "hidden_size": 32, "mlp_size": 48, "vocab_size": 64}
FAMILIES = {
    "llama": {"family": "llama", "num_kv_heads": 2, "num_layers": 3, "max_positions": 32},
    "gpt2": {"family": "gpt2", "num_layers": 3, "max_positions": 32, "tied_embeddings": False},
    "mixtral": {
        "family": "mixtral", "num_kv_heads": 2, "num_layers": 2, "max_positions": 32,
        "num_experts": 4, "experts_per_token": 2,
    },
    "bert": {"family": "bert", "num_layers": 2, "max_positions": 32},
    "t5": {"family": "t5", "num_encoder_layers": 2, "num_decoder_layers": 2},
    "bart": {
        "family": "bart", "num_encoder_layers": 2, "num_decoder_layers": 2, "max_positions": 32
    },
    "vit": {"family": "vit", "num_layers": 2, "image_size": 8, "patch_size": 4},
}  # fmt: skip
ALL = "attention/(query|key|value|output)|cross/(query|key|value|output)|mlp/(up|down|gate)"
METHODS = {
    "lora": Lora(rank=3, targets=ALL),
    "rslora": Lora(rank=4, alpha=3.0, rank_stabilized=True),
    "dora": Lora(rank=3, targets=ALL, magnitudes=True),
    "ia3": IA3(),
    "houlsby": Bottleneck("houlsby", size=5),
    "pfeiffer": Bottleneck("pfeiffer", size=5, activation="gelu"),
    "parallel": Bottleneck("parallel", size=5, scale=4.0),
}


@functools.cache
def family(name):
    known = {
        field.name for field in dataclasses.fields(models.FAMILIES[FAMILIES[name]["family"]].Config)
    }
    given = {key: value for key, value in SIZES.items() if key in known} | FAMILIES[name]
    return build(parse_config(given))


def moved(tree, seed=7, size=0.2):
    """The tree with noise on every leaf."""
    keys = iter(jax.random.split(jax.random.key(seed), 1000))
    return jax.tree.map(lambda x: x + size * jax.random.normal(next(keys), x.shape), tree)


@functools.cache
def compiled(model):
    """`(params, adapters) -> outputs`, for inputs like the model's example but longer."""
    draw = np.random.default_rng(3)
    inputs = {
        name: draw.integers(0, 64, (2, 7), dtype=np.int32)
        if jnp.issubdtype(value.dtype, jnp.integer)
        else draw.normal(size=(2, *value.shape[1:])).astype(np.float32)
        for name, value in model.family.example_inputs(model.config).items()
    }
    return jax.jit(
        lambda params, adapters: model.apply(
            params if adapters is None else params | {"adapters": adapters}, **inputs
        )
    )


def computed(model, params, adapters=None):
    """What the model gives, as one array."""
    leaves = jax.tree.leaves(compiled(model)(params, adapters))
    leaves = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


@pytest.mark.parametrize("name", METHODS)
def test_at_the_start_nothing_changes_and_then_it_does(name):
    model = family("llama")
    params = moved(model.init(jax.random.key(0)), size=0.1)
    base = computed(model, params)
    grown = peft.adapted(model, (METHODS[name],))
    adapters = grown.grown(params, jax.random.key(1))["adapters"]
    found = computed(grown, params, adapters)
    if name == "dora":
        assert relative_error(found, base) < 1e-6
    else:
        np.testing.assert_array_equal(found, base)
    # Every leaf counts: alone it changes the result, once the others are moved.
    start = moved(adapters)
    leaves, structure = jax.tree.flatten(start)
    reference = computed(grown, params, start)
    assert relative_error(reference, base) > 1e-3
    for index, leaf in enumerate(leaves):
        one = [*leaves[:index], leaf + 0.1, *leaves[index + 1 :]]
        found = computed(grown, params, jax.tree.unflatten(structure, one))
        assert relative_error(found, reference) > 1e-5, index


ONE = [("llama", (name,)) for name in ("lora", "rslora", "dora", "ia3")]
BOTH = [(name, (lora, "ia3")) for name in FAMILIES for lora in ("lora", "dora")]


@pytest.mark.parametrize(("name", "names"), [*ONE, *BOTH])
def test_merged_weights_compute_the_same(name, names):
    model = family(name)
    methods = tuple(METHODS[name] for name in names)
    params = moved(model.init(jax.random.key(0)), size=0.1)
    grown = peft.adapted(model, methods)
    adapters = moved(grown.grown(params, jax.random.key(1))["adapters"], size=0.1)
    want = computed(grown, params, adapters)
    merged = peft.merge(params, adapters, methods)
    assert relative_error(computed(model, merged), want) < 1e-5
    assert relative_error(computed(model, params), want) > 1e-3
    if "dora" in names:
        with pytest.raises(ConfigError, match="DoRA's merging forgets"):
            peft.unmerge(merged, adapters, methods)
        return
    back = peft.unmerge(merged, adapters, methods)
    for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        assert relative_error(np.asarray(one), np.asarray(other)) < 1e-5


def test_what_is_not_linear_is_not_merged():
    with pytest.raises(ConfigError, match="Bottleneck is not linear"):
        peft.merge({}, {}, (Bottleneck(),))


def test_decoding_from_a_cache_with_adapters():
    model = family("llama")
    methods = (Lora(targets=ALL), IA3(), Bottleneck("houlsby"))
    grown = peft.adapted(model, methods)
    params = moved(model.init(jax.random.key(0)), size=0.1)
    params = moved(grown.grown(params, jax.random.key(1)))
    tokens = jax.random.randint(jax.random.key(2), (2, 9), 0, 64)
    whole = jax.jit(lambda tokens: grown.hidden(params, tokens)[0])(tokens)
    step = jax.jit(
        lambda token, place, cache: grown.hidden(
            params, token, positions=jnp.full((2, 1), place), cache=cache
        )
    )
    cache, parts = grown.init_cache(2, 9), []
    for place in range(9):
        part, cache = step(tokens[:, place : place + 1], place, cache)
        parts.append(part)
    assert relative_error(np.concatenate(parts, axis=1), np.asarray(whole)) < 1e-5


def test_a_bottleneck_s_scale_and_where_it_reads():
    model = family("llama")
    params = moved(model.init(jax.random.key(0)), size=0.1)
    params["layers"]["mlp"]["down"]["kernel"] *= 0  # the MLPs add nothing
    base = computed(model, params)

    def changed(adapter, name):
        grown = peft.adapted(model, (adapter,))
        adapters = moved(grown.grown(params, jax.random.key(1))["adapters"])
        own = adapters["layers"]["mlp"]
        own |= {key: 0 * own[key] for key in ("bottleneck_down_bias", "bottleneck_up_bias")}
        own[name] = own[name] + 1.0
        return computed(grown, params, adapters) - base

    # Behind an MLP that gives zeros there is nothing to read; beside it there is.
    for name in ("bottleneck_down", "bottleneck_up"):
        assert np.abs(changed(Bottleneck("pfeiffer"), name)).max() < 1e-6
        assert np.abs(changed(Bottleneck("parallel"), name)).max() > 1e-2
    once, twice = (changed(Bottleneck("pfeiffer", scale=s), "bottleneck_up_bias") for s in (1, 2))
    assert np.abs(twice - once).max() > 1e-2


@pytest.mark.parametrize("axes", [{"fsdp": 2, "tensor": 2}, {"pipe": 2, "data": 2}])
def test_gradients_of_adapters_on_a_mesh(axes):
    model = dataclasses.replace(family("gpt2"))
    config = dataclasses.replace(model.config, num_layers=2)
    model = dataclasses.replace(model, config=config)
    grown = peft.adapted(model, (Lora(targets=ALL, magnitudes=True), Bottleneck("houlsby")))
    params = moved(model.init(jax.random.key(0)), size=0.1)
    adapters = moved(grown.grown(params, jax.random.key(1))["adapters"])
    tokens = jax.random.randint(jax.random.key(2), (4, 8), 0, 64)

    def loss(adapters, params):
        hidden, _ = grown.hidden(params | {"adapters": adapters}, tokens)
        return jnp.sum(jnp.sin(hidden))

    want = jax.jit(jax.grad(loss))(adapters, params)
    mesh = make_mesh(
        MeshConfig(data=axes.get("data", 1), **{k: v for k, v in axes.items() if k != "data"}),
        jax.devices()[:4],
    )
    placed = [
        jax.device_put(tree, tree_shardings(tree, names, mesh))
        for tree, names in (
            (adapters, grown.logical_axes["adapters"]),
            (params, model.logical_axes),
        )
    ]
    with jax.set_mesh(mesh):
        found = jax.jit(jax.grad(loss))(*placed)
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(want))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert np.abs(np.asarray(one) - np.asarray(other)).max() < 1e-5 * scale


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Lora(rank=0), "Lora.rank is 0"),
        (lambda: Bottleneck("houlsbi"), "did you mean 'houlsby'"),
        (lambda: Bottleneck(activation="rele"), "Bottleneck.activation is 'rele'"),
        (lambda: Bottleneck(size=0), "Bottleneck.size is 0"),
        (
            lambda: peft.adapted(family("gpt2"), (Lora(targets="attention/q"),)),
            "no layer of a gpt2",
        ),
        (lambda: peft.adapted(family("gpt2"), (Lora(), Lora())), "Lora is given twice"),
        (lambda: peft.adapted(family("gpt2"), (Lora(targets="uery"),)), "targets is 'uery'"),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        make()
