"""What the encoders of texts and images have in common: meshes, dropout, precision, arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import models
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.parallel.sharding import tree_shardings
from llm_jax.testing import relative_error

pytestmark = pytest.mark.slow

TOWER = {"num_layers": 2, "num_heads": 4, "hidden_size": 32, "mlp_size": 64}
CONFIGS = {
    "bert": TOWER
    | {"vocab_size": 97, "max_positions": 16, "head": "masked_lm", "dropout_rate": 0.2},
    "vit": TOWER
    | {
        "image_size": 16,
        "patch_size": 4,
        "num_registers": 3,
        "mask_token": True,
        "layer_scale": 0.5,
        "head": "classification",
        "dropout_rate": 0.2,
    },
    "clip": {
        "text": TOWER | {"vocab_size": 97, "max_positions": 16, "attention_dropout_rate": 0.2},
        "image": TOWER | {"image_size": 16, "patch_size": 4, "attention_dropout_rate": 0.2},
        "kind": "siglip",
        "projection_size": None,
    },
}
TEXT, IMAGE = ("bert", "clip"), ("vit", "clip")


def inputs_of(family, rows=4):
    rng = np.random.default_rng(0)
    inputs = {}
    if family in TEXT:
        inputs["input_ids"] = rng.integers(0, 97, (rows, 12))
        inputs["attention_mask"] = (np.arange(12) < rng.integers(5, 12, (rows, 1))).astype(int)
    if family in IMAGE:
        inputs["pixel_values"] = rng.standard_normal((rows, 3, 16, 16)).astype(np.float32)
    return inputs


def built(family, **changes):
    config = models.parse_config({"family": family} | CONFIGS[family])
    model = models.build(config, **changes)
    params = model.init(jax.random.key(0))
    rng = np.random.default_rng(1)
    return model, jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape, np.float32), params)


def run(model, params, **inputs):
    forward = jax.jit(lambda params, inputs: model.family.forward(model, params, **inputs))
    return forward(params, inputs)


@pytest.mark.parametrize("family", CONFIGS)
def test_any_mesh_gives_the_outputs_of_one_device(family):
    model, params = built(family)
    inputs = inputs_of(family)
    expected = run(model, params, **inputs)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    shardings = tree_shardings(model.abstract_params, model.logical_axes, mesh)
    with jax.set_mesh(mesh):
        got = run(model, jax.device_put(params, shardings), **inputs)
    assert got.keys() == expected.keys()
    for name in expected:
        assert relative_error(got[name], expected[name]) < 1e-5, name


@pytest.mark.parametrize("family", CONFIGS)
def test_dropout_is_drawn_by_example(family):
    model, params = built(family)
    inputs = inputs_of(family)
    key, ids = jax.random.key(3), np.arange(4) + 5
    whole = run(model, params, dropout_key=key, example_ids=ids, **inputs)
    order = np.array([2, 0, 3, 1])
    moved = {name: value[order] for name, value in inputs.items()}
    moved = run(model, params, dropout_key=key, example_ids=ids[order], **moved)
    for name in {"text_embeds", "image_embeds", "last_hidden_state"} & whole.keys():
        np.testing.assert_allclose(moved[name], whole[name][order], rtol=0, atol=1e-5)
    plain = run(model, params, **inputs)
    for name in plain:
        assert relative_error(whole[name], plain[name]) > 1e-3, name


@pytest.mark.parametrize("family", CONFIGS)
def test_execution_and_precision_leave_the_outputs(family):
    model, params = built(family)
    inputs = inputs_of(family)
    expected = run(model, params, **inputs)
    execution = models.Execution(attention="plain", remat="full", unroll=0)
    for changes, bound in (({"execution": execution}, 1e-5), ({"dtype": jnp.bfloat16}, 5e-2)):
        got = run(built(family, **changes)[0], params, **inputs)
        for name in expected:
            assert relative_error(got[name], expected[name]) < bound, (name, changes)


@pytest.mark.parametrize("family", CONFIGS)
def test_flops_count_every_matrix(family):
    model, params = built(family)
    length = {"bert": 12, "vit": 16, "clip": 16}[family]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    once = ("pooler", "head'", "projection", "pool_")
    weights = {"text": 0, "image": 0}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path)
        if name.endswith("['kernel']") and not (
            any(part in name for part in once) and "patches" not in name
        ):
            weights["image" if "'image'" in name else "text"] += leaf.size
    total = weights["text"]
    towers = 1
    if family == "bert":
        total += params["embedding"]["table"].size
    if family == "clip":
        # As many patches as tokens: an image costs a text what its weights do.
        total += weights["image"]
        towers = 2
    expected = 6.0 * total + 12.0 * towers * 2 * 32 * length
    assert model.flops_per_token(length).total == expected
